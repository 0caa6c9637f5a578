"""`task-orchestrator watch`: one task to its end, or everything, whatever the server does meanwhile."""

import asyncio
import json
import signal
import sqlite3
from asyncio.subprocess import PIPE
from contextlib import closing

import pytest

from tests.client.processes import PATIENCE_SECONDS, start, until


async def record(client, **query):
    """All events, as pages tell them."""
    status, answer = await client.exchange(
        "GET", "/api/v1/events", query={"limit": 1000, **query}, headers={"Accept": "application/json"}
    )
    assert status == 200
    return answer["data"]["events"]


async def cycle(client, directory):
    task = await client.submit("x", work_directory=str(directory))
    (claimed,) = await client.claim(work_directory=str(directory), worker_id="ann")
    await client.complete(task["task_id"], lease_token=claimed["lease_token"])
    return task["task_id"]


class Watching:
    def __init__(self, process):
        self.process = process

    async def lines(self, count):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [(await self.process.stdout.readline()).decode().rstrip("\n") for _ in range(count)]

    async def events(self, count):
        return [json.loads(line) for line in await self.lines(count)]

    async def stop(self):
        """Ctrl-C; all that it still said."""
        self.process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(self.process.communicate(), PATIENCE_SECONDS)
        assert self.process.returncode == 130
        return out.decode(), err.decode()


@pytest.fixture
async def watching(server):
    started = []

    async def begin(*arguments):
        started.append(await start("watch", *arguments, url=server.url, stdout=PIPE, stderr=PIPE))
        return Watching(started[-1])

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_everything_is_printed_as_it_happens(client, directory, watching):
    """A line each: when, what, which task, where, who."""
    task_id = await cycle(client, directory)
    watch = await watching("--after", "0")
    told = await watch.lines(3)
    again = await cycle(client, directory)
    told += await watch.lines(3)
    await client.pause(str(directory), "lunch")
    told += await watch.lines(1)
    assert await watch.stop() == ("", "")
    expected = [f"{event['at']}  {event['type']}" for event in await record(client)]
    assert [line[: len(start)] for line, start in zip(told, expected, strict=True)] == expected
    assert told[0].endswith(f"task.created  {task_id}  {directory}")
    assert f"task.claimed  {again}  {directory}  ann  " in told[4]
    assert told[6].endswith(f'directory.paused  {directory}  {{"reason": "lunch"}}')


async def test_only_what_is_asked_for_is_printed(client, directory, watching):
    """Without --after what happens from now on."""
    await cycle(client, directory)
    narrow = await watching("--types", "task.claimed,task.completed", "--work-directory", str(directory), "--json")
    wide = await watching("--after", "2", "--json")

    async def both_listen():
        return (await client.health())["metrics"]["active_connections"] == 3

    await until(both_listen)
    await cycle(client, f"{directory}/other")
    await cycle(client, directory)
    every = await record(client)
    assert await narrow.events(2) == every[7:9]
    assert await wide.events(7) == every[2:9]


async def test_it_goes_on_where_it_was_when_the_server_comes_back(server, client, directory, watching):
    """Without loss or repetition, also if nothing had happened yet; the outage is told once."""
    watch = await watching("--after", "0", "--json")
    await cycle(client, directory)
    seen = await watch.events(3)
    server.kill()
    assert "trying again" in (await watch.process.stderr.readline()).decode()
    server.start()
    await cycle(client, directory)
    seen += await watch.events(3)
    assert await asyncio.to_thread(server.terminate) == 0
    server.start()
    await cycle(client, directory)
    seen += await watch.events(4)
    assert seen == await record(client)
    assert [event["type"] for event in seen].count("server.draining") == 1


async def test_it_ends_with_the_task(client, cli, directory):
    """Completed, cancelled, or failed and not retried since; whatever the history has seen before."""
    task = await client.submit("x", work_directory=str(directory))
    for _ in range(2):
        (claimed,) = await client.claim(work_directory=str(directory))
        await client.fail(task["task_id"], "no", lease_token=claimed["lease_token"])
        await client.retry(task["task_id"])
    (claimed,) = await client.claim(work_directory=str(directory))
    await client.fail(task["task_id"], "no", lease_token=claimed["lease_token"])
    types = ["created", *(["claimed", "failed", "retried"] * 2), "claimed", "failed"]
    watched = await cli("watch", task["task_id"])
    assert (watched.code, watched.err) == (0, "")
    assert [line.split()[1] for line in watched.out.splitlines()] == [f"task.{type}" for type in types]
    await client.cancel(task["task_id"])
    watched = await cli("watch", task["task_id"], "--json", "--after", "1")
    assert [json.loads(line)["type"] for line in watched.out.splitlines()] == [
        f"task.{type}" for type in [*types[1:], "cancelled"]
    ]
    last = (await client.history(task["task_id"]))[-1]["seq"]
    nothing = await cli("watch", task["task_id"], "--after", str(last))
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "")


async def test_what_is_not_on_record_any_more_is_told(server, client, cli, directory):
    task_id = await cycle(client, directory)
    assert await asyncio.to_thread(server.terminate) == 0
    with closing(sqlite3.connect(server.database)) as db:
        db.execute("delete from history where seq < 3")
        db.commit()
    server.start()
    watched = await cli("watch", task_id, "--after", "0")
    assert (watched.code, watched.err) == (0, "events 1 to 2 are not on record\n")
    assert len(watched.out.splitlines()) == 1
    watched = await cli("watch", task_id, "--after", "0", "--json")
    assert json.loads(watched.out.splitlines()[0]) == {"type": "gap", "from": 1, "to": 2}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nobody",), 1, "TASK_NOT_FOUND"),
        (("--types", "task.complete"), 1, "did you mean 'task.completed'?"),
        (("x", "--types", "task.created"), 2, "--types"),
        (("x", "--work-directory", "/w"), 2, "--work-directory"),
        (("--after", "-1"), 2, "--after"),
    ],
)
async def test_what_makes_no_sense_is_refused(cli, arguments, code, says):
    done = await cli("watch", *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


async def test_a_stream_that_tells_where_it_stands(client, directory):
    """The id to come again with is known before anything has happened."""
    await cycle(client, directory)
    told = []
    stream = client.events(stands_at=told.append)
    waiting = asyncio.create_task(anext(stream))
    await until(lambda: told)
    task = await client.submit("x", work_directory=str(directory))
    assert (await asyncio.wait_for(waiting, PATIENCE_SECONDS)).json()["task_id"] == task["task_id"]
    await stream.aclose()
    assert told[0] == "3"
