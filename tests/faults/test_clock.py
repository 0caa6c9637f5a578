"""Somebody sets the wall clock an hour back or forward: leases neither live for an hour nor all end at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .database import entries, reading
from .room import Room
from .supervisor import Supervisor
from .wire import Connection

HOUR_SECONDS = 3600
TIMEOUT_SECONDS = 3 * HOUR_SECONDS  # while a server is away, a jump forward counts as time that has passed
LEASE_SECONDS = 2
GRACE_SECONDS = 1
SLACK_SECONDS = 2  # for a machine that has other things to do
DIRECTORY = "/srv/clock"

either_way = pytest.mark.parametrize("hours", [1, -1], ids=["forward", "back"])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Supervisor]:
    settings = {"APP_TASK_RESTART_GRACE_SECONDS": str(GRACE_SECONDS)}
    supervisor = Supervisor(Room(tmp_path), tmp_path / "server.log", settings)
    await supervisor.start(commanded=True)
    yield supervisor
    if supervisor.running:
        await supervisor.terminate()


async def call(server: Supervisor, method: str, path: str, body: object = None) -> Any:
    """The data of the answer; the call must be granted."""
    connection = await Connection.open(server.url)
    try:
        answer = await connection.call(method, path, body)
    finally:
        connection.close()
    assert answer.status in (200, 201), answer
    return answer.body["data"]


async def claim(server: Supervisor, wait_seconds: float = 0) -> Any:
    query = f"work_path={DIRECTORY}&lease_seconds={LEASE_SECONDS}&wait_seconds={wait_seconds}"
    return await call(server, "GET", f"/api/v1/tasks/next?{query}")


async def heartbeat(server: Supervisor, task: Any) -> None:
    await call(server, "POST", f"/api/v1/tasks/{task['task_id']}/heartbeat", {"lease_token": task["lease_token"]})


async def two_leases(server: Supervisor) -> tuple[Any, Any]:
    """Both have just begun."""
    for number in range(2):
        body = {"work_directory": DIRECTORY, "prompt": f"task {number}", "timeout_seconds": TIMEOUT_SECONDS}
        await call(server, "POST", "/api/v1/tasks", body)
    return await claim(server), await claim(server)


async def check_only_the_silent_one_ends(server: Supervisor, silent: Any, renewed: Any) -> float:
    """Seconds until somebody else gets the task whose holder is silent; the other holder keeps its own meanwhile."""
    began = time.monotonic()
    next = asyncio.create_task(claim(server, wait_seconds=10))
    while not next.done():
        await heartbeat(server, renewed)
        await asyncio.wait([next], timeout=LEASE_SECONDS / 8)
    task = next.result()
    assert task, "after 10 s nobody has got it"
    assert (task["task_id"], task["attempt"]) == (silent["task_id"], silent["attempt"] + 1)
    await heartbeat(server, renewed)
    return time.monotonic() - began


def check_time_never_went_back(server: Supervisor) -> None:
    with reading(server.room.database) as db:
        assert all(before.at <= after.at for before, after in pairwise(entries(db)))


@either_way
async def test_a_jump_of_the_clock_under_a_running_server_changes_no_lease(server: Supervisor, hours: int) -> None:
    began = time.monotonic()
    leases = await two_leases(server)
    claimed = time.monotonic()
    await server.tell(f"clock {hours * HOUR_SECONDS}")
    await check_only_the_silent_one_ends(server, *leases)
    assert began + LEASE_SECONDS <= time.monotonic() < claimed + LEASE_SECONDS + SLACK_SECONDS
    check_time_never_went_back(server)


@either_way
async def test_a_jump_of_the_clock_while_the_server_is_away_costs_no_living_holder_its_lease(
    server: Supervisor, hours: int
) -> None:
    """Who is silent loses the task after what was left of the lease, or after the grace that all get."""
    leases = await two_leases(server)
    await server.kill()
    server.offset_seconds = hours * HOUR_SECONDS
    await server.start(commanded=True)
    assert await check_only_the_silent_one_ends(server, *leases) < LEASE_SECONDS + GRACE_SECONDS + SLACK_SECONDS
    check_time_never_went_back(server)


@either_way
async def test_leases_are_as_long_as_ever_after_a_start_by_the_wrong_clock(server: Supervisor, hours: int) -> None:
    """Those given out then end in their time; so they do when the clock is right again."""
    await server.kill()
    server.offset_seconds = hours * HOUR_SECONDS
    await server.start(commanded=True)
    leases = await two_leases(server)
    assert await check_only_the_silent_one_ends(server, *leases) < LEASE_SECONDS + SLACK_SECONDS
    await server.kill()
    server.offset_seconds = 0
    await server.start(commanded=True)
    silent = await claim(server, wait_seconds=10)
    assert silent, "after 10 s nobody's task has come back"
    check_time_never_went_back(server)
