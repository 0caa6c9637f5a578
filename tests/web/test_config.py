"""Settings that change while the server runs: validated as a whole, recorded, taken back, read again from the file."""

import asyncio
import json
import os
import signal
from contextlib import suppress

import aiohttp
import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, on_record, text_of, until, wire
from tests.web.test_directories import background
from web.settings import SETTINGS

ON_EVERY_RECORD = True

CONFIG = "/api/v1/config"
RETRIES, AGING, MOST = "task.max_task_retries", "task.priority_aging_seconds", "task.max_concurrent_tasks"


async def config(api):
    return (await api.get(CONFIG)).data


async def patch(api, changes, **more):
    return await api.call("PATCH", CONFIG, json={"changes": changes, **more})


async def changed(api, **changes):
    """Of [task]; the settings afterwards."""
    return (await patch(api, {f"task.{name}": value for name, value in changes.items()})).data


async def rollback(api, version, **more):
    return await api.post(f"{CONFIG}/rollback", {"version": version, **more})


async def versions(api, **query):
    return (await api.get(f"{CONFIG}/history", **query)).data["versions"]


def entries(server):
    """Of the history: each config.changed, oldest first."""
    about_none = "task_id is null and coalesce(work_directory, '') = ''"
    rows = on_record(server, f"select details, {about_none} from history where type = 'config.changed' order by seq")
    assert all(about in (1, "t") for _, about in rows)
    return [json.loads(details) for details, _ in rows]


@pytest.fixture(autouse=True)
async def as_started(request):
    """Nothing is set at run time, and nobody works, when the next test of the shared server begins."""
    yield
    if "api" in request.fixturenames:
        async with connected(request.getfixturevalue("shared")) as api:
            assert (await rollback(api, 0)).status == 200
            for task in (await api.get(TASKS, limit=1000)).data["tasks"]:
                if task["status"] == "working":
                    await api.post(f"{TASKS}/{task['task_id']}/cancel", {"force": True})


@pytest.fixture
def with_file(tmp_path, own_record):
    """A server with a file of settings, and the means to rewrite it."""
    file = tmp_path / "settings.toml"
    file.write_text("[task]\nmax_task_retries = 5\n")
    server = ServerProcess(tmp_path, "--config", str(file), record=own_record).start()
    server.file = file
    yield server
    if server.process.poll() is None:
        server.terminate()


def hang_up(server):
    os.kill(server.pid, signal.SIGHUP)


async def logged(server, text, times=1):
    return await until(lambda: server.log.read_text().count(text) >= times)


# What is in force


async def test_every_setting_is_told_with_its_value_source_and_default(api, shared):
    told = await config(api)
    assert told.keys() == {"version", "settings"}
    assert told["settings"].keys() == SETTINGS.keys()
    assert told["settings"][RETRIES] == {
        "value": 3,
        "source": "default",
        "origin": None,
        "default": 3,
        "reloadable": True,
    }
    port, url = told["settings"]["server.port"], told["settings"]["database.url"]
    assert (port["source"], port["origin"], port["default"], port["reloadable"]) == ("option", "--port", 8080, False)
    assert (shared.record.partition("?")[0], "option") == (url["value"], url["source"])
    reloadable = {key for key, setting in told["settings"].items() if setting["reloadable"]}
    assert reloadable == {key for key in SETTINGS if key.startswith(("task.", "webhooks.", "rate_limit."))} | {
        "logging.level",
        "security.redact_payloads",
        "security.redact_patterns",
        "logging.redact",
        "security.ip_allowlist",
        "security.enable_cors",
        "security.cors_origins",
    }


