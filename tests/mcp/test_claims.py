"""Claims of agents: who is who, what gets lost on the way, how long a lease lasts."""

import asyncio
import re
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import RecordFailed
from tests.conftest import ServerProcess
from tests.mcp.clients import agent, key
from tests.mcp.wire import (
    LATEST_HANDSHAKE,
    MODERN,
    OLD,
    REVISIONS,
    Refused,
    call,
    calling,
    connection,
    initialize,
    message,
    request,
    result_of,
    said_in,
)
from tests.web.conftest import Api, connected, running, until
from tests.web.inside import inside
from web.mcp import call as calls
from web.mcp import claiming
from web.mcp.bridge import Passage
from web.mcp.call import Call

CLAIM = "claim_next_task"


async def claim(server: ServerProcess, directory: str, revision: str = MODERN, **arguments: Any) -> Any:
    return await call(server.port, revision, CLAIM, {"work_directory": directory, **arguments})


async def is_parked(api: Api, directory: str, claims: int) -> bool:
    """So many claims wait in the directory."""
    listed = (await api.get("/api/v1/work-directories")).data["work_directories"]
    return [it["waiting_workers"] for it in listed if it["work_directory"] == directory] == [claims]


def seconds_left(task: dict[str, Any]) -> float:
    return (datetime.fromisoformat(task["lease_expires_at"]) - datetime.now().astimezone()).total_seconds()


# Waiting


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_claim_waits_until_there_is_a_task(
    shared: ServerProcess, api: Api, directory: str, revision: str
) -> None:
    parked = asyncio.create_task(claim(shared, directory, revision, worker_id=directory[:90], wait_seconds=50))

    async def is_seen() -> bool:
        workers = (await api.get("/api/v1/workers")).data["workers"]
        return [it["connection"] for it in workers if it["work_directories"] == [directory]] == ["mcp"]

    await until(is_seen)
    made = await api.create(directory)
    said = await parked
    assert (said["task"]["task_id"], said["resumed"], said["retry"]) == (made["task_id"], False, False)
    assert await is_seen()  # now that it works on the task, too
    await api.next(directory, worker_id=directory[:90])
    assert not await is_seen()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_whoever_leaves_while_waiting_gets_no_task(
    shared: ServerProcess, api: Api, directory: str, revision: str
) -> None:
    await api.tell(await api.claimed(directory), "complete")  # so that it is listed
    arguments = {"work_directory": directory, "worker_id": "ann", "wait_seconds": 50}
    for _ in range(3):
        async with connection(shared.port) as (_, writer):
            writer.write(calling(revision, CLAIM, arguments))
            await until(lambda: is_parked(api, directory, 1))
        await until(lambda: is_parked(api, directory, 0))
    assert await api.status(await api.create(directory)) == "waiting"


