"""A worker against servers that misbehave: what no healthy server lets us see."""

import asyncio
import json
import os
from asyncio import Queue

import pytest
from aiohttp import web as aiohttp_web
from aiohttp.test_utils import TestServer

from task_orchestrator import Client, Refused, Unreachable, Worker
from task_orchestrator.process import Tail
from tests.client.agents import CLAUDE, SESSION, printed, program, says
from tests.client.processes import is_gone, run_cli, until

TASK = {"attempt": 1, "priority": "medium", "tags": [], "prompt": "true"}


def failure(status, code):
    body = {"success": False, "data": None, "error": {"code": code, "message": "no", "details": {}}, "timestamp": ""}
    return aiohttp_web.json_response(body, status=status)


class Script:
    """A server that does what a test says: `answers` for the calls named by their last word, and a stream."""

    def __init__(self):
        self.answers = {}  # such as {"complete": [503, 200]}; 200 once they are used up
        self.calls = []
        self.connections = []
        self.to_send = Queue()

    async def stream(self, request):
        self.connections.append(dict(request.query))
        if answers := self.answers.get("stream"):
            return failure(answers.pop(0), "SAID_SO")
        response = aiohttp_web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while event := await self.to_send.get():
            await response.write(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
        return response

    async def call(self, request):
        *_, task_id, verb = request.path.split("/")
        self.calls.append((verb, task_id, await request.json()))
        if (answers := self.answers.get(verb)) and (status := answers.pop(0)) != 200:
            return failure(status, "SAID_SO")
        return aiohttp_web.json_response({"success": True, "data": {"tasks": []}, "error": None})

    def told(self, verb):
        return [(task_id, body) for called, task_id, body in self.calls if called == verb]


@pytest.fixture
async def script():
    script = Script()
    app = aiohttp_web.Application()
    app.router.add_get("/api/v1/tasks/stream", script.stream)
    app.router.add_post("/api/v1/tasks/{call:.*}", script.call)
    async with TestServer(app) as server:
        script.url = str(server.make_url("")).rstrip("/")
        yield script


@pytest.fixture
async def run(script, directory):
    """Run a worker in this process; it is stopped when the test is over."""
    async with Client(script.url) as client:
        workers = []

        def begin(command="sh", **options):
            worker = Worker(client, str(directory), command, **options)
            workers.append((worker, asyncio.create_task(worker.run())))
            return worker

        yield begin
        for worker, running in workers:
            worker.stop()
            assert await running == 0


def task(directory, name, **fields):
    return "task", {
        **TASK,
        "task_id": name,
        "lease_token": f"lease of {name}",
        "work_directory": str(directory),
        **fields,
    }


def tells_group(script):
    return f"cut -d' ' -f5 /proc/$$/stat > group.new && mv group.new group; {script}"


def read(path):
    return path.exists() and path.read_text()


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("options", [(), ("--once",)])
async def test_a_worker_that_will_never_be_let_in(script, directory, status, options):
    """A refused key, directory or request is final: one clear line, exit code 1, no second try."""
    script.answers = {"stream": [status], "claim": [status]}
    done = await run_cli("worker", "--work-directory", str(directory), "--exec", "sh", *options, url=script.url)
    advice = "give the right key in TASK_ORCHESTRATOR_API_KEY\n" if status == 401 else ""
    assert (done.code, done.err) == (1, f"refused ({status} SAID_SO): no\n{advice}")
    assert len(script.connections) + len(script.told("claim")) == 1


async def test_busy_and_draining_servers_are_tried_again(script, run, directory):
    """A 503, a drain and a stream that just ends all lead to another connection, with the full capacity."""
    script.answers = {"stream": [503, 429]}
    run(concurrency=3, worker_id="ann", lease_seconds=30)
    script.to_send.put_nowait(("drain", {}))
    await until(lambda: len(script.connections) == 4)
    script.to_send.put_nowait(None)
    await until(lambda: len(script.connections) == 5)
    script.to_send.put_nowait(task(directory, "one"))
    await until(lambda: script.told("complete"))
    asked = {"work_path": str(directory), "worker_id": "ann", "capacity": "3", "lease_seconds": "30"}
    assert all(connection == asked for connection in script.connections)


async def test_a_task_too_many_is_given_back_at_once(script, run, directory):
    """However many tasks the server sends, no more run than the worker said; the same one sent twice runs once."""
    run(concurrency=1)
    gated = "while [ ! -e gate ]; do sleep 0.02; done"
    for name in ("one", "one", "two"):
        script.to_send.put_nowait(task(directory, name, prompt=gated))
    ((task_id, body),) = await until(lambda: script.told("release"))
    assert task_id == "two"
    assert body["lease_token"] == "lease of two"
    (directory / "gate").touch()
    await until(lambda: script.told("complete"))
    assert [task_id for task_id, _ in script.told("complete")] == ["one"]


async def test_cancelled_over_the_stream(script, run, directory):
    """A cancel stops the command at once, long before the next heartbeat, and nothing is reported."""
    run("exec sh", lease_seconds=600)
    script.to_send.put_nowait(task(directory, "one", prompt=tells_group("sleep 1000")))
    group = int(await until(lambda: read(directory / "group")))
    script.to_send.put_nowait(("cancel", {"task_id": "somebody else's", "reason": "cancelled"}))
    script.to_send.put_nowait(("cancel", {"task_id": "one", "reason": "cancelled"}))
    await until(lambda: is_gone(group))
    script.to_send.put_nowait(task(directory, "two"))
    await until(lambda: script.told("complete"))
    assert [task_id for verb, task_id, _ in script.calls] == ["two"]


async def test_the_next_task_waits_for_one_that_dies_slowly(script, run, directory):
    """While a cancelled command ignores SIGTERM, the next task is kept and its lease renewed, but not started."""
    run("exec sh", lease_seconds=3)
    heedless = f"trap '' TERM; {tells_group('while :; do sleep 0.1; done')}"
    script.to_send.put_nowait(task(directory, "one", prompt=heedless))
    group = int(await until(lambda: read(directory / "group")))
    lives = f"grep -qs '^[0-9]* ([^)]*) [RSD] [0-9]* {group} ' /proc/[0-9]*/stat"
    script.to_send.put_nowait(("cancel", {"task_id": "one", "reason": "cancelled"}))
    script.to_send.put_nowait(task(directory, "two", prompt=f"{lives} && echo both || echo alone"))
    ((task_id, body),) = await until(lambda: script.told("complete"))
    assert (task_id, body["result"]["output"]) == ("two", "alone\n")
    assert {"two"} <= {task_id for task_id, _ in script.told("heartbeat")}
    assert script.told("release") == []


async def test_a_report_is_repeated_until_it_is_heard(script, run, directory):
    """Until the server accepts or refuses it, with the same words and the same token."""
    script.answers = {"complete": [503, 500, 200], "fail": [502, 409]}
    run(concurrency=1)
    script.to_send.put_nowait(task(directory, "good"))
    await until(lambda: len(script.told("complete")) == 3)
    script.to_send.put_nowait(task(directory, "bad", prompt="exit 9"))
    await until(lambda: len(script.told("fail")) == 2)
    script.to_send.put_nowait(task(directory, "next"))
    await until(lambda: len(script.told("complete")) == 4)
    first, second, third, _ = (body for _, body in script.told("complete"))
    assert first == second == third
    assert first["lease_token"] == "lease of good"


async def test_nul_and_bad_bytes_do_no_harm(script, run, directory):
    """NUL cannot stand in an environment and is left out there; in the output it becomes U+FFFD."""
    run("cat; printf '%s' \"$TASK_TAGS\"; printf '\\377'")
    script.to_send.put_nowait(task(directory, "one", prompt="a\0b", tags=["c\0d", "e"]))
    ((_, body),) = await until(lambda: script.told("complete"))
    assert body["result"]["output"] == "a\ufffdbcd,e\ufffd"


async def test_a_session_of_those_around_us_is_not_ours(script, run, directory, monkeypatch):
    """A worker that an agent has started does not hand on what that one was given."""
    monkeypatch.setenv("TASK_SESSION_ID", "theirs")
    run('echo "${TASK_SESSION_ID-none}"', concurrency=2)
    script.to_send.put_nowait(task(directory, "one"))
    script.to_send.put_nowait(task(directory, "two", metadata={"session_id": "ours"}))
    told = dict(await until(lambda: script.told("complete")[1:] and script.told("complete")))
    assert [told[name]["result"]["output"] for name in ("one", "two")] == ["none\n", "ours\n"]


async def test_news_that_does_not_get_through_is_told_again(script, run, directory):
    """With the next heartbeat, and in the end before the report; what is refused for good is not said twice."""
    script.answers = {"heartbeat": [503, 400]}
    run(f"{says(directory / 'agent.py', CLAUDE[:-1])}; until [ -e gate ]; do sleep 0.02; done", lease_seconds=3)
    script.to_send.put_nowait(task(directory, "one"))
    await until(lambda: len(script.told("heartbeat")) >= 3)
    said = [
        {name: body[name] for name in ("progress", "metadata") if name in body} for _, body in script.told("heartbeat")
    ]
    assert said[0] == said[1] == {"progress": said[0]["progress"], "metadata": {"session_id": SESSION}}
    assert said[2] == {}
    (directory / "gate").touch()
    await until(lambda: script.told("complete"))


async def test_who_says_nothing_new_costs_no_heartbeats(script, run, directory):
    """However much of the same it prints."""
    same = printed(CLAUDE[:4]).decode()
    agent = program(
        directory / "agent.py", f"import time\nfor _ in range(30): print({same!r}, flush=True); time.sleep(0.1)"
    )
    run(agent, lease_seconds=600)
    script.to_send.put_nowait(task(directory, "one"))
    await until(lambda: script.told("complete"))
    assert len(script.told("heartbeat")) <= 2


async def test_a_lost_claim_is_repeated_by_name(script, directory):
    """With --once the same `claim_id` is sent until an answer comes, and another one for the next claim."""
    script.answers = {"claim": [503, 502, 200, 403]}
    async with Client(script.url) as client:
        with pytest.raises(Refused):
            await Worker(client, str(directory), "sh", once=True, tags=["a"]).run()
    first, second, third, fourth = (body for _, body in script.told("claim"))
    assert first == second == third
    assert len(first["claim_id"]) > 30
    assert first["tags"] == ["a"]
    assert fourth["claim_id"] != first["claim_id"]


async def test_what_a_failed_command_said(script, run, directory):
    """Within 16 KiB: standard error comes first, and the end of the output gets the room that is left."""
    run()
    size = 16 * 1024
    for number, errors in enumerate((15_000, 20_000), 1):
        said = f"printf '%0{errors}d' 0 >&2; printf 'a%020000dz' 1; exit 5"
        script.to_send.put_nowait(task(directory, f"{errors} zeros", prompt=said))
        await until(lambda number=number: len(script.told("fail")) == number)
    first, second = (body["error_message"] for _, body in script.told("fail"))
    assert first.startswith("exit code 5\n" + "0" * 15_000 + "\n--- output ---\n0")
    assert first.endswith("01z")
    assert second == "exit code 5\n".ljust(size, "0")
    assert len(first) == size


async def test_a_heartbeat_that_fails_once_is_repeated(script, run, directory):
    """A server that stumbles does not cost the lease."""
    script.answers = {"heartbeat": [503, 200]}
    run(lease_seconds=3)
    script.to_send.put_nowait(task(directory, "one", prompt="while [ ! -e gate ]; do sleep 0.02; done"))
    await until(lambda: len(script.told("heartbeat")) >= 2)
    (directory / "gate").touch()
    await until(lambda: script.told("complete"))


async def test_what_is_not_a_task_orchestrator(script):
    """An answer without our envelope is either refused by its status or nobody we know."""
    async with Client(script.url) as client:
        with pytest.raises(Refused) as refused:
            await client.get("no-such-route")
        assert (refused.value.status, refused.value.code) == (405, "HTTP_405")
        script.answers = {"stream": [404]}
        with pytest.raises(Refused):
            await anext(client.stream(work_directory="/x"))
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable, match=r"cannot reach http://127\.0\.0\.1:1: connection refused"):
            await client.health()


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://host:port"])
def test_addresses_that_cannot_be(url):
    """They are refused before anything is sent."""
    with pytest.raises(ValueError, match=r"."):
        Client(url)


def test_a_worker_needs_its_directory(tmp_path):
    """And at least one slot."""
    client = Client()
    with pytest.raises(NotADirectoryError, match="does not exist"):
        Worker(client, str(tmp_path / "nowhere"), "sh")
    with pytest.raises(ValueError, match="at least 1"):
        Worker(client, str(tmp_path), "sh", concurrency=0)


async def test_the_last_words_are_kept():
    """What a pipe still holds at the end is read, to the limit, and no character is shown in halves."""
    tail = Tail(3)
    os.write(tail.writer, "aüüü".encode())
    os.close(tail.writer)
    tail.close()
    assert (tail.text(), tail.truncated) == ("ü", True)


async def test_a_stopped_command_may_clean_up(script, run, directory):
    """SIGTERM comes first: who heeds it has time to leave things in order."""
    run("exec sh")
    careful = f"trap 'echo tidy > note; exit' TERM; {tells_group('while :; do sleep 0.02; done')}"
    script.to_send.put_nowait(task(directory, "one", prompt=careful))
    await until(lambda: read(directory / "group"))
    script.to_send.put_nowait(("cancel", {"task_id": "one", "reason": "cancelled"}))
    assert await until(lambda: read(directory / "note")) == "tidy\n"