def test_each_source_is_named(tmp_path):
    """And what was set at run time is stronger than any of them."""
    file = tmp_path / "settings.toml"
    file.write_text("[task]\nmax_task_retries = 5\ndefault_task_timeout = 50\nprompt_match_threshold = 0.5")
    environ = {"APP_TASK_DEFAULT_TASK_TIMEOUT": "60", "LOG_LEVEL": "error"}
    server = ServerProcess(tmp_path, "--config", str(file), "--log-level", "warning", environ=environ).start()

    async def look():
        async with connected(server) as api:
            settings = (await config(api))["settings"]
            assert (settings[RETRIES]["value"], settings[RETRIES]["source"]) == (5, "file")
            assert settings[RETRIES]["origin"] == str(file)
            timeout = settings["task.default_task_timeout"]
            assert (timeout["value"], timeout["source"]) == (60, "environment")
            assert timeout["origin"] == "APP_TASK_DEFAULT_TASK_TIMEOUT"
            level = settings["logging.level"]
            assert (level["value"], level["source"], level["origin"]) == ("warning", "option", "--log-level")
            for key, value in ((RETRIES, 1), ("task.default_task_timeout", 2), ("logging.level", "info")):
                now = (await patch(api, {key: value})).data["settings"][key]
                assert (now["value"], now["source"]) == (value, "runtime")

    try:
        asyncio.run(look())
    finally:
        assert server.terminate() == 0


# A change


async def test_a_change_is_a_version_with_who_when_and_what(api, shared):
    before = await config(api)
    after = (await patch(api, {RETRIES: 7, "logging.level": "WARNING"}, reason="quieter")).data
    assert after["version"] == before["version"] + 1
    assert (after["settings"][RETRIES]["value"], after["settings"][RETRIES]["source"]) == (7, "runtime")
    assert after["settings"]["logging.level"]["value"] == "warning"
    assert after == await config(api)
    newest, *_ = await versions(api)
    changes = {RETRIES: {"from": 3, "to": 7}, "logging.level": {"from": "info", "to": "warning"}}
    assert newest.pop("at").endswith("Z")
    assert newest == {"version": after["version"], "who": "anonymous", "reason": "quieter", "changes": changes}
    expected = {"version": after["version"], "who": "anonymous", "reason": "quieter", "changes": changes}
    assert entries(shared)[-1] == expected


async def test_what_changes_nothing_is_no_version(api, shared):
    """Neither what is in force already, however it came to be, nor taking back what was not set."""
    first = (await patch(api, {RETRIES: 7})).data
    before = len(entries(shared))
    for changes in ({RETRIES: 7}, {AGING: 0}, {AGING: 0.0, RETRIES: 7}, {AGING: None}, {"logging.level": "INFO"}):
        assert (await patch(api, changes)).data == first
    assert (await rollback(api, first["version"])).data == first
    assert (await config(api))["settings"][AGING]["source"] == "default"
    assert len(entries(shared)) == before


async def test_null_takes_a_change_back(api):
    """Also one that says what would hold without it."""
    await changed(api, max_task_retries=7, max_concurrent_tasks=9)
    after = await changed(api, max_task_retries=None)
    setting = after["settings"][RETRIES]
    assert (setting["value"], setting["source"]) == (3, "default")
    assert after["settings"][MOST]["value"] == 9
    assert (await versions(api))[0]["changes"] == {RETRIES: {"from": 7, "to": 3}}


