"""How a server stops, what it refuses to start on, and what the next one finds."""

import asyncio
import os
import resource
import signal
import socket
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, paused, raw, refused_start, text_of, until, wire

STOP_SECONDS = 2


async def stopped(server):
    """Told to stop: its exit status, and how long it took."""
    began = time.monotonic()
    status = await asyncio.to_thread(server.terminate)
    return status, time.monotonic() - began


async def all_tasks(api):
    page = (await api.get(TASKS, limit=1000)).data
    return page["tasks"], [await api.history(task) for task in page["tasks"]]


async def test_everybody_who_waits_is_released_at_once(server, directory):
    """60 long polls, 30 streams and 10 waits for an outcome hold up nothing, and each gets a whole answer."""
    async with connected(server) as api, AsyncExitStack() as stack:
        held = await api.claimed(f"{directory}/held")
        claim = {"work_directory": directory, "wait_seconds": 60}
        polls = [api.get(f"{TASKS}/next", work_path=directory, wait_seconds=60) for _ in range(30)]
        polls += [api.post(f"{TASKS}/claim", claim) for _ in range(30)]
        waits = [api.get(f"{TASKS}/{held['task_id']}", until="terminal", wait_seconds=60) for _ in range(10)]
        polls, waits = ([asyncio.create_task(request) for request in requests] for requests in (polls, waits))
        kinds = [{}, {"worker_id": "w1"}, {"mode": "notify"}]
        streams = [await stack.enter_async_context(api.stream(directory, **kinds[n % 3])) for n in range(30)]
        await api.busy_with(100)
        status, seconds = await stopped(server)
        nothing = [answer.data for answer in await asyncio.gather(*polls)]
        states = [answer.data["status"] for answer in await asyncio.gather(*waits)]
        ends = [(await events.next(), await events.next()) for events in streams]
    assert status == 0
    assert seconds < STOP_SECONDS
    assert nothing == [None] * 30 + [{"tasks": []}] * 30
    assert states == ["working"] * 10
    assert ends == [(("drain", {}), None)] * 30


async def test_those_who_have_sent_nothing_or_half_a_request_hold_up_nothing(server):
    async with AsyncExitStack() as stack:
        halves = [b"", b"POST /api", text_of("POST", TASKS, Content_Length="10") + b"{", text_of("GET", "/health/live")]
        for half in halves * 5:
            await (await stack.enter_async_context(wire(server))).send(half)
        status, seconds = await stopped(server)
    assert (status, seconds < STOP_SECONDS) == (0, True)


async def test_a_worker_who_does_not_read_holds_up_nothing(server, directory):
    """And what was never sent to it waits again."""
    async with connected(server) as api:
        large = {"metadata": {"a": "x" * 65_000}}
        await asyncio.gather(*(api.create(directory, **large) for _ in range(100)))
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(text_of("GET", f"{TASKS}/stream?work_path={directory}&capacity=100&lease_seconds=1000"))

            async def assigned():
                return {task["status"] for task in (await all_tasks(api))[0]} == {"working"}

            await until(assigned)
            status, seconds = await stopped(server)
    assert (status, seconds < STOP_SECONDS) == (0, True)
    server.start()
    async with connected(server) as api:
        assert await api.next(directory) is not None


@pytest.fixture
def impatient(tmp_path):
    """A server that waits half a second for its clients."""
    server = ServerProcess(tmp_path, environ={"APP_SERVER_REQUEST_TIMEOUT_SECONDS": "0.5"}).start()
    yield server
    assert server.terminate() == 0