async def test_it_says_that_it_goes_on_at_once_and_again(
    shared: ServerProcess, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    async with agent(shared) as client:
        await client.call_tool(CLAIM, {"work_directory": directory, "wait_seconds": 0.2}, progress_callback=hear)
    assert told == [(0, 0.2)]


async def test_while_it_waits_it_is_heard_of_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    told, waited, done, wait = list[float](), list[float | None](), asyncio.Event(), asyncio.wait

    async def hear(passed: float, total: float | None, message: str | None) -> None:
        told.append(passed)
        if len(told) == 4:
            done.set()

    async def wait_briefly(jobs: list[asyncio.Task[Any]], **options: float) -> None:
        waited.append(options.get("timeout"))
        await wait(jobs, **{name: 0.01 for name in options})

    monkeypatch.setattr(calls.asyncio, "wait", wait_briefly)
    passage: Any = Passage(None, b"", 1)  # type: ignore[arg-type]
    assert await Call(None, passage, None, {}, hear).patiently(50, done.wait())  # type: ignore[arg-type]
    assert told == [0, 10, 20, 30]
    assert waited == [10, 10, 10, 10, None]


async def test_within_a_session_too_whoever_leaves_gets_no_task(tmp_path: Path, directory: str) -> None:
    with running(tmp_path, APP_MCP_SESSIONS="true") as server:
        async with connected(server) as api:
            await api.tell(await api.claimed(directory), "complete")
            async with connection(server.port) as (reader, writer):
                writer.write(initialize(LATEST_HANDSHAKE))
                session = re.search(rb"Mcp-Session-Id: (\w+)", await reader.read(), re.IGNORECASE)
            assert session
            header = f"Mcp-Session-Id: {session[1].decode()}\r\n"
            arguments = {"work_directory": directory, "worker_id": "ann", "wait_seconds": 50}
            async with connection(server.port) as (_, writer):
                writer.write(calling(LATEST_HANDSHAKE, CLAIM, arguments, headers=header))
                await until(lambda: is_parked(api, directory, 1))
            await until(lambda: is_parked(api, directory, 0))
            assert await api.status(await api.create(directory)) == "waiting"


@pytest.mark.parametrize("revision", REVISIONS)
async def test_nobody_waits_with_a_large_message(shared: ServerProcess, directory: str, revision: str) -> None:
    """A thousand of them would take all the memory there is, and be nothing but blanks."""

    async def said(method: str, params: dict[str, Any]) -> Any:
        async with connection(shared.port) as (reader, writer):
            body = message(revision, method, params) + b" " * 100_000
            writer.write(request(revision, method, params, body))
            return said_in(await asyncio.wait_for(reader.read(), 10))[1]

    asked = {"name": CLAIM, "arguments": {"work_directory": directory, "wait_seconds": 50}}
    nothing = (await said("tools/call", asked))["result"]["structuredContent"]
    assert (nothing["task"], nothing["retry"]) == (None, True)
    if revision == MODERN:
        refusal = await said("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
        assert refusal["error"]["data"]["code"] == "PAYLOAD_TOO_LARGE"


# Who is who


async def test_an_agent_gets_again_what_it_holds_and_others_get_others(
    shared: ServerProcess, api: Api, directory: str
) -> None:
    tasks = [await api.create(directory, f"{number}") for number in range(3)]
    first = await claim(shared, directory, worker_id="ann")
    for revision in REVISIONS:
        again = await claim(shared, directory, revision, worker_id="ann", tags=["of no matter"])
        assert again["resumed"]
        assert again["task"]["lease_token"] == first["task"]["lease_token"]
        assert again["why"].startswith("you hold it already")
    other = await claim(shared, directory, worker_id="bob")
    assert (other["task"]["task_id"], other["resumed"]) == (tasks[1]["task_id"], False)
    await api.tell(first["task"], "complete")
    assert (await claim(shared, directory, worker_id="ann"))["task"]["task_id"] == tasks[2]["task_id"]


async def test_those_without_a_name_are_not_taken_for_each_other(
    shared: ServerProcess, api: Api, directory: str
) -> None:
    tasks = [await api.create(directory) for _ in range(2)]
    said = [await claim(shared, directory) for _ in range(2)]
    assert [it["task"]["task_id"] for it in said] == [task["task_id"] for task in tasks]
    assert [it["resumed"] for it in said] == [False, False]


async def test_a_key_is_a_name_and_so_is_a_header(locked: ServerProcess, admin: Api, name: str) -> None:
    tasks = [await admin.create(f"/{name}") for _ in range(4)]
    ids = [task["task_id"] for task in tasks]

    async def claims(secret: str, header: str = "", **arguments: Any) -> Any:
        headers = f"Authorization: Bearer {secret}\r\n{header}"
        async with connection(locked.port) as (reader, writer):
            writer.write(calling(OLD, CLAIM, {"work_directory": f"/{name}", **arguments}, headers=headers))
            return result_of(await reader.read())["task"]["task_id"]

    one, other = await key(admin, f"{name}.1", "work"), await key(admin, f"{name}.2", "work")
    assert [await claims(one), await claims(one)] == [ids[0], ids[0]]
    assert await claims(one, worker_id="ann") == ids[1]
    assert await claims(one, "X-Worker-Id: ann\r\n") == ids[1]
    assert await claims(one, "X-Worker-Id: bob\r\n", worker_id="ann") == ids[1]
    assert await claims(other, worker_id="ann") == ids[2]
    assert await claims(other) == ids[3]


async def test_whoever_has_a_header_does_not_report_on_what_another_holds(
    shared: ServerProcess, api: Api, directory: str
) -> None:
    await api.create(directory)
    held = (await claim(shared, directory, worker_id="ann"))["task"]
    for worker_id, refusal in (("bob", "LEASE_LOST"), ("ann", None)):
        async with connection(shared.port) as (reader, writer):
            asked = calling(OLD, "complete_task", {"task_id": held["task_id"]}, headers=f"X-Worker-Id: {worker_id}\r\n")
            writer.write(asked)
            answer = await reader.read()
        assert (b"LEASE_LOST" in answer) == (refusal is not None)


async def test_a_name_that_breaks_the_rules_is_refused(shared: ServerProcess) -> None:
    async with connection(shared.port) as (reader, writer):
        writer.write(calling(OLD, "queue_stats", {}, headers=f"X-Worker-Id: {'x' * 101}\r\n"))
        answer = await reader.read()
    assert b"X-Worker-Id: must be at most 100 characters" in answer


# What gets lost


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_claim_whose_answer_is_lost_is_handed_out_again(
    shared: ServerProcess, api: Api, directory: str, revision: str
) -> None:
    made = await api.create(directory)
    arguments = {"work_directory": directory, "worker_id": "ann"}
    async with connection(shared.port) as (_, writer):
        writer.write(calling(revision, CLAIM, arguments))

        async def is_on_record() -> bool:
            return await api.status(made) == "working"

        await until(is_on_record)
    again = await call(shared.port, revision, CLAIM, arguments)
    assert (again["task"]["task_id"], again["task"]["attempt"], again["resumed"]) == (made["task_id"], 1, True)
    assert await api.life(made) == ["created", "claimed"]
    await api.tell(again["task"], "complete")


@pytest.mark.parametrize("revision", REVISIONS)
async def test_whoever_has_read_the_answer_may_leave_before_its_end(
    shared: ServerProcess, api: Api, directory: str, revision: str
) -> None:
    """Also who has no name to be known by when they come again."""
    for _ in range(20):
        made = await api.create(directory)
        async with connection(shared.port) as (reader, writer):
            writer.write(calling(revision, CLAIM, {"work_directory": directory}))
            await reader.readuntil(made["task_id"].encode())
        assert (await api.life(made))[:2] == ["created", "claimed"]
        await until(lambda: is_idle(api))
        assert await api.life(made) == ["created", "claimed"]


async def is_idle(api: Api) -> bool:
    return await api.open_requests() == 0


async def test_a_task_that_does_not_get_through_to_somebody_unknown_is_given_back(tmp_path: Path) -> None:
    with running(tmp_path, APP_SERVER_REQUEST_TIMEOUT_SECONDS="0.5", APP_RATE_LIMIT_ENABLED="false") as server:
        async with connected(server) as api:
            parents = [await api.claimed("/w") for _ in range(8)]
            for parent in parents:
                await api.tell(parent, "complete", result="x" * 1_000_000)
            child = await api.create("/w", depends_on=[parent["task_id"] for parent in parents])
        for times, revision in enumerate((MODERN, OLD), 1):
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", server.port))
                deaf.sendall(calling(revision, CLAIM, {"work_directory": "/w"}))

                async def is_given_back(times: int = times) -> bool:
                    async with connected(server) as api:
                        return await api.life(child) == ["created", *["claimed", "released"] * times]

                await until(is_given_back)


@pytest.mark.parametrize("name", [{}, {"worker_id": "ann"}])
async def test_a_task_of_which_nobody_could_be_told_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: dict[str, str]
) -> None:
    """It waits again, or is for the one who asks again by the same name."""

    async def fail(*_: object) -> None:
        monkeypatch.undo()
        raise RecordFailed("of all times now")

    async with inside(tmp_path) as (api, service, _):
        made = await api.create("/w")
        port = int(api.url.rpartition(":")[2])
        await call(port, MODERN, "queue_stats", {})
        monkeypatch.setattr(claiming, "briefing", fail)
        with pytest.raises(Refused, match=r"^DATABASE_ERROR: "):
            await call(port, MODERN, CLAIM, {"work_directory": "/w", **name})
        again = await call(port, MODERN, CLAIM, {"work_directory": "/w", **name})
        assert (again["task"]["task_id"], again["resumed"]) == (made["task_id"], bool(name))
        counted = service.metrics.text([]).decode()
    assert 'mcp_calls_total{outcome="DATABASE_ERROR",tool="claim_next_task"} 1.0' in counted
    assert 'mcp_calls_total{outcome="ok",tool="claim_next_task"} 1.0' in counted


# How long it lasts


async def test_it_lasts_15_minutes_or_as_long_as_the_settings_or_the_agent_say(
    shared: ServerProcess, api: Api, directory: str, tmp_path: Path
) -> None:
    await api.create(directory)
    await api.create(directory)
    assert 890 < seconds_left((await claim(shared, directory, worker_id="ann"))["task"]) <= 900
    assert 50 < seconds_left((await claim(shared, directory, worker_id="bob", lease_seconds=60))["task"]) <= 60
    with running(tmp_path, APP_MCP_LEASE_SECONDS="300") as server:
        async with connected(server) as api:
            await api.create(directory)
        assert 290 < seconds_left((await claim(server, directory, worker_id="ann"))["task"]) <= 300


async def test_any_call_that_names_the_task_renews_it_but_only_the_holders(
    locked: ServerProcess, admin: Api, name: str
) -> None:
    task = await admin.create(f"/{name}")
    mine, other = await key(admin, f"{name}.1", "work", "read"), await key(admin, f"{name}.2", "work", "read")

    async def look(secret: str, header: str = "") -> str:
        headers = f"Authorization: Bearer {secret}\r\n{header}"
        async with connection(locked.port) as (reader, writer):
            writer.write(calling(OLD, "get_task", {"task_id": task["task_id"]}, headers=headers))
            return str(result_of(await reader.read())["lease_expires_at"])

    async with agent(locked, mine) as client:
        held = (await client.call_tool(CLAIM, {"work_directory": f"/{name}", "worker_id": "ann"})).structured_content
        assert held is not None
        began = held["task"]["lease_expires_at"]
        assert await look(other) == began
        assert await look(mine, "X-Worker-Id: bob\r\n") == began
        renewed = await look(mine, "X-Worker-Id: ann\r\n")
        assert renewed > began
        by_key = await look(mine)
        assert by_key > renewed
        resumed = await client.call_tool(CLAIM, {"work_directory": f"/{name}", "worker_id": "ann"})
        assert resumed.structured_content is not None
        assert resumed.structured_content["task"]["lease_expires_at"] > by_key


async def test_whoever_waits_for_the_outcome_does_not_renew_it(shared: ServerProcess, api: Api, directory: str) -> None:
    """Or a task whose worker has died would be held for as long as somebody watches."""
    made = await api.create(directory)
    began = (await claim(shared, directory, worker_id="ann"))["task"]["lease_expires_at"]
    watch = {"task_id": made["task_id"], "until": "terminal", "wait_seconds": 0.1}
    assert (await call(shared.port, MODERN, "get_task", watch))["lease_expires_at"] == began
    assert (await call(shared.port, MODERN, "get_task", {"task_id": made["task_id"]}))["lease_expires_at"] > began


# What an agent is told with it


async def test_it_comes_with_the_last_error_and_the_results_it_depends_on(
    shared: ServerProcess, api: Api, directory: str
) -> None:
    parent = await api.create(directory)
    child = await api.create(directory, depends_on=[parent["task_id"]], priority="high")
    held = await claim(shared, directory, worker_id="ann")
    assert held["why"] == "the most urgent that is ready here: medium priority, the oldest of these"
    await api.tell(held["task"], "complete", result={"branch": "fix-7", "left": None})
    held = await claim(shared, directory, worker_id="ann")
    told = {"task_id": parent["task_id"], "status": "completed", "result": {"branch": "fix-7", "left": None}}
    assert held["task"]["dependencies"] == [told]
    await api.tell(held["task"], "fail", error_message="no such branch", retryable=True)

    async def is_back() -> bool:
        said = await claim(shared, directory, worker_id="ann", wait_seconds=0)
        held.update(said)
        return said["task"] is not None

    await api.call("PATCH", f"/api/v1/tasks/{child['task_id']}", json={"run_at": None})
    await until(is_back)
    assert (held["task"]["previous_error"], held["task"]["attempt"]) == ("no such branch", 2)
    assert "attempt 2, see previous_error" in held["why"]


async def test_it_says_why_there_is_none(shared: ServerProcess, api: Api, directory: str) -> None:
    async def why(**arguments: Any) -> str:
        said = await claim(shared, directory, wait_seconds=0, **arguments)
        assert (said["task"], said["retry"]) == (None, True)
        return str(said["why"])

    assert await why() == "no task waits there"
    await api.create(directory)
    assert await why(tags=["x"]) == "none of the 1 tasks that wait there may be worked on yet, or they lack the tags"
    await api.post(f"/api/v1/work-directories/pause?path={directory}", {})
    assert await why() == "the directory is paused; 1 tasks wait there"
