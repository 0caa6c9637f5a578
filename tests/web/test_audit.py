"""The audit log: what matters is on record before it is answered, who is turned away is told in few entries, and
whatever is done to it later is found."""

import asyncio
import hashlib
import json
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from getpass import getuser
from signal import SIGHUP
from time import monotonic

import pytest
from aiohttp import ClientSession, TCPConnector
from attrs import fields

from dispatcher.audit import AuditEntry
from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, Api, connected, on_record, until
from web.route import AUDITED
from web.routes import ROUTES

ON_EVERY_RECORD = True

AUDIT = "/api/v1/audit"
KEYS = "/api/v1/keys"
SECRET = "the-key-of-the-setting-which-nobody-may-read"
NO_TASK = "0197a3c0-7b1e-7c3a-9d52-3f6a8e1b2c4d"
FLOOD = 20_000


@pytest.fixture(scope="module")
def locked(tmp_path_factory, record):
    """A server for which one needs a key."""
    running = ServerProcess(
        tmp_path_factory.mktemp("locked"), environ={"API_SECRET_KEY": SECRET}, record=record
    ).start()
    yield running
    if running.process.poll() is None:
        running.terminate()


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
async def admin(locked):
    async with connected(locked, **bearer(SECRET)) as caller:
        yield caller


async def entries(api: Api, **query):
    """Oldest first."""
    return (await api.get(AUDIT, **{"limit": 1000, **query})).data["audit"][::-1]


async def last_number(api: Api):
    found = (await api.get(AUDIT, limit=1)).data["audit"]
    return found[0]["number"] if found else 0


async def since(api: Api, number, **query):
    return (await api.get(AUDIT, after=number, limit=1000, **query)).data["audit"]


async def made_key(admin: Api, name, *scopes, **more):
    return (await admin.post(KEYS, {"name": name, "scopes": list(scopes), **more})).data["key"]


def rows(server):
    """Every text that the log holds, by a way of its own."""
    return on_record(server, "select * from audit order by number")


# What is done


async def test_an_entry_tells_who_did_what_from_where_and_what_came_of_it(admin):
    before = await last_number(admin)
    secret = await made_key(admin, "ann", "operate", "submit", work_directories=["/srv/*"])
    (made,) = await since(admin, before)
    assert made["number"] == before + 1
    told = {name: made[name] for name in ("who", "address", "action", "target", "outcome")}
    assert told == {
        "who": "api_key",
        "address": "127.0.0.1",
        "action": "keys_create",
        "target": "ann",
        "outcome": "ok",
    }
    assert made["details"] == {"scopes": ["operate", "submit"], "work_directories": ["/srv/*"], "expires_at": None}
    headers = {**bearer(secret), "X-Request-Id": "mine-1"}
    task = (await admin.call("POST", TASKS, json={"work_directory": "/srv/a", "prompt": "x"}, headers=headers)).data
    path = f"{TASKS}/{task['task_id']}/cancel"
    assert (await admin.call("POST", path, json={"reason": "no\nmore"}, headers=headers)).status == 200
    assert (await admin.call("POST", path, json={}, headers=headers)).status == 409
    done, again = await since(admin, made["number"])
    assert (done["who"], done["action"], done["target"], done["outcome"]) == (
        "ann",
        "tasks_cancel",
        task["task_id"],
        "ok",
    )
    assert (done["request_id"], done["details"]) == ("mine-1", {"force": False, "reason": "no\\nmore"})
    assert (again["outcome"], again["target"]) == ("INVALID_STATE", task["task_id"])
    await admin.call("DELETE", f"{KEYS}/ann")


AUDITED_ROUTES = [route for route in ROUTES if route.is_audited]
BODIES = {
    "/api/v1/tasks/cancel": {"ids": [NO_TASK]},
    "/api/v1/tasks/retry": {"ids": [NO_TASK]},
    "/api/v1/tasks/delete": {"ids": [NO_TASK]},
    "/api/v1/tasks/priority": {"ids": [NO_TASK], "priority": "low"},
    KEYS: {"name": "made", "scopes": ["read"]},
    "/api/v1/config": {"changes": {"task.max_task_retries": 5}},
    "/api/v1/config/rollback": {"version": 0},
    "/api/v1/session": {"key": SECRET},
}


def named(route):
    return f"{route.method} {route.path}"