async def test_every_fault_is_named_and_nothing_is_changed(api, shared):
    before, lines = await config(api), len(entries(shared))
    answer = await patch(
        api,
        {
            "task.max_task_retries": 101,
            "task.default_task_timeout": "60",
            "task.require_lease_token": 1,
            "task.prompt_match_threshold": True,
            "task.max_concurrent_tasks": 1.5,
            "task.priority_aging_seconds": [],
            "task.max_retries": 1,
            "task": {"max_task_retries": 1},
            "server.port": 1,
            "security.api_key": "s3cret",
            "logging.level": "loud",
            "task.restart_grace_seconds": 12,
        },
    )
    reasons = {error["field"]: error["reason"] for error in answer.refused(400, "VALIDATION_ERROR")["errors"]}
    restart = "takes a restart: set it in the file, the environment or an option"
    assert reasons == {
        "changes.task.max_task_retries": "must be at most 100, is 101",
        "changes.task.default_task_timeout": "must be a number, not a string",
        "changes.task.require_lease_token": "must be true or false, not an integer",
        "changes.task.prompt_match_threshold": "must be a number, not a boolean",
        "changes.task.max_concurrent_tasks": "must be an integer, not a number",
        "changes.task.priority_aging_seconds": "must be a number, not a list",
        "changes.task.max_retries": "unknown setting, did you mean 'task.max_task_retries'?",
        "changes.task": "is a section: name its settings one by one, such as 'task.default_task_timeout'",
        "changes.server.port": restart,
        "changes.security.api_key": restart,
        "changes.logging.level": "must be one of debug, info, warning, error, critical",
    }
    assert b"s3cret" not in answer.content
    assert (await config(api), len(entries(shared))) == (before, lines)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["changes"]),
        ({"changes": {}}, ["changes"]),
        ({"changes": None}, ["changes"]),
        ({"changes": [["task.max_task_retries", 1]]}, ["changes"]),
        ({"changes": {RETRIES: 1}, "reason": "x" * 501}, ["reason"]),
        ({"changes": {RETRIES: 1}, "reason": 5, "version": 1}, ["reason", "version"]),
        ({"changes": {RETRIES: 10**30}}, ["changes"]),
        ({"changes": {"": 1}}, ["changes."]),
        ({"changes": {"x" * 5000: 1}}, ["changes." + "x" * 100]),
        ({"changes": {RETRIES: "x" * 70_000}}, ["changes"]),
    ],
)
async def test_a_bad_body_is_refused(api, body, fields):
    before = await config(api)
    assert (await api.call("PATCH", CONFIG, json=body)).faults() == fields
    assert await config(api) == before


async def test_other_requests_are_refused_as_everywhere(api):
    assert (await api.call("PATCH", f"{CONFIG}?a=1", json={"changes": {RETRIES: 1}})).faults() == ["a"]
    assert (await api.get(CONFIG, a=1)).faults() == ["a"]
    assert (await api.get(f"{CONFIG}/history", limit=0, offset=-1)).faults() == ["limit", "offset"]
    assert (await api.get(f"{CONFIG}/history", limit=1001)).faults() == ["limit"]
    for body, field in (({}, "version"), ({"version": -1}, "version"), ({"version": "1"}, "version")):
        assert (await api.post(f"{CONFIG}/rollback", body)).faults() == [field]
    assert (await api.post(CONFIG, {})).status == 405


async def test_changes_at_the_same_time_all_count(api, shared):
    """Each has a version of its own, and none undoes another."""
    before = (await config(api))["version"]
    keys = [f"task.{name}" for name in ("max_task_retries", "default_task_timeout", "restart_grace_seconds")]
    wanted = [{key: number} for number in range(1, 11) for key in keys]
    wanted += [{MOST: 1}, {AGING: 2}]
    answers = [answer.data for answer in await asyncio.gather(*(patch(api, changes) for changes in wanted))]
    found = await versions(api, limit=1000)
    mine = [version for version in found if version["version"] > before]
    numbers = [version["version"] for version in mine]
    assert numbers == list(range(before + len(mine), before, -1))
    assert len({answer["version"] for answer in answers}) == len(mine) == len(wanted)
    values = {key: 0 for key in SETTINGS}
    for version in reversed(mine):
        ((key, change),) = version["changes"].items()
        assert change["from"] == values.get(key) or not values[key]
        values[key] = change["to"]
    settings = (await config(api))["settings"]
    assert all(settings[key]["value"] == values[key] for key in [*keys, MOST, AGING])


