"""`task-orchestrator hook`: told of every use of a tool, it keeps the leases of the agent's tasks."""

import asyncio
import json
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from task_orchestrator import Client
from task_orchestrator.hook.command import ALL_SECONDS
from task_orchestrator.hook.event import claimed, ended
from tests.client.processes import Done, run_cli
from tests.conftest import ServerProcess

Hook = Callable[..., Awaitable[Done]]
LEASE_SECONDS = 900
TASK = {"task_id": "t-1", "lease_token": "token", "prompt": "p"}
CLAIM = "mcp__task-orchestrator__claim_next_task"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def hook(server: ServerProcess, state: Path) -> Hook:
    async def run(tool: str, answer: Any = None, url: str | None = None, **event: Any) -> Done:
        said = {"session_id": "s-1", "hook_event_name": "PostToolUse", "tool_name": tool, "tool_input": {}}
        said |= {"tool_response": answer, **event}
        environ = {"XDG_STATE_HOME": str(state)}
        done = await run_cli("hook", url=url or server.url, stdin=json.dumps(said).encode(), environ=environ)
        assert (done.code, done.err) == (0, "")
        return done

    return run


@pytest.fixture
async def task(server: ServerProcess, directory: Path, client: Client) -> dict[str, Any]:
    await client.submit("Count", work_directory=str(directory))
    (task,) = await client.claim(work_directory=str(directory), worker_id="a", lease_seconds=LEASE_SECONDS)
    return task


def files(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]


def long_ago(state: Path) -> None:
    """As if the last heartbeat were some time past."""
    (path,) = files(state)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tried_at": time.time() - 60}))


async def lease_end(client: Client, task: dict[str, Any]) -> str:
    end: str = (await client.get(task["task_id"]))["lease_expires_at"]
    return end