def test_whatever_takes_a_key_to_operate_or_administer_is_audited():
    for route in ROUTES:
        assert route.is_audited == (
            (route.method != "GET" and route.scope in AUDITED) or named(route) == "POST /api/v1/session"
        ), named(route)
    assert len(AUDITED_ROUTES) >= 17


@pytest.mark.parametrize("route", AUDITED_ROUTES, ids=named)
@pytest.mark.parametrize("is_sane", [True, False], ids=["sane", "insane"])
async def test_every_sensitive_request_leaves_one_entry(admin, route, is_sane):
    """Whether it is done or not; but none where the caller was turned away, which is told otherwise."""
    path = route.path.replace("{task_id}", NO_TASK).replace("{name}", "made")
    query = "?path=/srv/a" if "work-directories" in path else ""
    body = BODIES.get(route.path, {}) if is_sane else {"no such field": 1}
    before = await last_number(admin)
    request_id = f"one-{before}"
    answer = await admin.call(route.method, path + query, json=body, headers={"X-Request-Id": request_id})
    (told,) = [it for it in await since(admin, before) if it["request_id"] == request_id]
    assert told["outcome"] == ("ok" if answer.status < 300 else answer.json["error"]["code"])
    assert (told["who"], told["address"]) == (
        "api_key" if route.path != "/api/v1/session" or is_sane else None,
        "127.0.0.1",
    )
    assert told["action"] == told["action"].strip("_") != "access"
    assert route.path == "/api/v1/session" or is_sane or answer.status in (400, 404)


async def test_reading_leaves_none(admin):
    before = await last_number(admin)
    for route in ROUTES:
        if route.method == "GET" and "stream" not in route.path and "event" not in route.path:
            await admin.get(route.path.replace("{task_id}", NO_TASK))
    assert [it for it in await since(admin, before) if it["action"] != "access"] == []


async def test_work_leaves_none(admin, directory):
    before = await last_number(admin)
    task = await admin.claimed(directory)
    assert (await admin.tell(task, "complete")).status == 200
    assert await since(admin, before) == []


async def test_many_are_one_entry_with_their_numbers(admin, directory):
    for _ in range(3):
        await admin.create(directory)
    before = await last_number(admin)
    only = {"work_directory": [directory], "q": "Tidy"}
    assert (await admin.post(f"{TASKS}/cancel", {"filter": only, "reason": "enough"})).data["changed"] == 3
    (told,) = await since(admin, before)
    assert told["details"] == {
        "reason": "enough",
        "dry_run": False,
        "filter": {"work_directory": [directory], "q": "...", "tag_mode": "all"},
        "all": False,
        "matched": 3,
        "changed": 3,
    }


async def test_settings_are_named_without_their_values(admin):
    before = await last_number(admin)
    changes = {"webhooks.secret": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "task.max_task_retries": 7}
    await admin.call("PATCH", "/api/v1/config", json={"changes": changes, "reason": "why not"})
    (told,) = await since(admin, before)
    assert told["details"]["settings"] == ["task.max_task_retries", "webhooks.secret"]
    assert "c2VjcmV0" not in json.dumps(told)