async def test_a_change_whose_caller_left_is_made_or_not_but_never_half(api, shared):
    """What is recorded is in force, and the next change builds on it."""
    for number in range(10, 60):
        async with wire(shared) as connection:
            await connection.send(text_of("PATCH", CONFIG, {"changes": {RETRIES: number}}))
            await asyncio.sleep(number % 10 / 2000)  # at whatever moment of the change
            await connection.leave(abruptly=number % 3 == 0)
    await api.busy_with(0)
    after = await changed(api, max_concurrent_tasks=9)
    recorded = await versions(api, limit=1000)
    assert after["version"] == recorded[0]["version"]
    newest = (version["changes"][RETRIES]["to"] for version in recorded if RETRIES in version["changes"])
    assert after["settings"][RETRIES]["value"] == next(newest, 3)
    assert recorded[0]["changes"] == {MOST: {"from": 0, "to": 9}}


async def test_the_history_is_read_page_by_page(api):
    start = (await config(api))["version"]
    for number in range(1, 6):
        await changed(api, max_task_retries=10 + number)
    whole = await versions(api)
    assert [version["version"] for version in whole][:5] == [start + number for number in (5, 4, 3, 2, 1)]
    assert await versions(api, limit=2, offset=1) == whole[1:3]
    page = (await api.get(f"{CONFIG}/history", limit=1)).data
    assert (page["total"], len(page["versions"])) == (len(whole), 1)
    assert await versions(api, offset=2**63 - 1) == []


# Back again


async def test_a_rollback_sets_what_was_set_then_and_nothing_else(api):
    first = await changed(api, max_task_retries=7, priority_aging_seconds=5)
    await changed(api, max_task_retries=8, max_concurrent_tasks=2, priority_aging_seconds=None)
    after = (await rollback(api, first["version"])).data
    assert after["version"] == first["version"] + 2
    assert after["settings"] == first["settings"]
    newest = (await versions(api))[0]
    assert newest["reason"] == f"rollback to version {first['version']}"
    assert newest["changes"] == {
        RETRIES: {"from": 8, "to": 7},
        AGING: {"from": 0.0, "to": 5.0},
        MOST: {"from": 2, "to": 0},
    }
    assert (await rollback(api, 0, reason="enough")).data["settings"][RETRIES]["source"] == "default"
    assert (await versions(api))[0]["reason"] == "enough"


async def test_an_unknown_version_is_refused(api):
    before = await config(api)
    for version in (before["version"] + 1, 2**63 - 1):
        assert (await rollback(api, version)).faults() == ["version"]
    assert await config(api) == before


# What a change brings about


async def test_a_new_default_is_that_of_new_tasks(api, directory):
    old = await api.create(directory)
    await changed(api, max_task_retries=7, default_task_timeout=70)
    new = await api.create(directory)
    assert [(await api.show(task))["max_retries"] for task in (old, new)] == [3, 7]
    assert [(await api.show(task))["timeout_seconds"] for task in (old, new)] == [3600, 70]


async def test_a_new_threshold_is_that_of_the_next_report(api, directory):
    held = await api.claimed(directory, prompt="count the lines")
    await changed(api, prompt_match_threshold=1)
    answer = await api.tell(held, "complete", original_prompt="count the line")
    assert answer.refused(422, "PROMPT_MISMATCH")["threshold"] == 1
    await changed(api, prompt_match_threshold=0.5)
    assert (await api.tell(held, "complete", original_prompt="count the line")).status == 200


async def test_a_lease_token_may_become_compulsory(api, directory):
    held = await api.claimed(directory)
    await changed(api, require_lease_token=True)
    assert (await api.tell(held, "complete", lease_token=None)).faults() == ["lease_token"]
    await changed(api, require_lease_token=False)
    assert (await api.tell(held, "complete", lease_token=None)).status == 200


async def test_who_waits_is_served_at_once_when_the_limit_is_raised(api, directory):
    """Each in turn, and no more than there may be."""
    await changed(api, max_concurrent_tasks=1)
    held = await api.claimed(f"{directory}/0")
    for number in (1, 2, 3):
        await api.create(f"{directory}/{number}")
    waiting = []
    for number in (1, 2, 3):
        waiting.append(background(api.next(f"{directory}/{number}", wait_seconds=10)))
        await api.busy_with(number)
    await changed(api, max_concurrent_tasks=2)
    assert (await waiting[0])["work_directory"] == f"{directory}/1"
    await api.busy_with(2)
    await changed(api, max_concurrent_tasks=0)
    assert [(await one)["work_directory"] for one in waiting[1:]] == [f"{directory}/2", f"{directory}/3"]
    assert (await api.tell(held, "complete")).status == 200