async def test_a_reader_that_does_not_read_is_not_waited_for(impatient, directory):
    """Neither with a long list nor with claimed tasks, which are given back."""
    async with connected(impatient) as api:
        large = {"work_directory": directory, "prompt": "x", "metadata": {"a": "x" * 65_000}}
        batches = [await api.post(f"{TASKS}/batch", {"tasks": [large] * 10}) for _ in range(15)]
        made = [task for batch in batches for task in batch.data["tasks"]]
    async with connected(impatient) as api:  # one connection from here on, so that none is idle for half a second
        claim = {"work_directory": directory, "limit": 100}
        for said in (("GET", TASKS), ("POST", f"{TASKS}/claim", claim)):
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", impatient.port))
                deaf.sendall(text_of(*said))
                await api.busy_with(1)
                await api.busy_with(0)

        async def given_back():
            return {await api.status(task) for task in made} == {"waiting"}

        await until(given_back)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_was_asked_before_is_answered_and_nothing_new_is_taken(server, directory, number):
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wire(server)) for _ in range(50)]
        for connection in wires:
            await connection.send(text_of("GET", "/health/live"))
            assert (await connection.answer()).status == 200
        with paused(server):
            for connection in wires:
                await connection.send(text_of("POST", TASKS, {"work_directory": directory, "prompt": "x"}))
            os.kill(server.pid, number)
        answers = await asyncio.gather(*(connection.answer() for connection in wires), return_exceptions=True)
        assert await asyncio.to_thread(server.wait) == 0
    created = [answer for answer in answers if not isinstance(answer, Exception) and answer.status == 201]
    others = [answer for answer in answers if not isinstance(answer, Exception) and answer.status != 201]
    for answer in others:
        answer.refused(503, "UNAVAILABLE")
    server.start()
    async with connected(server) as api:
        tasks, _ = await all_tasks(api)
    assert {answer.data["task_id"] for answer in created} <= {task["task_id"] for task in tasks}


async def some_of_everything(api, directory):
    """Tasks in every state; returns a held one."""
    for number in range(30):
        await api.create(
            directory, f"{number}", priority=["low", "high", "medium"][number % 3], tags=["a", f"{number}"]
        )
    await api.create(directory, delay_seconds=1000, metadata={"é": [None, 1.5]})
    await api.create(directory, expires_at="2000-01-01T00:00:00Z")
    await api.claimed(f"{directory}/b", lease_seconds=1000)
    for verb, said in (
        ("complete", {"result": {"a": ["\N{PILE OF POO}"]}}),
        ("fail", {"error_message": "no"}),
        ("release", {}),
        ("fail", {"error_message": "again", "retryable": True}),
    ):
        task = await api.claimed(f"{directory}/{verb}")
        assert (await api.tell(task, verb, **said)).status == 200
    held = await api.claimed(f"{directory}/c", max_retries=7)
    assert (await api.tell(held, "heartbeat", progress={"percent": 5, "message": "busy"})).status == 200
    task = {"task_id": (await api.get(TASKS, work_directory=directory, limit=1)).data["tasks"][0]["task_id"]}
    await api.get(f"{TASKS}/{task['task_id']}", until="terminal", wait_seconds=10)  # has expired
    return held


@pytest.mark.parametrize("how", ["told to stop", "killed"])
async def test_a_restart_changes_nothing(server, directory, how):
    """Tasks, history, order of claims; a lease held before is still held, and its token good."""
    async with connected(server) as api:
        held = await some_of_everything(api, directory)
        before = await all_tasks(api)
    if how == "killed":
        server.kill()
    else:
        assert server.terminate() == 0
    server.start()
    async with connected(server) as api:
        assert await all_tasks(api) == before
        claimed = [await api.next(directory) for _ in range(30)]
        expected = [f"{number}" for first in (1, 2, 0) for number in range(first, 30, 3)]
        assert [task["prompt"] for task in claimed] == expected
        assert await api.next(directory) is None
        assert (await api.tell(held, "heartbeat")).data["deadline_at"] == held["deadline_at"]
        (await api.tell({**held, "lease_token": "forged"}, "complete")).refused(409, "LEASE_LOST")
        assert (await api.tell(held, "complete", result="done")).data["status"] == "completed"
        after, histories = await all_tasks(api)
        newest = await api.create(directory)
        assert newest["task_id"] > max(task["task_id"] for task in after)
        last_seq = max(line["seq"] for history in histories for line in history)
        assert (await api.history(newest))[0]["seq"] == last_seq + 1


async def test_a_bounce_of_the_server_costs_no_lease(server, directory):
    """A lease that ran out while nobody could renew it lives on for the grace, 30 s unless set otherwise."""
    async with connected(server) as api:
        task = await api.claimed(directory, lease_seconds=0.05)
    server.kill()
    server.start()
    async with connected(server) as api:
        now = datetime.now(UTC)
        shown = await api.show(task)
        assert shown["status"] == "working"
        assert 20 < (datetime.fromisoformat(shown["lease_expires_at"]) - now).total_seconds() < 31
        assert (await api.tell(task, "complete", result=1)).data["status"] == "completed"