async def test_a_caller_who_leaves_does_not_escape(admin, directory):
    """What was asked for may have been done."""
    task = await admin.create(directory)
    before = await last_number(admin)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(admin.url.rpartition(":")[2]))
    head = f"POST {TASKS}/{task['task_id']}/cancel HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
    writer.write(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
    await asyncio.sleep(0)
    writer.transport.abort()
    del reader

    async def told():
        return await since(admin, before)

    (entry,) = await until(told)
    assert (entry["action"], entry["target"]) == ("tasks_cancel", task["task_id"])
    assert entry["outcome"] in ("ok", "unknown")


# Who is turned away


async def turned_away(api: Api, number, kinds=1):
    async def told():
        found = [it for it in await since(api, number) if it["action"] == "access"]
        return found if len(found) >= kinds else None

    return await until(told)


@asynccontextmanager
async def a_server_of_ones_own(tmp_path, record, **environ):
    running = ServerProcess(tmp_path, environ={"API_SECRET_KEY": SECRET, **environ}, record=record).start()
    try:
        async with connected(running, **bearer(SECRET)) as caller:
            yield running, caller
    finally:
        if running.process.poll() is None:
            running.terminate()


async def test_who_is_turned_away_is_told_once_for_many_times(tmp_path, own_record):
    async with a_server_of_ones_own(tmp_path, own_record) as (server, admin):
        before = await last_number(admin)
        for n in range(20):
            wrong = await admin.call("GET", TASKS, headers=bearer(f"wrong-{n}"))
            wrong.refused(401, "UNAUTHORIZED")
        secret = await made_key(admin, "reader", "read")
        for _ in range(5):
            (await admin.call("POST", KEYS, json={}, headers=bearer(secret))).refused(403, "FORBIDDEN")
        (await admin.call("POST", "/api/v1/session", json={"key": "wrong-21"})).refused(401, "UNAUTHORIZED")
        told = await turned_away(admin, before, kinds=2)
        assert [(it["who"], it["outcome"], it["address"]) for it in told] == [
            (None, "UNAUTHORIZED", "127.0.0.1"),
            ("reader", "FORBIDDEN", "127.0.0.1"),
        ]
        assert told[0]["details"]["operations"][0] == "GET /api/v1/tasks"
        assert told[1]["details"]["operations"] == ["POST /api/v1/keys"]
        assert told[1]["details"]["reason"] == "this takes a key with the scope admin"
        assert server.terminate() == 0  # the rest of them are told now, at the latest
        server.start()
        async with connected(server, **bearer(SECRET)) as again:
            told = [it for it in await since(again, before) if it["action"] == "access"]
        assert sum(it["details"]["count"] for it in told if it["outcome"] == "UNAUTHORIZED") == 21
        assert sum(it["details"]["count"] for it in told if it["outcome"] == "FORBIDDEN") == 5
        assert len(told) <= 4
    assert not any("wrong-" in str(value) for row in rows(server) for value in row)


async def test_a_flood_of_wrong_keys_leaves_few_entries_and_a_responsive_server(tmp_path, own_record):
    async with a_server_of_ones_own(tmp_path, own_record) as (server, admin):
        numbers, slowest = iter(range(FLOOD)), 0.0

        async def flood(session):
            for n in numbers:
                async with session.get(server.url + TASKS, headers=bearer(f"wrong-{n}")) as answer:
                    assert answer.status in (401, 429)

        async with ClientSession(connector=TCPConnector(limit=0)) as session:
            flooding = asyncio.gather(*(flood(session) for _ in range(20)))
            while not flooding.done():
                began = monotonic()
                assert (await admin.get("/health/live")).status == 200
                slowest = max(slowest, monotonic() - began)
                await asyncio.sleep(0.05)
            await flooding
        assert slowest < 1  # with the flood on the same two cores
        told = [it for it in await entries(admin) if it["action"] == "access"]
        assert 1 <= len(told) <= 4
        counted = (await admin.get("/metrics")).content.decode()
        assert f"audit_refusals_total {float(FLOOD)}" in counted


async def test_nothing_secret_is_in_the_log(tmp_path, own_record):
    async with a_server_of_ones_own(tmp_path, own_record) as (server, admin):
        secrets = [SECRET, "wrong-key-1", "wrong-key-2", await made_key(admin, "bob", "work", "read", "admin")]
        await admin.call("GET", TASKS, headers=bearer("wrong-key-1"))
        await admin.call("GET", TASKS + "?token=wrong-key-2", headers={"X-API-Key": "wrong-key-2"})
        cookie = await admin.call("POST", "/api/v1/session", json={"key": secrets[-1]})
        value = cookie.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        await admin.post(KEYS, {"name": secrets[-1], "scopes": ["wrong-key-1"]})
        (await admin.call("POST", "/api/v1/session", json={"key": "wrong-key-1"})).refused(401, "UNAUTHORIZED")
        server.terminate()
        hashes = [hashlib.sha256(secret.encode()).hexdigest() for secret in secrets]
        text = "\n".join(str(row) for row in rows(server))
        log = server.log.read_text()
        assert "keys_open" in text
        for secret in (*secrets, *hashes, value, value.rpartition(".")[2]):
            assert secret not in text
            assert secret not in log


async def test_no_text_of_a_caller_breaks_a_line(admin, locked):
    before = await last_number(admin)
    evil = "%0Anumber%3D1%1b%5b31m%e2%80%ae"
    (await admin.call("DELETE", f"{KEYS}/{evil}")).refused(404, "NOT_FOUND")
    (told,) = await since(admin, before)
    assert told["target"] == "\\nnumber=1\\x1b[31m\\u202e"


# Its pages


async def test_pages_go_down_from_the_newest_or_up_from_any(admin):
    for n in range(5):
        await admin.call("DELETE", f"{KEYS}/none-{n}")
    page = (await admin.get(AUDIT, limit=3)).data
    numbers = [it["number"] for it in page["audit"]]
    assert numbers == [numbers[0], numbers[0] - 1, numbers[0] - 2]
    assert (page["next_before"], page["next_after"]) == (numbers[-1], numbers[0])
    below = (await admin.get(AUDIT, limit=1000, before=numbers[-1])).data
    assert below["audit"][0]["number"] == numbers[-1] - 1
    assert (below["audit"][-1]["number"], below["next_before"]) == (1, None)
    above = (await admin.get(AUDIT, after=numbers[-1])).data
    assert [it["number"] for it in above["audit"]] == numbers[1::-1]
    nothing = (await admin.get(AUDIT, after=numbers[0])).data
    assert nothing == {"audit": [], "next_after": numbers[0], "next_before": None}


async def test_a_filter_narrows(admin):
    await admin.call("DELETE", f"{KEYS}/nobody")
    found = await entries(admin, action="keys_revoke,other", outcome="NOT_FOUND", who="api_key")
    assert found
    assert {(it["action"], it["outcome"], it["who"]) for it in found} == {("keys_revoke", "NOT_FOUND", "api_key")}
    last = found[-1]["at"]
    assert (await entries(admin, action="keys_revoke", outcome="NOT_FOUND", to=found[0]["at"])) == []
    assert last in [it["at"] for it in await entries(admin, **{"from": last})]
    assert (await admin.get(AUDIT, after=1, before=2)).faults() == ["before"]
    assert (await admin.get(AUDIT, limit=0)).faults() == ["limit"]
    assert (await admin.get(AUDIT, what=1)).faults() == ["what"]


async def test_only_an_administrator_reads_it(admin):
    secret = await made_key(admin, "nosy", "submit", "work", "read", "operate", "payload")
    for path in (AUDIT, f"{AUDIT}/verify"):
        (await admin.call("GET", path, headers=bearer(secret))).refused(403, "FORBIDDEN")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            (await admin.call(method, path)).refused(405, "METHOD_NOT_ALLOWED")
    await admin.call("DELETE", f"{KEYS}/nosy")


# The chain


def digest(entry):
    """As whoever reads the documentation does it."""
    details = entry["details"]
    at = entry["at"]
    told = [entry["number"], at, *(entry[name] for name in ("who", "address", "action", "target", "outcome"))]
    told += [entry["request_id"], details, entry["previous_hash"]]
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


COLUMNS = [field.name for field in fields(AuditEntry)]


async def test_everybody_can_compute_the_hashes(locked, admin):
    await admin.call("DELETE", f"{KEYS}/ünknown")
    if locked.record.startswith("sqlite"):
        told = [dict(zip(COLUMNS, row, strict=True)) for row in rows(locked)]
    else:
        shown = on_record(locked, "select row_to_json(audit) from audit order by number")
        told = [json.loads("|".join(row)) for row in shown]
    assert [it["number"] for it in told] == list(range(1, len(told) + 1))
    previous = "0" * 64
    for entry in told:
        assert entry["previous_hash"] == previous
        assert entry["hash"] == digest(entry) == digest(entry)
        previous = entry["hash"]
    shown = await entries(admin)
    assert [it["hash"] for it in shown] == [it["hash"] for it in told]


async def test_tampering_is_found_over_the_api_and_from_the_shell(tmp_path, own_record):
    async with a_server_of_ones_own(tmp_path, own_record) as (server, admin):
        for n in range(5):
            await admin.call("DELETE", f"{KEYS}/none-{n}")
        whole = (await admin.get(f"{AUDIT}/verify")).data
        assert whole["verified"]
        assert (whole["entries"], whole["broken"]) == (whole["head"]["number"], None)
        head = f"{whole['head']['number']}:{whole['head']['hash']}"
        assert (await admin.get(f"{AUDIT}/verify", head=head)).data["verified"]
        assert (await admin.get(f"{AUDIT}/verify", head="7")).faults() == ["head"]
        later = f"{whole['head']['number'] + 1}:{'a' * 64}"
        assert (await admin.get(f"{AUDIT}/verify", head=later)).data["broken"]["number"] == whole["head"]["number"] + 1
        assert shell(server, "verify", "--head", head, "--json")[0] == 0
        assert shell(server, "verify", "--database", server.record, "--head", head)[0] == 0
        tamper(server, "update audit set who = 'eve' where number = 3")
        found = (await admin.get(f"{AUDIT}/verify")).data
        assert (found["verified"], found["entries"], found["broken"]["number"]) == (False, 2, 3)
        code, said = shell(server, "verify")
        assert code == 1
        assert "entry 3 does not hold" in said
        server.terminate()
        code, said = shell(server, "verify", "--database", server.record, "--json")
        assert (code, json.loads(said)) == (1, found)


def tamper(server, *statements):
    triggers = ("audit_grows_at_its_end", "audit_is_not_changed", "audit_is_not_removed")
    disarm = [f"drop trigger {name}" for name in triggers]
    if server.record.startswith("postgres"):
        disarm = ["alter table audit disable trigger all"]
        for statement in (*disarm, *statements):
            on_record(server, statement)
        return
    with closing(sqlite3.connect(server.database, isolation_level=None)) as db:
        for statement in (*disarm, *statements):
            db.execute(statement)


def shell(server, *words):
    command = [sys.executable, "-m", "task_orchestrator", "audit", *words]
    if "--database" not in words:
        command += ["--url", server.url, "--api-key", SECRET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_the_shell_lists_it(locked, admin):
    await admin.call("DELETE", f"{KEYS}/unheard-of")
    code, said = await asyncio.to_thread(shell, locked, "--limit", "1", "--json")
    assert code == 0
    assert json.loads(said)["target"] == "unheard-of"
    code, said = await asyncio.to_thread(shell, locked, "--action", "keys_revoke", "--outcome", "NOT_FOUND")
    assert code == 0
    assert "unheard-of" in said


async def test_a_server_that_is_killed_leaves_a_whole_chain(tmp_path, own_record):
    """And whatever was answered is in it."""
    answered = []
    async with a_server_of_ones_own(tmp_path, own_record) as (server, admin):

        async def steer(worker):
            for n in range(10_000):
                name = f"{worker}-{n}"
                (await admin.call("DELETE", f"{KEYS}/{name}")).refused(404, "NOT_FOUND")
                answered.append(name)

        steering = [asyncio.create_task(steer(worker)) for worker in range(10)]
        await until(lambda: len(answered) > 100)
        server.kill()
        await asyncio.gather(*steering, return_exceptions=True)
        server.start()
        async with connected(server, **bearer(SECRET)) as again:
            assert (await again.get(f"{AUDIT}/verify")).data["verified"]
        targets = on_record(server, "select target from audit where action = 'keys_revoke'")
        assert set(answered) <= {target for (target,) in targets}
        assert len(targets) == len(set(targets))
        starts = on_record(server, "select action from audit where action like 'server_%'")
        assert len(starts) == 2  # the first was not stopped


async def test_the_start_and_the_stop_of_a_server_and_a_reload_are_told(tmp_path, own_record):
    settings = tmp_path / "settings.toml"
    settings.write_text("[task]\nmax_task_retries = 4\n")
    server = ServerProcess(tmp_path, "--config", str(settings), record=own_record).start()
    settings.write_text("[task]\nmax_task_retries = 5\n")
    server.process.send_signal(SIGHUP)
    async with connected(server) as api:

        async def told():
            return await entries(api, action="config_reload")

        (reload,) = await until(told)
        assert (reload["outcome"], reload["details"]["by"]) == ("ok", "SIGHUP")
        settings.write_text("[task]\nmax_task_retries = 'many'\n")
        server.process.send_signal(SIGHUP)

        async def refused():
            return len(await told()) == 2

        await until(refused)
        assert [it["outcome"] for it in await told()] == ["ok", "VALIDATION_ERROR"]
    server.terminate()
    actions = [action for (action,) in on_record(server, "select action from audit order by number")]
    assert actions == ["server_start", "config_reload", "config_reload", "server_stop"]


def test_the_first_key_and_keys_made_without_a_server_are_told(tmp_path, own_record):
    file = tmp_path / "first.key"
    server = ServerProcess(tmp_path, "--initial-key-file", str(file), record=own_record).start()
    server.terminate()
    command = [sys.executable, "-m", "task_orchestrator", "keys", "create", "ann", "--scopes", "read"]
    done = subprocess.run([*command, "--database", server.record], capture_output=True, text=True, check=True)
    told = on_record(
        server, "select who, target, outcome, details from audit where action = 'keys_create' order by number"
    )
    (first, second) = [(who or None, target, outcome) for who, target, outcome, _ in told]
    assert first == (None, "admin", "ok")
    assert second == (f"user {getuser()}", "ann", "ok")
    assert json.loads(told[1][3])["scopes"] == ["read"]
    for secret in (file.read_text().strip(), done.stdout.split()[-1]):
        assert not any(secret in str(value) for row in rows(server) for value in row)


@pytest.mark.once
async def test_two_servers_write_one_chain(pair, here, there):
    """At once, and each reads what the other has done."""
    first = await last_number(here)
    names = [f"none-{n}" for n in range(100)]
    callers = (here, there)
    await asyncio.gather(*(callers[n % 2].call("DELETE", f"{KEYS}/{name}") for n, name in enumerate(names)))
    told = await since(there, first)
    assert [it["number"] for it in told] == list(range(first + 1, first + 101))
    assert sorted(it["target"] for it in told) == sorted(names)
    assert await since(here, first) == told
    assert (await here.get(f"{AUDIT}/verify")).data["verified"]


# The log


@pytest.mark.once
async def test_every_entry_is_a_line_of_the_log_whatever_its_level(tmp_path, own_record):
    async with a_server_of_ones_own(tmp_path, own_record, LOG_LEVEL="critical", LOG_FORMAT="json") as (server, admin):
        await admin.call("DELETE", f"{KEYS}/nobody", headers={"X-Request-Id": "mine-2"})
        head = (await admin.get(f"{AUDIT}/verify")).data["head"]
        server.terminate()
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert [line["action"] for line in lines] == ["server_start", "keys_revoke", "server_stop"]
        (told,) = [line for line in lines if line["action"] == "keys_revoke"]
        del told["timestamp"]
        assert told == {
            "level": "info",
            "logger": "audit",
            "event": "audit",
            "number": head["number"],
            "hash": head["hash"],
            "action": "keys_revoke",
            "outcome": "NOT_FOUND",
            "who": "api_key",
            "address": "127.0.0.1",
            "request_id": "mine-2",
        }


# Where it cannot be written


async def test_what_matters_is_not_done_while_the_log_cannot_be_written(tmp_path, own_record):
    """What was done before that was known is said so, and is on record once it can be."""
    async with a_server_of_ones_own(tmp_path, own_record, APP_DATABASE_TIMEOUT_SECONDS="1") as (server, admin):
        guard(server)
        made = await admin.post(KEYS, {"name": "first", "scopes": ["read"]})
        assert "it is done" in made.json["error"]["message"]
        made.refused(502, "DATABASE_ERROR")
        assert [key["name"] for key in (await admin.get(KEYS)).data["keys"]] == ["first"]
        refused = await admin.post(KEYS, {"name": "second", "scopes": ["read"]})
        refused.refused(503, "UNAVAILABLE")
        assert [key["name"] for key in (await admin.get(KEYS)).data["keys"]] == ["first"]
        assert (await admin.create("/srv/a"))["status"] == "waiting"  # the rest goes on
        unguard(server)

        async def made_now():
            return (await admin.post(KEYS, {"name": "second", "scopes": ["read"]})).status == 201

        await until(made_now)
        told = await entries(admin, action="keys_create", outcome="ok")
        assert [it["target"] for it in told] == ["first", "second"]
        assert (await admin.get(f"{AUDIT}/verify")).data["verified"]


def guard(server):
    """Nothing can be added any more."""
    if server.record.startswith("postgres"):
        on_record(
            server,
            "create function no() returns trigger language plpgsql as 'begin raise exception ''no''; end';"
            " create trigger z before insert on audit for each row execute function no()",
        )
    else:
        on_record(server, "create trigger z before insert on audit begin select raise(abort, 'no'); end", mode="rw")


def unguard(server):
    on_record(
        server, "drop trigger z on audit" if server.record.startswith("postgres") else "drop trigger z", mode="rw"
    )