async def test_a_lowered_limit_holds_for_new_claims(api, directory):
    """Who works already goes on."""
    held = [await api.claimed(directory) for _ in range(3)]
    await api.create(directory)
    await changed(api, max_concurrent_tasks=2)
    for task in held[:2]:
        assert await api.next(directory) is None
        assert (await api.tell(task, "complete")).status == 200
    assert await api.next(directory) is not None
    assert await api.next(directory) is None
    assert (await api.tell(held[2], "heartbeat")).status == 200


async def test_ageing_begins_and_ends_while_tasks_wait(api, directory):
    """More of them than fit into memory, the less urgent ones being older."""
    low = [{"work_directory": directory, "prompt": f"low {number}", "priority": "low"} for number in range(300)]
    await api.post(f"{TASKS}/batch", {"tasks": low})
    later = await api.create(directory, priority="low")
    await until_later(api, directory, later)
    urgent = await api.create(directory, prompt="urgent", priority="high")
    await changed(api, priority_aging_seconds=0.001)
    assert (await api.next(directory))["prompt"] == "low 0"
    explained = (await api.get(f"{TASKS}/{urgent['task_id']}/explain")).data
    assert explained["position"] == 301
    await changed(api, priority_aging_seconds=0)
    assert (await api.next(directory))["prompt"] == "urgent"
    await changed(api, priority_aging_seconds=1000)
    assert (await api.next(directory))["prompt"] == "low 1"


async def until_later(api, directory, task):
    """More than a few milliseconds after the task was made: another one bears a later time."""

    async def later():
        other = await api.create(f"{directory}/clock")
        return other["created_at"] > task["created_at"][:-2] + "9Z" or None

    await until(later)


async def test_the_log_is_as_loud_as_it_is_set(server):
    async with connected(server) as api:
        await patch(api, {RETRIES: 4})
        await patch(api, {"logging.level": "error"})
        await patch(api, {RETRIES: 5})
        await patch(api, {"logging.level": None})
        await until(lambda: "version 4" in server.log.read_text())
        told = [f"version {number}" in server.log.read_text() for number in range(1, 5)]
        assert told == [True, False, False, True]


# It lasts


@pytest.mark.once  # a grace is for servers that have been away, not for one of many
async def test_what_was_set_lasts_over_a_restart(server, directory):
    """The grace that follows too; and the next change has the next number."""
    async with connected(server) as api:
        held = await api.claimed(directory, lease_seconds=1000)
        await changed(api, max_task_retries=9, restart_grace_seconds=2000)
        after = await changed(api, max_concurrent_tasks=4, priority_aging_seconds=60, require_lease_token=True)
        before = (await api.show(held))["lease_expires_at"]
    server.kill()
    server.start()
    async with connected(server) as api:
        again = await config(api)
        again["settings"]["server.port"] = after["settings"]["server.port"]
        assert again == after
        assert (await api.show(held))["lease_expires_at"] > before
        assert (await api.tell(held, "complete", lease_token=None)).faults() == ["lease_token"]
        assert (await changed(api, max_task_retries=8))["version"] == 3
        assert [version["version"] for version in await versions(api)] == [3, 2, 1]


async def test_an_answered_change_survives_a_kill(server):
    """One that was under way is there as a whole or not at all."""
    answered = 0
    for _ in range(3):
        async with connected(server) as api:
            killing = asyncio.get_running_loop().call_later(0.15, server.process.kill)
            with suppress(aiohttp.ClientError):
                while True:
                    number = answered % 90
                    done = await changed(api, max_task_retries=number, max_concurrent_tasks=number)
                    answered = max(answered + 1, done["version"])
            killing.cancel()
        server.wait()
        server.start()
        async with connected(server) as api:
            now = await config(api)
            assert answered <= now["version"] <= answered + 1
            assert now["settings"][RETRIES]["value"] == now["settings"][MOST]["value"] or now["version"] <= 1
            assert now["version"] == len(entries(server)) == len(await versions(api, limit=1000))
            answered = now["version"]


