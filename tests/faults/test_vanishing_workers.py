"""A worker that goes away while it waits, or just as it is being answered, takes no task with it."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest

from .crowd import call_many, crowd, many_files, resident_bytes
from .database import entries, reading
from .wire import request
from .workers import (
    PATIENCE_SECONDS,
    Poller,
    Streamer,
    connect,
    frozen,
    health,
    reset,
    served,
    wait_until_connected,
    wait_until_served,
    wait_until_waiting,
)

WORKERS = 200
SURVIVORS = WORKERS // 2  # and as many tasks
CREATORS = 10  # connections
STORMS = 10
CLAIM_LIMIT = 100
CROWD = 10_000
CROWD_TASKS = 500
GROWTH_BYTES_MAX = 16 * 2**20  # of the server's memory, by a second crowd; whoever waits costs 12 KiB meanwhile
DIRECTORY = "/srv/faults"

either_kind = pytest.mark.parametrize("kind", [Poller, Streamer])


@pytest.fixture
def rng() -> Random:
    seed = Random().randrange(2**32)
    print(f"seed {seed}")  # shown if it fails
    return Random(seed)


@contextmanager
def waiting(url: str, kind: type[Poller]) -> Iterator[list[Poller]]:
    with ExitStack() as stack:
        workers = [kind(url, f"worker-{number}", DIRECTORY) for number in range(WORKERS)]
        for worker in workers:
            stack.enter_context(closing(worker.socket))
        wait_until_connected(url, WORKERS)
        yield workers


@contextmanager
def created(url: str) -> Iterator[None]:
    """A task for each survivor, asked for over several connections at once; the answers are on their way."""
    create = request("POST", "/api/v1/tasks", {"work_directory": DIRECTORY, "prompt": "Do it."})
    with ExitStack() as stack:
        for _ in range(CREATORS):
            stack.enter_context(closing(connect(url))).sendall(create * (SURVIVORS // CREATORS))
        yield


def vanish(number: int, workers: list[Poller], rng: Random) -> list[Poller]:
    """Of those without an answer, half of the next in turn go; returns who is left."""
    happy = served(workers)
    waiting = [worker for worker in workers if worker not in happy]
    going = set(rng.sample(waiting[: 2 * number], number))
    for worker in going:
        worker.vanish()
    return [worker for worker in workers if worker not in going]


def check_each_has_one(url: str, survivors: list[Poller]) -> None:
    tasks = [worker.task() for worker in survivors]
    assert len({task["task_id"] for task in tasks}) == SURVIVORS
    now = health(url)
    assert (now["active_tasks"], now["metrics"]["queue_size"]) == (SURVIVORS, 0)


@either_kind
def test_who_vanished_while_waiting_is_given_nothing(server: Any, rng: Random, kind: type[Poller]) -> None:
    """As many tasks as workers are left: each of them gets one."""
    with waiting(server.url, kind) as workers:
        survivors = vanish(WORKERS - SURVIVORS, workers, rng)
        with created(server.url):
            check_each_has_one(server.url, survivors)


@either_kind
def test_resets_that_come_with_the_tasks_cost_none(server: Any, rng: Random, kind: type[Poller]) -> None:
    """The server finds the tasks and the resets at the same moment, in whatever order."""
    with waiting(server.url, kind) as workers, ExitStack() as stack:
        with frozen(server.pid):
            stack.enter_context(created(server.url))
            survivors = vanish(WORKERS - SURVIVORS, workers, rng)
        check_each_has_one(server.url, survivors)


@either_kind
def test_resets_amid_the_answers_cost_no_task(server: Any, rng: Random, kind: type[Poller]) -> None:
    """Some have their task, some are just being answered and some still wait, each time that some vanish."""
    with waiting(server.url, kind) as survivors, created(server.url):
        for storm in range(STORMS):
            wait_until_served(survivors, 1 + storm * SURVIVORS // STORMS // 2)
            with frozen(server.pid):
                survivors = vanish((WORKERS - SURVIVORS) // STORMS, survivors, rng)
        check_each_has_one(server.url, survivors)


def create_large(url: str, number: int) -> None:
    body = {"work_directory": DIRECTORY, "prompt": "Do it.", "metadata": {"filling": "x" * 64_000}}
    with closing(HTTPConnection(urlsplit(url).netloc)) as connection:
        for _ in range(number):
            connection.request("POST", "/api/v1/tasks", json.dumps(body))
            assert connection.getresponse().read()


def test_an_answer_too_long_to_be_written_at_once_gives_its_tasks_back(server: Any) -> None:
    """The worker goes when it has read the beginning of more than the system keeps for it."""
    create_large(server.url, CLAIM_LIMIT)
    with closing(connect(server.url)) as connection:
        claim = request("POST", "/api/v1/tasks/claim", {"work_directory": DIRECTORY, "limit": CLAIM_LIMIT})
        connection.sendall(claim)
        assert connection.recv(1)
        assert health(server.url)["active_tasks"] == CLAIM_LIMIT
        reset(connection)
    wait_until_waiting(server.url, CLAIM_LIMIT)


def test_a_crowd_of_whom_half_vanish_loses_no_task_and_leaves_no_memory_behind(server: Any, rng: Random) -> None:
    """The dead are given nothing; as many of the living as there are tasks get one each, the others go on waiting."""
    with many_files(CROWD):
        after_the_first = one_crowd(server, rng)
        assert one_crowd(server, rng) - after_the_first < GROWTH_BYTES_MAX


def one_crowd(server: Any, rng: Random) -> int:
    """They come, half of them vanish, some get a task and complete it, all go; the server's memory then."""
    with reading(server.database) as db:
        last_seq = max((entry.seq for entry in entries(db)), default=0)
    with crowd(server.url, CROWD, DIRECTORY) as waiters:
        dead = set(rng.sample(waiters, CROWD // 2))
        for waiter in dead:
            waiter.vanish()
        wait_until_left(server.url, CROWD - len(dead))
        create = request("POST", "/api/v1/tasks", {"work_directory": DIRECTORY, "prompt": "Do it."})
        call_many(server.url, [create] * CROWD_TASKS)
        living = [waiter for waiter in waiters if waiter not in dead]
        wait_until_served(living, CROWD_TASKS)
        tasks = {waiter.name: waiter.task() for waiter in served(living)}
        assert len({task["task_id"] for task in tasks.values()}) == CROWD_TASKS
        with reading(server.database) as db:
            claimed = {entry.worker_id for entry in entries(db, last_seq) if entry.type == "task.claimed"}
        assert claimed == tasks.keys()
        call_many(server.url, [complete(task) for task in tasks.values()])
    wait_until_left(server.url, 0)
    return resident_bytes(server.pid)


def complete(task: Any) -> bytes:
    return request("POST", f"/api/v1/tasks/{task['task_id']}/complete", {"lease_token": task["lease_token"]})


def wait_until_left(url: str, number: int) -> None:
    """Returns when so many requests are left that wait."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := health(url))["metrics"]["active_connections"] > number + 1:  # this one counts too
        assert time.monotonic() < deadline, now
