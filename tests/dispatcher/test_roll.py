"""Who was here within the last hour: for how long it is told, how much is kept, and what a restart leaves of it."""

from collections.abc import AsyncIterator

import pytest

from dispatcher import roll
from dispatcher.messages import FOREVER, Cancel, Claim, Complete, Create, Fail, Heartbeat, Retry, Tick
from dispatcher.record import Sighting
from dispatcher.roll import Roll
from storage.sqlite import traces
from tests.dispatcher.world import World

HOUR = 3_600_000
MINUTE = 60_000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = await World(now=10 * HOUR).start()
    yield world
    await world.stop()
    world.journal.db.close()


def claim(worker: str, directory: str = "/w", wait_seconds: float = 0) -> Claim:
    return Claim(work_directories=(directory,), worker_id=worker, wait_seconds=wait_seconds)


def names(world: World) -> list[str]:
    return [worker.worker_id for worker in world.dispatcher.presence().workers]


def connections(world: World) -> dict[str, str]:
    return {worker.worker_id: worker.connection for worker in world.dispatcher.presence().workers}


async def restarted(world: World) -> None:
    await world.stop()
    await world.start()
    since = world.now - HOUR
    world.dispatcher.roll = Roll(traces.sightings(world.journal.db, since))


async def test_who_has_not_been_seen_for_an_hour_is_not_told_of(world: World) -> None:
    """Nor is a directory where it has not been for so long."""
    await world.ask(claim("ann", "/old"))
    world.now += HOUR // 2
    await world.ask(claim("bob"))
    await world.ask(claim("ann", "/new"))
    (ann, _) = world.dispatcher.presence().workers
    assert ann.work_directories == ("/new", "/old")
    world.now += HOUR // 2
    (ann, _) = world.dispatcher.presence().workers
    assert ann.work_directories == ("/new",)
    world.now += HOUR // 2 - 1
    assert names(world) == ["ann", "bob"]
    world.now += 1
    assert names(world) == []


async def test_a_heartbeat_keeps_it_there(world: World) -> None:
    await world.ask(Create(work_directory="/w", prompt="do it", timeout_seconds=3 * 3600))
    (task,) = await world.ask(claim("ann"))
    world.now += HOUR - 1
    await world.ask(Heartbeat(task_id=task.task_id, lease_token=task.lease_token))
    world.now += HOUR - 1
    (ann,) = world.dispatcher.presence().workers
    assert (ann.last_seen_at, ann.connection) == (world.now - HOUR + 1, "none")


async def test_who_has_claimed_within_a_minute_polls(world: World) -> None:
    await world.ask(claim("ann"))
    world.now += MINUTE - 1
    assert connections(world) == {"ann": "poll"}
    world.now += 1
    assert connections(world) == {"ann": "none"}


async def test_who_waits_polls_and_is_seen_until_it_is_answered(world: World) -> None:
    ask = world.ask(claim("ann", wait_seconds=600))
    await world.settle()
    world.now += 5 * MINUTE
    (ann,) = world.dispatcher.presence().workers
    assert (ann.connection, ann.last_seen_at) == ("poll", world.now)
    world.now += 5 * MINUTE
    await world.ask(Create(work_directory="/other", prompt="wake up"))
    assert await ask == ()
    world.now += MINUTE - 1
    assert connections(world) == {"ann": "poll"}
    world.now += 1
    assert connections(world) == {"ann": "none"}


async def test_a_long_poll_whose_caller_has_left_ends(world: World) -> None:
    ask = world.ask(claim("ann", wait_seconds=6000))
    await world.settle()
    ask.cancel()
    await world.settle()
    world.now += MINUTE
    assert connections(world) == {"ann": "none"}
    world.now += HOUR
    assert names(world) == []


async def test_a_streams_claim_is_no_poll(world: World) -> None:
    """It lasts as long as the stream, which tells of itself."""
    here = world.dispatcher.roll
    with here.present("stream", "ann", "/w", lambda: world.now):
        ask = world.ask(claim("ann", wait_seconds=FOREVER))
        await world.settle()
        world.now += 5 * HOUR
        with here.present("mcp", "ann", "/w", lambda: world.now):
            assert connections(world) == {"ann": "stream"}
        ask.cancel()
        await world.settle()
    assert connections(world) == {"ann": "none"}
    with here.present("mcp", "ann", "/w", lambda: world.now):
        assert connections(world) == {"ann": "mcp"}
    world.now += HOUR
    assert names(world) == []


