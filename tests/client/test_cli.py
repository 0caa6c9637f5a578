"""The command line: what it prints, where, and with which exit code."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from functools import partial

import pytest

from task_orchestrator.display import printable
from tests.client.processes import Done, environment, run_cli, start, until

HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]not markup[/red]\x9b31m\u202e"


@pytest.fixture
def finished(client, directory):
    """Submit a task and end it as a worker would; returns its id."""

    async def finish(prompt="a prompt", *, output=None, error=None):
        task_id = (await client.submit(prompt, work_directory=str(directory)))["task_id"]
        (claimed,) = await client.claim(work_directory=str(directory))
        assert claimed["task_id"] == task_id
        if error is not None:
            await client.fail(task_id, error, lease_token=claimed["lease_token"])
        else:
            result = {"exit_code": 0, "duration_seconds": 0.5, "output": output, "truncated": False}
            await client.complete(task_id, lease_token=claimed["lease_token"], result=result)
        return task_id

    return finish


async def on_a_terminal(*arguments: str, url: str) -> Done:
    """Run a command whose standard output is a terminal."""
    ours, theirs = pty.openpty()
    process = await start(*arguments, url=url, stdin=DEVNULL, stdout=theirs, stderr=PIPE)
    os.close(theirs)
    seen = await asyncio.to_thread(_all_of, ours)
    _, err = await process.communicate()
    return Done(process.returncode or 0, seen.decode(), err.decode())


def _all_of(terminal: int) -> bytes:
    seen = b""
    while True:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # how a terminal says that nobody is left
            os.close(terminal)
            return seen


async def test_submit_prints_the_id(cli, client, directory):
    """Nothing else is on standard output, and every option reaches the task."""
    options = ("--priority", "high", "--tag", "a", "--tag", "b c", "--max-retries", "7", "--timeout-seconds", "90")
    done = await cli("submit", "do it", "--work-directory", str(directory), *options)
    assert (done.code, done.err) == (0, "")
    task = await client.get(done.out.strip())
    assert (task["prompt"], task["priority"], task["tags"]) == ("do it", "high", ["a", "b c"])
    assert (task["max_retries"], task["timeout_seconds"]) == (7, 90)
    assert task["work_directory"] == str(directory)


async def test_submit_takes_the_current_directory(cli, client, directory):
    """If nothing is said; and a Windows path, of a worker elsewhere, is left as it is."""
    done = await cli("submit", "do it", cwd=directory)
    assert (await client.get(done.out.strip()))["work_directory"] == str(directory)
    done = await cli("submit", "do it", "--work-directory", "C:\\app")
    assert (await client.get(done.out.strip()))["work_directory"] == "C:\\app"


@pytest.mark.parametrize("way", ["-", "--file", "leading hyphen"])
async def test_where_prompts_come_from(cli, client, directory, way):
    """From standard input or a file, to the letter; a prompt may begin with a hyphen."""
    prompt = "- first\n- zweitens: ü\n"
    (directory / "prompt.md").write_text(prompt)
    arguments = {"-": ["-"], "--file": ["--file", str(directory / "prompt.md")], "leading hyphen": [prompt]}[way]
    done = await cli("submit", *arguments, "--work-directory", str(directory), stdin=prompt.encode())
    assert (await client.get(done.out.strip()))["prompt"] == prompt


async def test_json_is_the_servers_answer(cli, client, finished, directory):
    """Every command that prints has --json: the data object as it is, one document per line."""
    task_id = await finished(output="ü\n")
    whole = await client.get(task_id)
    shown = await cli("show", task_id, "--json")
    assert shown.json == whole
    assert shown.out.isascii()
    listed = await cli("list", "--json", "--work-directory", str(directory), "--limit", "5")
    assert [task["task_id"] for task in listed.json["tasks"]] == [task_id]
    watched = await cli("watch", task_id, "--json")
    events, history = [json.loads(line) for line in watched.out.splitlines()], await client.history(task_id)
    assert [{name: event[name] for name in history[0]} for event in events] == history
    assert {event["task_id"] for event in events} == {task_id}
    submitted = await cli("submit", "x", "--work-directory", str(directory), "--json")
    assert submitted.json["status"] == "waiting"


async def test_show(cli, finished):
    """The facts, then the prompt and the whole output; a failed task shows why."""
    output = "".join(f"line {number}\n" for number in range(5000))
    shown = await cli("show", await finished("what\nto do", output=output))
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.endswith(f"prompt:\nwhat\nto do\n\noutput:\n{output}")
    for fact in ("status           completed", "exit_code        0", "ran_seconds", "created_at"):
        assert fact in shown.out
    shown = await cli("show", await finished(error="exit code 3\nno such luck"))
    assert shown.code == 0
    assert shown.out.endswith("\nerror:\nexit code 3\nno such luck\n")


async def test_list(cli, client, finished, tmp_path, directory):
    """One line per task, newest first, of one directory or of all, with its prompt on that one line."""
    first = await finished("one\n\ttwo", output="")
    second = (await client.submit("[red]x[/red]", work_directory=str(tmp_path)))["task_id"]
    everything = await cli("list")
    rows = [line.split("\t") for line in everything.out.splitlines()]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        (second, "waiting", "[red]x[/red]"),
        (first, "completed", "one two"),
    ]
    assert (await cli("list", "--work-directory", str(directory))).out.startswith(first)
    assert len((await cli("list", "--limit", "1")).out.splitlines()) == 1


async def test_list_with_filters(cli, client, directory):
    """Everything that the server can be asked for; what it refuses is told, and what is no choice is a wrong usage."""
    low, high = [
        (await client.submit(prompt, work_directory=str(directory), priority=priority, tags=tags))["task_id"]
        for prompt, priority, tags in (("fix, it", "low", ["a", "b"]), ("Fix THAT", "high", ["b"]))
    ]
    await client.claim(work_directory=str(directory), worker_id="ann")
    for options, expected in (
        (["--status", "working"], [high]),
        (["--status", "working,waiting", "--sort", "created_at"], [low, high]),
        (["--sort", "-priority"], [low, high]),
        (["--sort=-created_at"], [high, low]),
        (["--priority", "low,medium"], [low]),
        (["--tags", "a,b"], [low]),
        (["--tags", "a,b", "--tag-mode", "any"], [high, low]),
        (["--worker-id", "ann,bob"], [high]),
        (["--search", "FIX"], [high, low]),
        (["--q", "fix, it"], [low]),
        (["--created-after", "2100-01-01T00:00:00Z"], []),
        (["--created-before", "2100-01-01T00:00:00Z", "--limit", "1", "--offset", "1"], [low]),
        (["--work-directory", str(directory), "--work-directory", "/elsewhere"], [high, low]),
        (["--work-directory", "/elsewhere"], []),
    ):
        found = await cli("list", *options)
        assert (found.code, [line.split("\t")[0] for line in found.out.splitlines()]) == (0, expected), options
    page = json.loads((await cli("list", "--json", "--status", "waiting")).out)
    assert ([task["task_id"] for task in page["tasks"]], page["total"], page["next_cursor"]) == ([low], 1, None)
    assert (await cli("list", "--status", "done")).code == 1
    assert (await cli("list", "--sort", "name")).code == 2


async def test_watch_follows_to_the_end(server, client, directory):
    """Each step is printed when it happens, and after the last one the command ends."""
    task_id = (await client.submit("x", work_directory=str(directory)))["task_id"]
    process = await start("watch", task_id, url=server.url, stdout=PIPE)
    async with asyncio.timeout(30):
        assert b"created" in await process.stdout.readline()
        (claimed,) = await client.claim(work_directory=str(directory), worker_id="ann")
        line = await process.stdout.readline()
        assert b"claimed" in line
        assert b"ann" in line
        await client.complete(task_id, lease_token=claimed["lease_token"])
        assert b"completed" in await process.stdout.readline()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0


@pytest.mark.parametrize(("script", "code"), [("echo fine", 0), ("echo broken >&2; exit 1", 1)])
async def test_submit_and_wait(server, cli, worker, directory, script, code):
    """With --wait the outcome is printed, and it decides the exit code."""
    await worker(server.url, directory)
    done = await cli("submit", script, "--wait", "--work-directory", str(directory))
    assert done.code == code
    assert done.out.endswith("output:\nfine\n" if code == 0 else "error:\nexit code 1\nbroken\n")


async def test_refused(cli, directory):
    """What the server refuses exits with 1 and says why, each fault on a line, on standard error."""
    done = await cli("show", "no-such-task")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("refused (404 TASK_NOT_FOUND): ")
    done = await cli("submit", "   ", "--work-directory", str(directory))
    assert (done.code, done.out) == (1, "")
    assert "VALIDATION_ERROR" in done.err
    assert done.err.count("prompt: ") == done.err.count("\n") == 1
    done = await cli("submit", "   ", "--work-directory", str(directory), "--max-retries", "101")
    assert done.err.startswith("refused (400 VALIDATION_ERROR): 2 faults\n")
    assert "\n  prompt: " in done.err
    assert "\n  max_retries: " in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "x", "--file", "y"),
        ("submit", "--file", "/no/such/file"),
        ("submit", "x", "--priority", "urgent"),
        ("submit", "x", "--bogus"),
        ("submit", "--bogus"),
        ("submit", "x", "--url", "nonsense"),
        ("submit", "x", "--api-key", "two\nlines"),
        ("show",),
        ("list", "--limit", "0"),
        ("worker", "--exec", "sh"),
        ("worker", "--exec", " ", "--work-directory", "/"),
        ("worker", "--exec", "sh", "--work-directory", "/", "--tag", "a,b"),
        ("worker", "--exec", "sh", "--work-directory", "/no/such/directory"),
        ("worker", "--exec", "sh", "--work-directory", "/", "--concurrency", "0"),
        ("demo", "/no/such/directory"),
        ("bogus",),
    ],
)
async def test_usage(arguments):
    """What cannot be meant exits with 2 before anything is sent, and says so on standard error."""
    done = await run_cli(*arguments, url="http://127.0.0.1:1")
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert "Traceback" not in done.err


async def test_a_prompt_that_is_not_text(cli):
    """Bytes that are not UTF-8 are no prompt."""
    done = await cli("submit", "-", stdin=b"\xff")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("the prompt cannot be read: ")


@pytest.mark.parametrize("arguments", [("submit", "x"), ("show", "x"), ("list",), ("watch", "x"), ("list", "--json")])
async def test_unreachable(arguments):
    """Where nobody answers the exit code is 3."""
    done = await run_cli(*arguments, url="http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert done.err == "cannot reach http://127.0.0.1:1: connection refused\n"


async def test_hostile_text_on_a_terminal(server, finished):
    """Control sequences are made visible, markup means nothing, and no prompt can break the table."""
    task_id = await finished(HOSTILE, output=HOSTILE)
    visible = r"\x1b]0;owned\x07\x1b[2J[red]not markup[/red]\x9b31m\u202e"
    for arguments in (("show", task_id), ("list",)):
        done = await on_a_terminal(*arguments, url=server.url)
        assert done.code == 0
        for character in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e"):
            assert character not in done.out
    assert visible in (await on_a_terminal("show", task_id, url=server.url)).out


async def test_list_on_80_columns(server, finished):
    """The whole id, a short time, and at least 15 columns of the prompt."""
    task_id = await finished("x" * 100, output="")
    _, line, *_ = (await on_a_terminal("list", url=server.url)).out.splitlines()
    plain = re.sub(r"\x1b\[[\d;]*m", "", line).rstrip()
    assert re.fullmatch(rf"{task_id} completed med +\d\d-\d\d \d\d:\d\d x{{15}}x*…", plain)
    assert len(plain) == 80


async def test_hostile_text_in_a_pipe(cli, finished):
    """Where no terminal acts upon it, text goes out as it is."""
    shown = await cli("show", await finished(output=HOSTILE + "\r\nü"))
    assert shown.out.endswith(f"output:\n{HOSTILE}\r\nü\n")


def test_what_stays_printable():
    """Letters of all kinds, tabs and line ends are left alone."""
    assert printable("ü 日本 👩‍💻\ta\r\nb\n") == "ü 日本 👩‍💻\ta\nb\n"
    assert printable("a\rb\x1b\ud800") == r"a\x0db\x1b\ud800".replace(r"\x0d", r"\r")


async def test_a_closed_pipe_is_quiet(server, finished):
    """A reader that has seen enough gets no traceback in return."""
    task_id = await finished(output="x" * 500_000)
    process = await start("show", task_id, url=server.url, stdout=PIPE, stderr=PIPE)
    await process.stdout.read(10)
    process.stdout._transport.close()
    assert await process.stderr.read() == b""
    assert await process.wait() == 128 + signal.SIGPIPE


async def test_ctrl_c_is_quiet(server, client, directory):
    """Interrupting a wait, which has told the id at once, says nothing more and exits with 130."""
    options = ("--wait", "--work-directory", str(directory))
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run in the background
    process = await start("submit", "x", *options, url=server.url, stdout=PIPE, stderr=PIPE, preexec_fn=heed)
    (task,) = await until(lambda: _any_task(client))
    assert await process.stderr.readline() == f"{task['task_id']}\n".encode()
    process.send_signal(signal.SIGINT)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 130


async def _any_task(client):
    return (await client.list())["tasks"]


@pytest.mark.parametrize("command", ["--help", "--version", "submit --help", "worker --help", "demo --help"])
async def test_help_needs_no_server(command):
    """Help is printed at once, and the version is ours."""
    done = await run_cli(*command.split(), url="http://127.0.0.1:1")
    assert (done.code, done.err) == (0, "")
    assert done.out


def test_imports_are_lazy():
    """Neither the package nor the command line imports aiohttp before it is used."""
    script = "import sys, task_orchestrator, task_orchestrator.cli; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env=environment(), check=False).returncode == 0
    script = "from task_orchestrator import *; Client, Worker, Refused, Unreachable"
    assert subprocess.run([sys.executable, "-c", script], env=environment(), check=False).returncode == 0