def test_what_can_no_longer_be_used_is_left_out_and_named(tmp_path):
    """The server starts all the same, or nobody could mend it."""
    server = ServerProcess(tmp_path).start()

    async def set_some():
        async with connected(server) as api:
            await changed(api, max_task_retries=9, max_concurrent_tasks=4)

    async def look():
        async with connected(server) as api:
            settings = (await config(api))["settings"]
            assert (settings[RETRIES]["value"], settings[RETRIES]["source"]) == (3, "default")
            assert settings[MOST]["value"] == 4
            (fault,) = (await rollback(api, 1)).refused(400, "VALIDATION_ERROR")["errors"][:1]
            assert (fault["field"], "task.gone: unknown setting" in fault["reason"]) == ("version", True)
            await changed(api, priority_aging_seconds=1)

    try:
        asyncio.run(set_some())
        server.terminate()
        with server.opened() as db:
            runtime = {RETRIES: 1000, MOST: 4, "task.gone": 1, "server.port": 1, "security.api_key": "s3cret"}
            db.execute("update config_versions set runtime = ?", (json.dumps(runtime),))
        server.start()
        asyncio.run(look())
    finally:
        assert server.terminate() == 0
    log = server.log.read_text()
    for key in (RETRIES, "task.gone", "server.port", "security.api_key"):
        assert f"of no effect: {key}: " in log
    assert "s3cret" not in log


# SIGHUP


async def test_sighup_reads_the_file_again(with_file, directory):
    server = with_file
    async with connected(server) as api:
        await changed(api, max_concurrent_tasks=4)
        server.file.write_text("[task]\nmax_task_retries = 6\nmax_concurrent_tasks = 7\nrequire_lease_token = true")
        hang_up(server)
        await logged(server, "SIGHUP: the settings were read again, with changes")
        now = await config(api)
        assert now["version"] == 2
        assert (now["settings"][RETRIES]["value"], now["settings"][RETRIES]["source"]) == (6, "file")
        assert now["settings"][MOST]["value"] == 4
        assert (await api.show(await api.create(directory)))["max_retries"] == 6
        newest = (await versions(api))[0]
        assert (newest["who"], newest["reason"]) == ("SIGHUP", None)
        told = {RETRIES: {"from": 5, "to": 6}, "task.require_lease_token": {"from": False, "to": True}}
        assert newest["changes"] == entries(server)[-1]["changes"] == told
        assert (await changed(api, max_concurrent_tasks=None))["settings"][MOST]["value"] == 7
        hang_up(server)
        await logged(server, "SIGHUP: the settings were read again, no changes")
        assert (await config(api))["version"] == 3


async def test_the_file_is_read_while_others_make_changes(with_file):
    """Each version says what was before it, and at the end all of it holds."""
    server = with_file

    async def rewrite():
        for number in range(1, 6):
            server.file.write_text(f"[task]\nmax_task_retries = 5\nmax_concurrent_tasks = {number}")
            hang_up(server)
            await logged(server, "SIGHUP: the settings were read again, with changes", number)

    async with connected(server) as api:
        await asyncio.gather(rewrite(), *(changed(api, max_task_retries=number) for number in range(10, 40)))
        told = await versions(api, limit=1000)
        assert [version["version"] for version in told] == list(range(35, 0, -1))
        values = {RETRIES: 5, MOST: 0}
        for version in reversed(told):
            ((key, change),) = version["changes"].items()
            assert change["from"] == values[key]
            values[key] = change["to"]
            assert version["who"] == ("SIGHUP" if key == MOST else "anonymous")
        settings = (await config(api))["settings"]
        assert {key: settings[key]["value"] for key in values} == values
        assert (values[MOST], settings[MOST]["source"], settings[RETRIES]["source"]) == (5, "file", "runtime")


