"""Keys: how they are made and revoked, and what each lets its caller do and see."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientError

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, Events, connected, on_record, raw, text_of, until
from web.access.door import is_open
from web.routes import ROUTES

ON_EVERY_RECORD = True

ADMIN = "the-key-that-is-a-setting"
KEYS = "/api/v1/keys"
DIRECTORIES = "/api/v1/work-directories"
NEVER = "/never/mine"


@pytest.fixture(scope="module")
def locked(tmp_path_factory, record):
    server = ServerProcess(tmp_path_factory.mktemp("keys"), environ={"API_SECRET_KEY": ADMIN}, record=record).start()
    server.keys = {}  # with one scope each
    yield server
    assert server.terminate() == 0


@pytest.fixture
async def admin(locked):
    async with connected(locked, Authorization=f"Bearer {ADMIN}") as api:
        yield api


@pytest.fixture
def name(directory):
    """Of a key that no other test uses."""
    return directory.strip("/").replace("/", ".")


async def made(admin, name, *scopes, **fields):
    return (await admin.post(KEYS, {"name": name, "scopes": scopes, **fields})).data


@asynccontextmanager
async def caller(locked, admin, name, *scopes, **fields):
    key = (await made(admin, name, *scopes, **fields))["key"]
    async with connected(locked, Authorization=f"Bearer {key}") as api:
        yield api


async def listed(admin, name):
    return [key for key in (await admin.get(KEYS)).data["keys"] if key["name"] == name]


async def revoke(admin, name):
    return await admin.call("DELETE", f"{KEYS}/{name}")


# Made, listed, revoked


async def test_a_key_is_shown_once_and_kept_as_a_hash(locked, admin, name):
    answer = await admin.post(KEYS, {"name": name, "scopes": ["read", "work"], "work_directories": ["/srv/*"]})
    assert answer.status == 201
    key = answer.data["key"]
    (shown,) = await listed(admin, name)
    assert shown == {field: value for field, value in answer.data.items() if field != "key"}
    assert (shown["scopes"], shown["work_directories"]) == (["read", "work"], ["/srv/*"])
    assert (shown["created_by"], shown["expires_at"], shown["last_used_at"]) == ("api_key", None, None)
    rows = repr(on_record(locked, f"select * from keys where name = '{name}'"))
    assert name in rows
    assert key not in rows
    assert key not in locked.log.read_text()


async def test_without_directories_a_key_is_for_all_of_them(admin, name):
    assert (await made(admin, name, "read"))["work_directories"] == ["*"]


async def test_of_two_keys_with_one_name_the_second_is_refused(admin, name):
    await made(admin, name, "read")
    (await admin.post(KEYS, {"name": name, "scopes": ["work"]})).refused(409, "ALREADY_EXISTS")
    assert [key["scopes"] for key in await listed(admin, name)] == [["read"]]


async def test_a_revoked_key_opens_nothing_and_its_name_is_free_again(locked, admin, name):
    async with caller(locked, admin, name, "read") as api:
        assert (await api.get(TASKS)).status == 200
        assert (await revoke(admin, name)).data == {"name": name, "revoked": True}
        (await api.get(TASKS)).refused(401, "UNAUTHORIZED")
        assert await listed(admin, name) == []
        (await revoke(admin, name)).refused(404, "NOT_FOUND")
        await made(admin, name, "read")
        (await api.get(TASKS)).refused(401, "UNAUTHORIZED")


async def test_keys_survive_the_server(tmp_path, own_record):
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": ADMIN}, record=own_record).start()
    async with connected(server, Authorization=f"Bearer {ADMIN}") as api:
        good, bad = (await made(api, "good", "read"))["key"], (await made(api, "bad", "read"))["key"]
        await revoke(api, "bad")
    server.kill()
    server.start()
    async with connected(server) as api:
        for key, status in ((good, 200), (bad, 401)):
            assert (await api.call("GET", TASKS, headers={"X-API-Key": key})).status == status
    assert server.terminate() == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["read"]}, "name"),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a b", "scopes": ["read"]}, "name"),
        ({"name": "a/b", "scopes": ["read"]}, "name"),
        ({"name": ".a", "scopes": ["read"]}, "name"),
        ({"name": "x" * 101, "scopes": ["read"]}, "name"),
        ({"name": "api_key", "scopes": ["read"]}, "name"),
        ({"name": "anonymous", "scopes": ["read"]}, "name"),
        ({"name": "127.0.0.1", "scopes": ["read"]}, "name"),
        ({"name": "k"}, "scopes"),
        ({"name": "k", "scopes": []}, "scopes"),
        ({"name": "k", "scopes": "read"}, "scopes"),
        ({"name": "k", "scopes": ["read", "read"]}, "scopes"),
        ({"name": "k", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "k", "scopes": ["read"], "work_directories": []}, "work_directories"),
        ({"name": "k", "scopes": ["read"], "work_directories": ["srv"]}, "work_directories[0]"),
        ({"name": "k", "scopes": ["read"], "work_directories": ["/a/../*"]}, "work_directories[0]"),
        ({"name": "k", "scopes": ["read"], "work_directories": ["*\n"]}, "work_directories[0]"),
        ({"name": "k", "scopes": ["read"], "work_directories": ["/" + "x" * 512]}, "work_directories[0]"),
        ({"name": "k", "scopes": ["read"], "work_directories": [f"/{n}" for n in range(101)]}, "work_directories"),
        ({"name": "k", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "k", "scopes": ["read"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "k", "scopes": ["read"], "key": "mine"}, "key"),
        ({"name": "k", "scopes": ["admin"], "work_directories": ["/srv/*"]}, "work_directories"),
    ],
)
async def test_a_key_that_breaks_a_rule_is_not_made(admin, body, field):
    assert (await admin.post(KEYS, body)).faults() == [field]
    assert await listed(admin, "k") == []


async def test_the_record_learns_when_a_key_was_used(locked, admin, name):
    async with caller(locked, admin, name, "read") as api:
        await api.get(TASKS)
    (shown,) = await listed(admin, name)
    assert shown["last_used_at"] >= shown["created_at"]

    def noted():
        ((used,),) = on_record(locked, f"select last_used_at is not null from keys where name = '{name}'")
        return used in (1, "t")

    await until(noted)


# Scopes


def paths():
    for route in ROUTES:
        if not is_open(route.method, route.path):
            yield pytest.param(route, id=f"{route.method} {route.path}")


@pytest.mark.parametrize("route", [*paths()])
async def test_each_route_takes_its_scope_and_no_other(locked, admin, route):
    """What a key may not do is refused before anything is looked at; admin may everything."""
    path = route.path.format(task_id="nobody", name="nobody")
    for scope in ("submit", "work", "read", "operate", "payload", "admin"):
        if scope not in locked.keys:
            locked.keys[scope] = (await made(admin, f"only.{scope}", scope))["key"]
        query = "?work_path=nonsense" if path.endswith("/stream") else ""
        head = text_of(route.method, path + query, X_API_Key=locked.keys[scope], Accept="application/json")
        answer = await raw(locked, head)
        if route.scope in (None, scope) or scope == "admin":
            assert answer.status not in (401, 403), (scope, answer.content)
        else:
            assert answer.refused(403, "FORBIDDEN") == {"scope": route.scope}


def test_every_route_that_changes_something_takes_a_scope():
    free = {(route.method, route.path) for route in ROUTES if route.scope is None}
    session = {(method, "/api/v1/session") for method in ("GET", "POST", "DELETE")}
    reads = {"/api/v1/limits", "/health", "/health/live", "/health/ready", "/openapi.json", "/docs"}
    assert free == session | {("GET", path) for path in reads}


# Work directories


@pytest.fixture
async def theirs(locked, admin, name, directory):
    """A caller who may do everything, but only in and below the directory; and a task elsewhere, claimed."""
    scopes = ["submit", "work", "read", "operate"]
    async with caller(locked, admin, name, *scopes, work_directories=[directory, f"{directory}/*"]) as api:
        yield api


async def test_beyond_its_directories_a_key_can_begin_nothing(theirs, directory):
    for path in (NEVER, f"{directory}x", directory[:-1]):
        body = {"work_directory": path, "prompt": "x"}
        (await theirs.post(TASKS, body)).refused(403, "FORBIDDEN")
        (await theirs.post(f"{TASKS}/batch", {"tasks": [body]})).refused(403, "FORBIDDEN")
        (await theirs.get(f"{TASKS}/next", work_path=path)).refused(403, "FORBIDDEN")
        (await theirs.get(f"{TASKS}/stream", work_path=path, worker_id="w")).refused(403, "FORBIDDEN")
        claim = {"work_directories": [directory, path]}
        (await theirs.post(f"{TASKS}/claim", claim)).refused(403, "FORBIDDEN")
        for verb in ("pause", "resume", "drain"):
            (await theirs.post(f"{DIRECTORIES}/{verb}?path={path}", {})).refused(403, "FORBIDDEN")
        (await theirs.call("PATCH", f"{DIRECTORIES}?path={path}", json={"max_working": 1})).refused(403, "FORBIDDEN")
        (await theirs.get("/api/v1/statistics", work_directory=path)).refused(403, "FORBIDDEN")
    mixed = [{"work_directory": path, "prompt": "x"} for path in (directory, NEVER, f"{directory}/below")]
    said = (await theirs.post(f"{TASKS}/batch", {"tasks": mixed, "atomic": False})).data
    assert [task["index"] for task in said["tasks"]] == [0, 2]
    assert [(error["index"], error["code"]) for error in said["errors"]] == [(1, "FORBIDDEN")]


async def test_who_is_refused_leaves_no_trace_among_the_workers(theirs, admin, name, directory):
    task = await admin.claimed(f"{directory}elsewhere")
    (await theirs.get(f"{TASKS}/next", work_path=NEVER, worker_id=name)).refused(403, "FORBIDDEN")
    (await theirs.post(f"{TASKS}/claim", {"work_directory": NEVER, "worker_id": name})).refused(403, "FORBIDDEN")
    (await theirs.tell(task, "complete", worker_id=name)).refused(404, "TASK_NOT_FOUND")
    assert name not in [worker["worker_id"] for worker in (await admin.get("/api/v1/workers")).data["workers"]]


async def test_a_task_elsewhere_is_as_if_it_were_not_there(theirs, admin, directory):
    elsewhere = f"{directory}elsewhere"
    hidden = await admin.claimed(elsewhere)
    await admin.tell(hidden, "logs", lines=["one"])
    path = f"{TASKS}/{hidden['task_id']}"
    before = await admin.show(hidden)
    for part in ("", "/history", "/explain", "/events", "/logs"):
        (await theirs.get(path + part)).refused(404, "TASK_NOT_FOUND")
    follow = await theirs.call("GET", f"{path}/logs?follow=true", headers={"Accept": "text/event-stream"})
    follow.refused(404, "TASK_NOT_FOUND")
    for verb in ("complete", "fail", "release", "heartbeat", "logs"):
        extra = {"fail": {"error_message": "x"}, "logs": {"lines": ["x"]}}.get(verb, {})
        (await theirs.tell(hidden, verb, **extra)).refused(404, "TASK_NOT_FOUND")
    for verb in ("cancel", "retry"):
        (await theirs.post(f"{path}/{verb}", {})).refused(404, "TASK_NOT_FOUND")
    (await theirs.call("PATCH", path, json={"tags": ["x"]})).refused(404, "TASK_NOT_FOUND")
    (await theirs.call("DELETE", path)).refused(404, "TASK_NOT_FOUND")
    depends = {"work_directory": directory, "prompt": "x", "depends_on": [hidden["task_id"]]}
    (await theirs.post(TASKS, depends)).refused(422, "DEPENDENCY_NOT_FOUND")
    (await theirs.post(f"{TASKS}/batch", {"tasks": [depends]})).refused(422, "DEPENDENCY_NOT_FOUND")
    said = (await theirs.post(f"{TASKS}/cancel", {"ids": [hidden["task_id"]]})).data
    assert said["skipped"] == [{"task_id": hidden["task_id"], "code": "TASK_NOT_FOUND"}]
    assert await admin.show(hidden) == before


async def test_lists_and_counts_show_only_what_is_theirs(theirs, admin, directory):
    mine = [await theirs.create(directory), await theirs.create(f"{directory}/below")]
    ids = {task["task_id"] for task in mine}
    await admin.claimed(f"{directory}elsewhere")
    assert {task["task_id"] for task in (await theirs.get(TASKS)).data["tasks"]} == ids
    assert (await theirs.get(TASKS)).data["total"] == 2
    assert (await theirs.get(TASKS, work_directory=f"{directory}elsewhere")).data["tasks"] == []
    found = (await theirs.get(TASKS, work_directory=f"{directory},{directory}elsewhere")).data["tasks"]
    assert [task["task_id"] for task in found] == [mine[0]["task_id"]]
    lines = (await theirs.call("GET", TASKS, headers={"Accept": "application/x-ndjson"})).content.splitlines()
    assert len(lines) == 2
    shown = (await theirs.get(DIRECTORIES)).data["work_directories"]
    assert [it["work_directory"] for it in shown] == [directory, f"{directory}/below"]
    assert (await theirs.get("/api/v1/statistics")).data["total"] == 2
    assert (await admin.get("/api/v1/statistics")).data["total"] > 2
    steered = (await theirs.post(f"{TASKS}/cancel", {"filter": {}, "all": True})).data
    assert (steered["matched"], steered["changed"]) == (2, 2)


async def test_what_tells_of_everything_is_not_for_a_key_that_is_not_for_all(theirs):
    (await theirs.get("/metrics")).refused(403, "FORBIDDEN")


async def test_who_may_not_claim_the_next_task_there_has_not_reported_either(theirs, directory):
    task = await theirs.claimed(directory)
    (await theirs.tell(task, "complete", claim_next={"work_directory": NEVER})).refused(403, "FORBIDDEN")
    assert await theirs.status(task) == "working"
    assert (await theirs.tell(task, "complete")).status == 200


async def test_workers_are_shown_as_far_as_they_work_here(theirs, admin, directory):
    for path in (directory, f"{directory}elsewhere"):
        await admin.create(path)
        await admin.next(path, worker_id="ann")
        await admin.create(f"{directory}elsewhere")
    await admin.next(f"{directory}elsewhere", worker_id="bob")
    (shown,) = (await theirs.get("/api/v1/workers")).data["workers"]
    assert (shown["worker_id"], shown["work_directories"]) == ("ann", [directory])
    assert len(shown["working"]) == 1


async def test_the_feed_tells_only_what_is_theirs(theirs, admin, directory):
    async with theirs.session.get(f"{theirs.url}/api/v1/events") as response:
        assert response.status == 200
        events = Events(response)
        await admin.create(f"{directory}elsewhere")
        task = await theirs.create(directory)
        kind, data = await events.next()
        assert (kind, data["task_id"]) == ("task.created", task["task_id"])
    page = await theirs.call("GET", "/api/v1/events?limit=1000", headers={"Accept": "application/json"})
    assert {event["work_directory"] for event in page.data["events"]} == {directory}


async def test_who_may_see_everything_sees_the_settings_change_and_others_do_not(theirs, admin, directory):
    await admin.call("PATCH", "/api/v1/config", json={"changes": {"task.max_task_retries": 7}})
    await theirs.create(directory)
    told = {}
    for api in (theirs, admin):
        page = await api.call("GET", "/api/v1/events?limit=1000", headers={"Accept": "application/json"})
        told[api] = {event["type"] for event in page.data["events"]}
    assert "config.changed" in told[admin]
    assert "config.changed" not in told[theirs]


# Whose task it is


async def test_only_the_key_that_claimed_may_report(locked, admin, name, directory):
    async with (
        caller(locked, admin, f"{name}.a", "work") as ann,
        caller(locked, admin, f"{name}.b", "work") as bob,
    ):
        await admin.create(directory)
        task = await ann.next(directory)
        for token in (task["lease_token"], None):
            for verb, said in (("complete", {}), ("fail", {"error_message": "x"}), ("logs", {"lines": ["x"]})):
                (await bob.tell(task, verb, lease_token=token, **said)).refused(403, "FORBIDDEN")
        for verb in ("heartbeat", "release"):
            (await bob.tell(task, verb)).refused(403, "FORBIDDEN")
        assert (await ann.tell(task, "heartbeat")).status == 200
        assert (await ann.tell(task, "complete", result=1)).status == 200
        assert (await admin.show(task))["result"] == 1


async def test_an_admin_may_report_for_others(locked, admin, name, directory):
    async with caller(locked, admin, name, "work") as ann:
        await admin.create(directory)
        task = await ann.next(directory)
        assert (await admin.tell(task, "complete", lease_token=None)).status == 200


async def test_a_claim_said_again_gets_its_tasks_only_with_its_own_key(locked, admin, name, directory):
    async with (
        caller(locked, admin, f"{name}.a", "work") as ann,
        caller(locked, admin, f"{name}.b", "work") as bob,
    ):
        await admin.create(directory)
        claim = {"work_directory": directory, "claim_id": name}
        first = (await ann.post(f"{TASKS}/claim", claim)).data["tasks"]
        assert (await bob.post(f"{TASKS}/claim", claim)).data["tasks"] == []
        assert (await ann.post(f"{TASKS}/claim", claim)).data["tasks"] == first


async def test_who_made_a_task_is_told_and_their_idempotency_keys_are_theirs(locked, admin, name, directory):
    async with (
        caller(locked, admin, f"{name}.a", "submit") as ann,
        caller(locked, admin, f"{name}.b", "submit") as bob,
    ):
        body = {"work_directory": directory, "prompt": "x"}
        headers = {"Idempotency-Key": name}
        first = await ann.call("POST", TASKS, json=body, headers=headers)
        assert (first.status, first.data["created_by"]) == (201, f"{name}.a")
        assert (await ann.call("POST", TASKS, json=body, headers=headers)).status == 200
        other = await bob.call("POST", TASKS, json=body, headers=headers)
        assert (other.status, other.data["created_by"]) == (201, f"{name}.b")
        batch = await bob.post(f"{TASKS}/batch", {"tasks": [body]})
        made = (await admin.get(f"{TASKS}/{batch.data['tasks'][0]['task_id']}")).data
        assert made["created_by"] == f"{name}.b"


# Until when


async def test_a_revoked_key_ends_what_it_has_begun(locked, admin, name, directory):
    """A stream ends, and whoever waits for a task is told that the key is no longer in force."""
    async with caller(locked, admin, name, "work", "read") as api:
        async with api.stream(directory, worker_id="w") as tasks, api.session.get(f"{api.url}/api/v1/events") as feed:
            waiting = asyncio.create_task(api.get(f"{TASKS}/next", work_path=directory, wait_seconds=60))
            await admin.busy_with(3)
            await revoke(admin, name)
            (await waiting).refused(401, "UNAUTHORIZED")
            for stream in (tasks, Events(feed)):
                assert await ends(stream)
        task = await admin.create(directory)
        assert await admin.status(task) == "waiting"


async def ends(stream):
    try:
        while await stream.next() is not None:
            pass
    except ClientError:
        pass
    return True


async def test_a_key_expires_by_itself_even_while_it_is_used(locked, admin, name, directory):
    soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    async with caller(locked, admin, name, "work", expires_at=soon) as api:
        waited = await api.get(f"{TASKS}/next", work_path=directory, wait_seconds=60)
        waited.refused(401, "UNAUTHORIZED")
        (await api.get(f"{TASKS}/next", work_path=directory)).refused(401, "UNAUTHORIZED")


# Sessions of browsers


async def open_session(api, key):
    return await api.post("/api/v1/session", {"key": key})


async def test_a_session_stands_for_its_key_and_ends_with_it(locked, admin, name):
    key = (await made(admin, name, "read", work_directories=["/srv/*"]))["key"]
    async with connected(locked) as browser:
        (await open_session(browser, "wrong")).refused(401, "UNAUTHORIZED")
        opened = await open_session(browser, key)
        assert opened.data == {"name": name, "scopes": ["read"], "work_directories": ["/srv/*"]}
        cookie = opened.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert key not in cookie
        value = {"Cookie": cookie.partition(";")[0]}
        assert (await browser.call("GET", TASKS, headers=value)).status == 200
        assert (await browser.call("GET", "/api/v1/session", headers=value)).data["name"] == name
        (await browser.call("GET", KEYS, headers=value)).refused(403, "FORBIDDEN")
        (await browser.call("POST", TASKS, json={}, headers=value)).refused(403, "FORBIDDEN")
        closed = await browser.call(
            "DELETE", "/api/v1/session", headers={**value, "Origin": f"http://127.0.0.1:{locked.port}"}
        )
        assert "Max-Age=0" in closed.headers["Set-Cookie"]
        await revoke(admin, name)
        (await browser.call("GET", TASKS, headers=value)).refused(401, "UNAUTHORIZED")


async def test_a_forged_session_is_none(locked, admin, name):
    key = (await made(admin, name, "read"))["key"]
    async with connected(locked) as browser:
        cookie = (await open_session(browser, key)).headers["Set-Cookie"].partition(";")[0]
        whole, _, value = cookie.partition("=")
        who, ends, signature = value.strip('"').split(".")
        forged = [
            f"{who}.{int(ends) + 1}.{signature}",
            f"{who}.{ends}.{'0' * 64}",
            f"YXBpX2tleQ==.{ends}.{signature}",
            f"!!.{ends}.{signature}",
            f"{who}.{ends}",
            "x" * 4000,
            "",
        ]
        for value in forged:
            headers = {"Cookie": f"{whole}={value}"}
            (await browser.call("GET", TASKS, headers=headers)).refused(401, "UNAUTHORIZED")


async def test_with_a_session_a_change_must_come_from_a_page_of_the_server(locked, admin, name, directory):
    key = (await made(admin, name, "submit"))["key"]
    async with connected(locked) as browser:
        cookie = (await open_session(browser, key)).headers["Set-Cookie"].partition(";")[0]
        body = {"work_directory": directory, "prompt": "x"}
        own = {"Cookie": cookie, "Origin": f"http://127.0.0.1:{locked.port}"}
        (await browser.call("POST", TASKS, json=body, headers={"Cookie": cookie})).refused(403, "FORBIDDEN")
        foreign = {"Cookie": cookie, "Origin": "https://evil.example"}
        (await browser.call("POST", TASKS, json=body, headers=foreign)).refused(403, "FORBIDDEN")
        assert (await browser.call("POST", TASKS, json=body, headers=own)).status == 201


# The open door


async def test_the_door_is_open_until_there_is_a_key_that_may_make_others(tmp_path, own_record):
    server = ServerProcess(tmp_path, record=own_record).start()
    async with connected(server) as anyone:
        assert (await anyone.get(TASKS)).status == 200
        only_reads = (await made(anyone, "reader", "read"))["key"]
        assert (await anyone.get(KEYS)).status == 200
        async with connected(server, Authorization=f"Bearer {only_reads}") as reader:
            (await reader.get(KEYS)).refused(403, "FORBIDDEN")
        async with connected(server, Authorization="Bearer wrong") as stranger:
            (await stranger.get(TASKS)).refused(401, "UNAUTHORIZED")
        admin = (await made(anyone, "admin", "admin"))["key"]
        (await anyone.get(TASKS)).refused(401, "UNAUTHORIZED")
        async with connected(server, Authorization=f"Bearer {admin}") as api:
            (await revoke(api, "admin")).refused(409, "LAST_ADMIN")
            await made(api, "second", "admin")
            assert (await revoke(api, "admin")).status == 200
        (await anyone.get(TASKS)).refused(401, "UNAUTHORIZED")
    assert server.terminate() == 0
    server.start()
    async with connected(server) as anyone:
        (await anyone.get(TASKS)).refused(401, "UNAUTHORIZED")
    assert server.terminate() == 0


@pytest.mark.once
async def test_a_key_that_another_server_has_just_made_opens_at_once(cluster, tmp_path):
    """Each time, although nobody waits until the other has heard of it."""
    name = cluster.create_database()
    environ = {"API_SECRET_KEY": ADMIN}
    servers = [ServerProcess(tmp_path / part, environ=environ, record=cluster.url(name)) for part in ("a", "b")]
    for server in servers:
        server.database.parent.mkdir()
        server.start()
    async with connected(servers[0], Authorization=f"Bearer {ADMIN}") as admin, connected(servers[1]) as there:
        for number in range(30):
            key = (await made(admin, f"k{number}", "read"))["key"]
            assert (await there.call("GET", TASKS, headers={"X-API-Key": key})).status == 200
    for server in servers:
        assert server.terminate() == 0
    cluster.drop_database(name)


async def test_a_stream_is_not_concerned_with_what_another_key_does_under_the_same_worker_id(
    locked, admin, name, directory
):
    """Not before it begins, and not while it runs: it has all its hands free."""
    async with (
        caller(locked, admin, f"{name}.a", "work") as ann,
        caller(locked, admin, f"{name}.b", "work") as bob,
    ):
        await admin.create(directory, "first")
        theirs = await bob.next(directory, worker_id="w")
        async with ann.stream(directory, worker_id="w", capacity=2) as stream:
            await admin.create(directory, "second", priority="high")
            assert (await stream.task())["prompt"] == "second"
            await bob.tell(theirs, "release")
            assert (await stream.task())["prompt"] == "first"


async def test_what_comes_too_late_is_only_taken_from_the_key_that_had_the_task(locked, admin, name, directory):
    async with (
        caller(locked, admin, f"{name}.a", "work") as ann,
        caller(locked, admin, f"{name}.b", "work") as bob,
    ):
        await admin.create(directory)
        task = await ann.next(directory)
        await ann.tell(task, "release")
        before = await admin.life(task)
        (await bob.tell(task, "complete", result={"evil": 1})).refused(403, "FORBIDDEN")
        assert await admin.life(task) == before
        (await ann.tell(task, "complete", result=1)).refused(409, "LEASE_LOST")
        assert (await admin.life(task))[len(before) :] == ["late_result"]
        again = await ann.next(directory)
        assert (await ann.tell(again, "complete")).status == 200
        (await bob.tell(again, "complete")).refused(403, "FORBIDDEN")
        assert (await ann.tell(again, "complete")).status == 200


async def test_a_parked_claim_is_not_ended_by_another_key_that_names_one_alike(locked, admin, name, directory):
    async with (
        caller(locked, admin, f"{name}.a", "work") as ann,
        caller(locked, admin, f"{name}.b", "work") as bob,
    ):
        claim = {"work_directory": directory, "claim_id": "1", "wait_seconds": 60}
        waiting = asyncio.create_task(ann.post(f"{TASKS}/claim", claim))
        await admin.busy_with(1)
        assert (await bob.post(f"{TASKS}/claim", {**claim, "wait_seconds": 0})).data["tasks"] == []
        task = await admin.create(directory)
        assert [it["task_id"] for it in (await waiting).data["tasks"]] == [task["task_id"]]