async def test_two_streams_of_one_worker_are_two(world: World) -> None:
    here = world.dispatcher.roll
    with here.present("stream", "ann", "/w", lambda: world.now):
        with here.present("stream", "ann", "/w", lambda: world.now):
            assert connections(world) == {"ann": "stream"}
        assert connections(world) == {"ann": "stream"}
    assert connections(world) == {"ann": "none"}
    with here.present("stream", None, "/w", lambda: world.now):
        assert names(world) == ["ann"]


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was seen last stays."""
    monkeypatch.setattr(roll, "WORKERS_MAX", 3)
    kept = Roll()
    for number in range(10):
        kept.note(f"{number}", ("/w",), 1)
        kept.note("0", ("/w",), 1)
    assert [worker.worker_id for worker in kept.call((), 1)] == ["0", "8", "9"]


def test_directories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each worker, and of all together."""
    monkeypatch.setattr(roll, "DIRECTORIES_MAX", 3)
    monkeypatch.setattr(roll, "PLACES_MAX", 7)
    kept = Roll()
    for worker in "abc":
        for number in range(10):
            kept.note(worker, (f"/{number}", "/0"), 1)
    assert [(worker.worker_id, worker.work_directories) for worker in kept.call((), 1)] == [
        ("b", ("/0", "/8", "/9")),
        ("c", ("/0", "/8", "/9")),
    ]


def test_a_hundred_thousand_names_take_little() -> None:
    kept = Roll()
    for number in range(100_000):
        kept.note(f"worker {number}", ("/w",), number)
    assert len(kept._seen) == roll.WORKERS_MAX
    assert kept._places == roll.WORKERS_MAX


async def test_a_restart_leaves_those_who_did_something(world: World) -> None:
    """Each at the time of what it did last; who only asked is forgotten."""
    await world.ask(claim("idle"))
    for number in range(3):
        await world.ask(Create(work_directory=f"/{number}", prompt="do it", timeout_seconds=3 * 3600))
    (first,) = await world.ask(claim("ann", "/0"))
    world.now += HOUR // 2
    (second,) = await world.ask(claim("bob", "/1"))
    await world.ask(Complete(task_id=second.task_id, lease_token=second.lease_token))
    world.now += HOUR // 4
    await world.ask(Heartbeat(task_id=first.task_id, lease_token=first.lease_token))
    await restarted(world)
    told = {worker.worker_id: worker for worker in world.dispatcher.presence().workers}
    assert told.keys() == {"ann", "bob"}
    assert told["ann"].last_seen_at == world.now
    assert (told["bob"].last_seen_at, told["bob"].work_directories) == (world.now - HOUR // 4, ("/1",))
    world.now += HOUR // 2 + HOUR // 4
    await restarted(world)
    assert names(world) == ["ann"]


async def test_what_others_did_to_its_task_leaves_no_trace_of_it(world: World) -> None:
    """A failure that is tried again by itself is its own; a retry by hand, a cancel, a lost lease are not."""
    (first, second) = [Create(work_directory="/w", prompt="do it", auto_retry=auto) for auto in (True, False)]
    for create, worker in ((first, "auto"), (second, "hand")):
        await world.ask(create)
        (task,) = await world.ask(claim(worker))
        world.now += MINUTE
        await world.ask(Fail(task_id=task.task_id, lease_token=task.lease_token, error_message="no"))
    ended = world.now
    world.now += MINUTE
    await world.ask(Retry(task_id=task.task_id))
    (lost,) = await world.ask(Claim(work_directories=("/w",), worker_id="lost", lease_seconds=1))
    world.now += HOUR // 4
    await world.ask(Tick())
    await world.ask(Cancel(task_id=lost.task_id))
    await restarted(world)
    assert {worker.worker_id: worker.last_seen_at for worker in world.dispatcher.presence().workers} == {
        "auto": ended - MINUTE,
        "hand": ended,
        "lost": ended + MINUTE,
    }


async def test_only_the_end_of_the_history_is_looked_through(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for worker in ("ann", "bob"):
        await world.ask(Create(work_directory="/w", prompt="do it"))
        (task,) = await world.ask(claim(worker))
        await world.ask(Complete(task_id=task.task_id, lease_token=task.lease_token))
    short = traces.SIGHTINGS.replace(f"{traces.LOOK_BACK_MAX}", "3")
    assert short != traces.SIGHTINGS
    monkeypatch.setattr(traces, "SIGHTINGS", short)
    await restarted(world)
    assert names(world) == ["bob"]


def test_sightings_are_taken_in_the_order_of_their_time() -> None:
    kept = Roll([Sighting("ann", "/a", 1), Sighting("bob", "/b", 2), Sighting("ann", "/c", 3)])
    assert [(worker.worker_id, worker.last_seen_at) for worker in kept.call((), 4)] == [("ann", 3), ("bob", 2)]