async def test_what_is_set_at_run_time_is_taken_back_though_the_file_says_the_same(with_file):
    """From then on the file counts again."""
    server = with_file
    async with connected(server) as api:
        await changed(api, max_task_retries=6)
        server.file.write_text("[task]\nmax_task_retries = 6")
        hang_up(server)
        await logged(server, "SIGHUP: the settings were read again, no changes")
        setting = (await config(api))["settings"][RETRIES]
        assert (setting["value"], setting["source"]) == (6, "runtime")
        after = await changed(api, max_task_retries=None)
        assert (after["version"], after["settings"][RETRIES]["source"]) == (2, "file")
        assert (await versions(api))[0]["changes"] == {RETRIES: {"from": 6, "to": 6}}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            "[task]\nmax_task_retries = 6\nmax_concurrent_tasks = -1\nmax_retries = 1\n[logging]\nlevel = 'loud'",
            ["task.max_concurrent_tasks in", "task.max_retries in", "logging.level in"],
        ),
        ("[task]\nmax_task_retries = 6\n[server]\nmax_body_bytes = 2048", ["server.max_body_bytes in"]),
        ("[task]\nmax_task_retries = 6\n[database]\nsynchronous = 'normal'", ["database.synchronous in"]),
        ("[task", ["settings.toml: is not TOML"]),
        (None, ["settings.toml: cannot be read"]),
    ],
)
async def test_sighup_refuses_a_bad_file_as_a_whole(with_file, text, faults):
    """Every fault is in the log; the server goes on with what it had, and takes a good one afterwards."""
    server = with_file
    if text is None:
        server.file.unlink()
    else:
        server.file.write_text(text)
    async with connected(server) as api:
        before = await config(api)
        hang_up(server)
        await logged(server, "SIGHUP: none of the settings was changed")
        log = server.log.read_text()
        assert all(fault in log for fault in faults)
        assert await config(api) == before
        assert entries(server) == []
        server.file.write_text("[task]\nmax_task_retries = 6")
        hang_up(server)
        await logged(server, "SIGHUP: the settings were read again, with changes")
        assert (await config(api))["settings"][RETRIES]["value"] == 6


async def test_sighup_without_a_file_does_nothing(server):
    async with connected(server) as api:
        before = await config(api)
        for times in (1, 2):
            hang_up(server)
            await logged(server, "SIGHUP: there is no file of settings", times)
        assert await config(api) == before
        assert server.process.poll() is None


# Secrets


def test_a_secret_is_shown_to_nobody(tmp_path):
    """Not in the settings, nor when it is refused, nor in the log."""
    secret = "s3cret-word"
    server = ServerProcess(tmp_path, "--log-level", "debug", environ={"API_SECRET_KEY": secret}).start()

    async def look():
        async with connected(server, Authorization=f"Bearer {secret}") as api:
            answers = [await api.get(CONFIG), await patch(api, {RETRIES: 4}), await api.get(f"{CONFIG}/history")]
            key = answers[0].data["settings"]["security.api_key"]
            assert (key["value"], key["default"], key["source"]) == ("********", None, "environment")
            assert answers[2].data["versions"][0]["who"] == "api_key"
            answers += [await patch(api, {"security.api_key": secret}), await api.get("/api/v1/limits")]
            assert not any(secret.encode() in answer.content for answer in answers)
        async with connected(server) as stranger:
            for method, path in (("GET", ""), ("PATCH", ""), ("GET", "/history"), ("POST", "/rollback")):
                (await stranger.call(method, CONFIG + path)).refused(401, "UNAUTHORIZED")

    try:
        asyncio.run(look())
        kept = [file for file in server.database.parent.iterdir() if file.name.startswith(server.database.name)]
        assert not any(secret.encode() in file.read_bytes() for file in kept)
        assert secret not in server.log.read_text()
    finally:
        assert server.terminate() == 0