async def test_a_lease_that_is_not_renewed_within_the_grace_is_lost(server, directory):
    server.environ = {"APP_TASK_RESTART_GRACE_SECONDS": "0.2"}
    async with connected(server) as api:
        task = await api.claimed(directory, lease_seconds=0.3)
    server.kill()
    server.start()
    async with connected(server) as api:
        again = await api.next(directory, wait_seconds=10)
        assert (again["task_id"], again["attempt"], again["retry_count"]) == (task["task_id"], 2, 1)
        assert (await api.tell(task, "complete", result=1)).refused(409, "LEASE_LOST")["reason"] == "reassigned"


def assert_one_line(refused, database):
    """One line, of what to do; nothing was served."""
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert str(database) in line
    return line


async def test_a_second_server_on_the_same_database_is_refused(server, directory):
    """By whatever name it is called, and the first one does not notice."""
    other_name = server.database.with_name("link.db")
    other_name.symlink_to(server.database)
    for database in (server.database, other_name):
        assert f"process {server.pid}" in assert_one_line(refused_start(database), database)
    async with connected(server) as api:
        task = await api.claimed(directory)
        assert (await api.tell(task, "complete")).status == 200


def newer(database):
    assert ServerProcess(database.parent).start().terminate() == 0
    with closing(sqlite3.connect(database)) as db:
        db.execute("pragma user_version = 99")


def of_another_program(database):
    with closing(sqlite3.connect(database)) as db:
        db.execute("create table notes (text)")
        db.execute("insert into notes values ('mine')")
        db.commit()


def no_database(database):
    database.write_text("Dear diary, today I was nearly opened as a database. " * 100)


def a_directory(database):
    database.mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [(newer, "newer"), (of_another_program, "another program"), (no_database, "not a database"), (a_directory, "")],
)
def test_a_file_that_is_not_this_releases_is_refused_and_left_alone(tmp_path, make, says):
    database = tmp_path / "tasks.db"
    make(database)
    before = None if database.is_dir() else database.read_bytes()
    assert says in assert_one_line(refused_start(database), database)
    assert (None if database.is_dir() else database.read_bytes()) == before


async def test_when_the_disk_refuses_nothing_is_promised_and_the_server_stops(server, directory):
    """The whole batch is answered 503, and whoever waits; what was promised before is kept, and nothing else."""
    async with connected(server) as api, AsyncExitStack() as stack:
        promised = [await api.create(f"{directory}/{number}") for number in range(20)]
        held = await api.next(f"{directory}/0")
        waiting = [
            asyncio.create_task(api.get(f"{TASKS}/next", work_path=directory, wait_seconds=60)) for _ in range(5)
        ]
        outcome = asyncio.create_task(api.get(f"{TASKS}/{held['task_id']}", until="terminal", wait_seconds=60))
        wires = [await stack.enter_async_context(wire(server)) for _ in range(40)]
        for connection in wires:  # it is there, and served
            await connection.send(text_of("GET", "/health/live"))
            assert (await connection.answer()).status == 200
        reader = await stack.enter_async_context(wire(server))
        await reader.send(text_of("GET", f"{TASKS}/stream?work_path={directory}/streamed"))
        await api.busy_with(7)
        before = await all_tasks(api)
        full = max(path.stat().st_size for path in server.database.parent.iterdir())
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (full, full))
        with paused(server):
            for number, connection in enumerate(wires):
                body = {"work_directory": f"{directory}/new", "prompt": f"{number} " + "x" * 9_000}
                await connection.send(text_of("POST", TASKS, body))
        answers = await asyncio.gather(*(connection.answer() for connection in wires), *waiting)
        assert await asyncio.to_thread(server.wait) == 1
        assert (await outcome).data["status"] == "working"
        streamed = await reader.rest()
        assert streamed.count(b"HTTP/1.1") == 1
        assert b"503" not in streamed
    for answer in answers:
        answer.refused(503, "UNAVAILABLE")
        assert int(answer.headers["Retry-After"]) > 0
    assert "cannot be written" in server.log.read_text()
    server.start()
    async with connected(server) as api:
        assert await all_tasks(api) == before
        assert {task["task_id"] for task in promised} <= {task["task_id"] for task in before[0]}
        assert (await api.tell(held, "complete")).data["status"] == "completed"


async def test_the_server_that_has_stopped_lets_go_of_its_port_and_database(server):
    assert server.terminate() == 0
    server.start()
    assert (await raw(server, text_of("GET", "/health/ready"))).status == 200
    assert server.terminate() == 0
    assert sorted(path.name for path in server.database.parent.iterdir()) == ["server.log", "tasks.db", "tasks.db.lock"]
