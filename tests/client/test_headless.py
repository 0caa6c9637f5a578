"""`task-orchestrator worker` with agents that print JSON lines, against a real server."""

import signal
import sys

import pytest

from tests.client.agents import (
    CLAUDE,
    CODEX,
    SESSION,
    THREAD,
    claude_init,
    claude_result,
    claude_says,
    printed,
    program,
    says,
    text,
    tool,
)
from tests.client.processes import until
from tests.client.test_worker import count, ended, peak_mib, submit

USAGE = {
    "input_tokens": 27,
    "cache_creation_input_tokens": 4890,
    "cache_read_input_tokens": 66_310,
    "output_tokens": 1266,
}
WAITS = "while not os.path.exists('gate'):\n    time.sleep(0.02)\n"

# Goes on with the session it is given, if it is its own, else begins one; the first time it hangs in the midst of it.
RESUMES = f"""
import json, os, sys, time
sys.path[:0] = {sys.path!r}
from tests.client.agents import claude_init, claude_result, claude_says, printed, text

def say(*lines):
    sys.stdout.buffer.write(printed(lines))
    sys.stdout.flush()

given = sys.argv[sys.argv.index("--resume") + 1] if "--resume" in sys.argv else None
if given and not os.path.exists(given):
    say(claude_result(None, session="new", subtype="error_during_execution", is_error=True, num_turns=0,
        errors=["No conversation found with session ID: " + given]))
    sys.exit(1)
name = given or "session-" + os.environ["TASK_ATTEMPT"]
open(name, "a").write(os.environ["TASK_ATTEMPT"] + sys.stdin.read())
say(claude_init(name), claude_says(text("at work"), session=name))
while not os.path.exists("gate"):
    time.sleep(0.02)
say(claude_result("done in " + name, session=name))
"""
RESUMING = '${TASK_SESSION_ID:+--resume "$TASK_SESSION_ID"}'


@pytest.fixture
def agent(tmp_path):
    return tmp_path / "agent.py"


async def has(client, task_id, found):
    """The task, once it is as wanted."""

    async def look():
        task = await client.get(task_id)
        return task if found(task) else None

    return await until(look)


async def test_claude_code(server, client, worker, directory, agent, cli):
    """Its progress is told while it works, its session is in the metadata beside what was there, its last words and its
    figures are the result, and its lines are in the log as they are."""
    await worker(
        server.url, directory, says(agent, CLAUDE[:-2], WAITS) + "; " + says(agent.with_name("b"), CLAUDE[-2:])
    )
    task_id = await submit(client, directory, "x", metadata={"ticket": "APP-12"})
    running = await has(client, task_id, lambda task: task["progress"])
    assert running["metadata"] == {"ticket": "APP-12", "session_id": SESSION}
    assert running["progress"] == {"percent": 50, "message": "turn 2: Edit /srv/app/api.py"}
    (directory / "gate").touch()
    task = await ended(client, task_id)
    assert task["progress"] == {"percent": 100, "message": "done after 3 turns, 0.1234 USD"}
    assert task["metadata"] == running["metadata"]
    result = task["result"]
    assert result.pop("duration_seconds") > 0
    said = {"exit_code": 0, "output": "All 5 tests pass now.", "truncated": False, "agent": "claude"}
    assert result == {**said, "session_id": SESSION, "num_turns": 3, "total_cost_usd": 0.1234, "usage": USAGE}
    log = (await client.logs(task_id))["lines"]
    whole = (agent.parent / "agent.py.out").read_text() + (agent.parent / "b.out").read_text()
    assert "".join(line["line"] for line in log) == whole.replace("\n", "")
    shown = (await cli("show", task_id)).out
    assert "total_cost_usd   0.1234\n" in shown
    assert "output_tokens    1266\n" in shown
    assert shown.endswith("output:\nAll 5 tests pass now.\n")


async def test_codex(server, client, worker, directory, agent):
    await worker(server.url, directory, says(agent, CODEX))
    task = await ended(client, await submit(client, directory, "x"))
    assert task["metadata"] == {"session_id": THREAD}
    assert task["progress"] == {"percent": 100, "message": "done after 1 turn"}
    assert task["result"]["output"] == "All 5 tests pass now."
    assert task["result"]["agent"] == "codex"
    assert task["result"]["usage"]["output_tokens"] == 122


@pytest.mark.parametrize(
    ("lines", "then", "error"),
    [
        ([*CLAUDE[:-1], claude_result("Credit balance is too low", is_error=True)], "", "Credit balance is too low"),
        (
            [*CLAUDE[:-1], claude_result(None, subtype="error_max_turns")],
            "print('why', file=sys.stderr)\nsys.exit(1)",
            "error_max_turns\nexit code 1\nwhy",
        ),
        (CLAUDE[:-1], "sys.exit(3)", "exit code 3\nAll 5 tests pass now."),
        ([*CODEX[:-1], {"type": "turn.failed", "error": {"message": "stream ended"}}], "", "stream ended"),
    ],
)
async def test_an_agent_that_fails(server, client, worker, directory, agent, lines, then, error):
    """It says so itself, whatever its exit code; its session and what it has cost are kept."""
    running = await worker(server.url, directory, says(agent, lines, then), "--once")
    task_id = await submit(client, directory, "x")
    assert await running.exit_code() == 1
    task = await ended(client, task_id)
    assert (task["status"], task["error_message"]) == ("failed", error)
    assert task["metadata"]["session_id"] in (SESSION, THREAD)
    assert task["result"]["session_id"] == task["metadata"]["session_id"]
    assert ("total_cost_usd" in task["result"]) == (lines[-1]["type"] == "result")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_next_attempt_goes_on_with_the_session(server, client, worker, directory, agent, number):
    """Of an agent whose worker was killed in the midst of it, or stopped."""
    command = f"{program(agent, RESUMES)} {RESUMING}"
    first = await worker(server.url, directory, command, "--lease-seconds", "2")
    task_id = await submit(client, directory, "go", metadata={"ticket": 1})
    await has(client, task_id, lambda task: task["metadata"] == {"ticket": 1, "session_id": "session-1"})
    first.send(number)
    await first.exit_code()
    (directory / "gate").touch()
    await worker(server.url, directory, command)
    task = await ended(client, task_id)
    assert (task["attempt"], task["result"]["output"]) == (2, "done in session-1")
    assert (directory / "session-1").read_text() == "1go2go"
    assert task["metadata"] == {"ticket": 1, "session_id": "session-1"}