async def test_a_claimed_task_is_kept_by_every_tool_until_it_is_reported(
    hook: Hook, state: Path, task: dict[str, Any], client: Client
) -> None:
    assert (await hook("Bash")).out == ""
    assert files(state) == [] or json.loads(files(state)[0].read_text())["leases"] == {}
    answer = [{"type": "text", "text": json.dumps({"task": task, "resumed": False})}]
    await hook(CLAIM, answer)
    (path,) = files(state)
    assert json.loads(path.read_text())["leases"] == {task["task_id"]: task["lease_token"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = await lease_end(client, task)
    await hook("Bash", {"stdout": "x"})  # too soon for another heartbeat
    assert await lease_end(client, task) == before
    long_ago(state)
    await hook("Bash", "failed", hook_event_name="PostToolUseFailure")
    assert await lease_end(client, task) > before
    await hook("mcp__task-orchestrator__complete_task", [], tool_input={"task_id": task["task_id"]})
    assert json.loads(path.read_text())["leases"] == {}


@pytest.mark.parametrize("event", ["PostToolUse", "PostToolUseFailure"])
async def test_a_lost_lease_is_told_once(
    hook: Hook, state: Path, task: dict[str, Any], client: Client, event: str
) -> None:
    await hook(CLAIM, {"structuredContent": {"task": task}})
    await client.cancel(task["task_id"], force=True)
    assert (await hook("Edit")).out == ""
    long_ago(state)
    said = (await hook("Edit", hook_event_name=event)).json
    text = said["reason"] if event == "PostToolUse" else said["hookSpecificOutput"]["additionalContext"]
    assert text.startswith(f"The lease of task {task['task_id']} is lost (cancelled)")
    assert said.get("decision") == ("block" if event == "PostToolUse" else None)
    long_ago(state)
    assert (await hook("Edit")).out == ""


async def test_a_task_that_was_reported_elsewhere_is_no_news(
    hook: Hook, state: Path, task: dict[str, Any], client: Client
) -> None:
    await hook(CLAIM, {"task": task})
    await client.complete(task["task_id"], lease_token=task["lease_token"])
    long_ago(state)
    assert (await hook("Edit")).out == ""
    assert json.loads(files(state)[0].read_text())["leases"] == {}


async def test_sessions_know_nothing_of_each_other(hook: Hook, state: Path) -> None:
    await hook(CLAIM, TASK)
    await hook(CLAIM, {**TASK, "task_id": "t-2"}, session_id="../../s-2")
    held = [list(json.loads(path.read_text())["leases"]) for path in files(state)]
    assert sorted(held) == [["t-1"], ["t-2"]]
    assert {path.parent for path in files(state)} == {state / "task-orchestrator" / "agents"}


async def test_a_server_that_is_away_or_silent_does_not_hold_the_agent_up(hook: Hook, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        await hook(CLAIM, [{**TASK, "task_id": f"t-{number}"} for number in range(10)])
        for url in ("http://127.0.0.1:1", f"http://127.0.0.1:{port}", "nonsense", "http://[", "http://a:b"):
            long_ago(state)
            began = time.monotonic()
            assert (await hook("Bash", url=url)).out == ""
            assert time.monotonic() - began < ALL_SECONDS + 2
            assert len(json.loads(files(state)[0].read_text())["leases"]) == 10


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"session_id": 1}', b"\xff", b"[" * 100_000])
async def test_whatever_it_is_told_it_does_no_harm(tmp_path: Path, text: bytes) -> None:
    done = await run_cli("hook", stdin=text, environ={"XDG_STATE_HOME": str(tmp_path)})
    assert (done.code, done.out, done.err) == (0, "", "")


async def test_state_that_is_broken_or_cannot_be_kept_does_no_harm(hook: Hook, state: Path, tmp_path: Path) -> None:
    await hook(CLAIM, TASK)
    (path,) = files(state)
    path.write_text('{"leases": []')
    await hook("Bash")
    await hook(CLAIM, TASK)
    assert json.loads(path.read_text())["leases"] == {"t-1": "token"}
    environ = {"XDG_STATE_HOME": str(path)}
    done = await run_cli("hook", stdin=json.dumps({"session_id": "x"}).encode(), environ=environ)
    assert (done.code, done.out, done.err) == (0, "", "")


async def test_hooks_at_the_same_time_lose_nothing(hook: Hook, state: Path) -> None:
    await asyncio.gather(*(hook(CLAIM, {**TASK, "task_id": f"t-{number}"}) for number in range(8)))
    (path,) = files(state)
    assert len(json.loads(path.read_text())["leases"]) == 8


async def test_old_sessions_are_forgotten(hook: Hook, state: Path) -> None:
    await hook(CLAIM, TASK)
    (path,) = files(state)
    week = time.time() - 8 * 86400
    os.utime(path, (week, week))
    await hook(CLAIM, TASK, session_id="another")
    assert path not in files(state)
    assert len(files(state)) == 1


CODEX = {"content": [{"type": "text", "text": json.dumps({"task": TASK})}], "structuredContent": {"task": TASK}}


@pytest.mark.parametrize(
    "answer",
    [
        {"task": TASK},
        json.dumps({"task": TASK}),
        [{"type": "text", "text": json.dumps({"task": TASK})}],
        CODEX,
        {"next": {"task": TASK}},
    ],
)
def test_answers_are_understood_however_clients_show_them(answer: Any) -> None:
    for name in ("claim_next_task", "complete_task"):
        event = {"tool_name": f"mcp__task_orchestrator__{name}", "tool_response": answer}
        assert claimed(event) == {"t-1": "token"}
    assert claimed({"tool_name": "mcp__plugin_x_task-orchestrator__claim_next_task", "tool_response": answer})
    assert claimed({"tool_name": "Read", "tool_response": answer}) == {}


def test_what_stands_in_a_task_is_not_taken_for_one() -> None:
    task = {**TASK, "metadata": {"task_id": "x", "lease_token": "y"}}
    assert claimed({"tool_name": CLAIM, "tool_response": {"task": task}}) == {"t-1": "token"}


def test_a_report_that_was_refused_ends_nothing() -> None:
    event = {"tool_name": "mcp__q__complete_task", "tool_input": {"task_id": "t-1"}, "hook_event_name": "PostToolUse"}
    assert ended(event) == "t-1"
    assert ended({**event, "tool_response": {"isError": True}}) is None
    assert ended({**event, "hook_event_name": "PostToolUseFailure"}) is None
    assert ended({**event, "tool_name": "mcp__q__heartbeat_task"}) is None