async def test_a_session_that_cannot_be_found_is_forgotten(server, client, worker, directory, agent):
    """So the attempt after that begins afresh, instead of failing in the same way for ever."""
    (directory / "gate").touch()
    await worker(server.url, directory, f"{program(agent, RESUMES)} {RESUMING}")
    task_id = await submit(client, directory, "go", metadata={"session_id": "lost", "a": None}, max_retries=1)
    task = await ended(client, task_id)
    error = "error_during_execution: No conversation found with session ID: lost\nexit code 1"
    assert (task["error_message"], task["metadata"]) == (error, {"a": None})
    await client.retry(task_id)
    task = await ended(client, task_id)
    assert (task["result"]["output"], task["metadata"]) == ("done in session-2", {"a": None, "session_id": "session-2"})


async def test_what_cannot_be_a_session_is_not_given_to_a_command(server, client, worker, directory):
    """The metadata is the submitter's, and other things may stand there."""
    await worker(server.url, directory, 'echo "${TASK_SESSION_ID-none}"')
    for name in ("--help", "a b", "$(touch hacked)", "", "x" * 300, 5, None, ["a"], {"a": 1}):
        task = await ended(client, await submit(client, directory, "x", metadata={"session_id": name}))
        assert (task["result"]["output"], task["metadata"]) == ("none\n", {"session_id": name})


async def test_plain_text_is_as_it_was(server, client, worker, directory, agent):
    """A program that prints JSON of its own too: the result is what it printed, and nothing else is touched."""
    own = [{"type": "system", "session_id": "a"}, {"type": "result", "is_error": True, "result": "no", "thread_id": 1}]
    await worker(server.url, directory, says(agent, own))
    task_id = await submit(client, directory, "x", metadata={"session_id": "mine"})
    task = await ended(client, task_id)
    assert task["status"] == "completed"
    assert task["result"].keys() == {"exit_code", "duration_seconds", "output", "truncated"}
    assert task["result"]["output"] == (agent.parent / "agent.py.out").read_text()
    assert (task["metadata"], task["progress"]) == ({"session_id": "mine"}, None)
    assert await count(client, task_id, "updated") == 0


async def test_metadata_that_is_full_costs_only_the_session(server, client, worker, directory, agent):
    """The lease is kept, and the rest is told."""
    await worker(server.url, directory, says(agent, CLAUDE[:-2], WAITS), "--lease-seconds", "3")
    full = {"a": "x" * (65_536 - len('{"a":""}'))}
    task_id = await submit(client, directory, "x", metadata=full)
    before = await has(client, task_id, lambda task: task["status"] == "working")
    await has(client, task_id, lambda task: task["lease_expires_at"] > before["lease_expires_at"])
    (directory / "gate").touch()
    task = await ended(client, task_id)
    assert (task["status"], task["metadata"], task["attempt"]) == ("completed", full, 1)
    assert task["result"]["session_id"] == SESSION


# Lines of an agent and broken ones, and one of 100 MB
TORRENT = """
line = open(__file__ + ".line", "rb").read()
broken = line[:-9] + b"\\n" + line.replace(b"Bash", b"\\xff") + line[9:]
for _ in range(500):
    sys.stdout.buffer.write((line + broken) * 100)
for _ in range(1600):
    sys.stdout.buffer.write(b"{" * 65536)
print()
print(open(__file__ + ".end").read())
"""


async def test_a_torrent_of_lines(server, client, worker, directory, agent):
    """As fast as it can print: the lease lives, the worker's memory does not grow, and what comes last is heard."""
    command = says(agent, [claude_init()], TORRENT)
    (agent.parent / "agent.py.line").write_bytes(printed([claude_says(tool("Bash", command="ls"))]))
    (agent.parent / "agent.py.end").write_bytes(printed([claude_says(text("nearly")), claude_result()]))
    running = await worker(server.url, directory, command, "--lease-seconds", "3")
    task = await ended(client, await submit(client, directory, "x"))
    assert (task["status"], task["result"]["output"], task["attempt"]) == ("completed", "All 5 tests pass now.", 1)
    assert peak_mib(running.process.pid) < 150


CHATTER = """
for number in range(60):
    item = f'{{"type": "command_execution", "command": "{number}"}}'
    print(f'{{"type": "item.started", "item": {item}}}', flush=True)
    time.sleep(0.05)
"""


async def test_progress_is_told_now_and_then(server, client, worker, directory, agent):
    """However much an agent does, its worker says no more than a word every two seconds of it."""
    await worker(server.url, directory, says(agent, CODEX[:2], CHATTER))
    task_id = await submit(client, directory, "x")
    task = await ended(client, task_id)
    assert task["progress"]["message"] == "turn 1: $ 59"
    assert 2 <= await count(client, task_id, "progress") <= 4
