"""Who waits is served in turn, whatever opens, closes or is not yet known in the same batch."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.caller import ANYONE
from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Claim, Complete, Create, CreateMany, Delete, Draft, Regulate
from dispatcher.rules import Rules
from tests.dispatcher.world import World

HOUR = 3_600_000


class Play:
    """Says things to a world, one after the other or all in one batch."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def say(self, *messages: Any) -> list[Any]:
        asks = [self.world.ask(message) for message in messages]
        await self.world.settle()
        return [(ask.exception() or ask.result()) if ask.done() else ask for ask in asks]


@pytest.fixture
async def worlds() -> AsyncIterator[Any]:
    started: list[World] = []

    async def start(**rules: Any) -> Play:
        started.append(await World(window=128, rules=Rules(restart_grace_seconds=0, **rules)).start())
        return Play(started[-1])

    yield start
    for world in started:
        await world.stop()
        await asyncio.sleep(0)  # those who still waited hear of it


def new(directory: str, priority: Priority = Priority.MEDIUM, **fields: Any) -> Create:
    return Create(work_directory=directory, prompt="x", priority=priority, **fields)


def wait(directory: str) -> Claim:
    return Claim(work_directories=(directory,), wait_seconds=60)


async def test_a_directory_that_opens_and_closes_at_once_stops_nobody(worlds: Any) -> None:
    """What its waiter might have got was not known yet, and does not matter any more."""
    play = await worlds()
    await play.say(Regulate(work_directory="/a", paused=True))
    (waiter,) = await play.say(wait("/a"))
    await play.say(Regulate(work_directory="/a", paused=False), Regulate(work_directory="/a", paused=True))
    await play.say(new("/a"), Regulate(work_directory="/a", paused=False))
    assert len(await waiter) == 1


async def test_the_last_slot_goes_to_the_first_in_turn_also_if_it_must_be_looked_up(worlds: Any) -> None:
    """A later claim knows at once what it would get, and still comes later."""
    play = await worlds(max_concurrent_tasks=1)
    await play.say(Claim(work_directories=("/b",)))
    await play.say(new("/w"))
    ((held,),) = await play.say(Claim(work_directories=("/w",)))
    (first,) = await play.say(wait("/a"))
    (second,) = await play.say(wait("/b"))
    await play.say(new("/a", Priority.LOW), new("/b", Priority.HIGH))
    _, third = await play.say(
        Complete(task_id=held.task_id, lease_token=held.lease_token), Claim(work_directories=("/b",))
    )
    assert (first.done(), second.done(), third) == (True, False, ())
    for waiter in (first, second):
        waiter.cancel()


async def test_many_who_wait_for_a_slot_are_served_one_by_one(worlds: Any) -> None:
    """Far more directories than are looked up at once; each slot goes to the next in turn."""
    play = await worlds(max_concurrent_tasks=1)
    await play.say(new("/w"))
    ((held,),) = await play.say(Claim(work_directories=("/w",)))
    waiters = await play.say(*(wait(f"/{number}") for number in range(100)))
    await play.say(*(new(f"/{number}") for number in reversed(range(0, 100, 3))))
    for number in range(0, 100, 3):
        await play.say(Complete(task_id=held.task_id, lease_token=held.lease_token))
        (held,) = await waiters[number]
    assert sum(waiter.done() for waiter in waiters) == 34
    for waiter in waiters:
        waiter.cancel()


async def test_a_key_is_free_as_soon_as_its_task_is_deleted(worlds: Any) -> None:
    """Also within one batch."""
    play = await worlds()
    keyed = new("/a", idempotency_key="k", request_digest="d")
    ((created),) = await play.say(keyed)
    ((held,),) = await play.say(Claim(work_directories=("/a",)))
    await play.say(Complete(task_id=held.task_id, lease_token=held.lease_token))
    _, again = await play.say(Delete(task_id=created.task.task_id), keyed)
    assert (again.replayed, again.task.arrival) == (False, 2)


async def test_a_batch_said_again_makes_nothing_twice(worlds: Any) -> None:
    """While any of its tasks stands for it, the others do too, however long ago; what was deleted is not made again."""
    play = await worlds()
    drafts = tuple(Draft(work_directory=f"/{name}", prompt=name) for name in "abc")
    many = CreateMany(drafts, idempotency_key="k", request_digest="d")
    ((a, b, c),) = await play.say(many)
    for name in "ab":
        ((held,),) = await play.say(Claim(work_directories=(f"/{name}",)))
        await play.say(Complete(task_id=held.task_id, lease_token=held.lease_token))
    await play.say(Delete(task_id=a.task.task_id))
    play.world.now += 25 * HOUR
    (again,) = await play.say(many)
    assert [type(it).__name__ for it in again] == ["TaskNotFound", "Created", "Created"]
    assert [it.task.task_id for it in again[1:]] == [b.task.task_id, c.task.task_id]
    ((held,),) = await play.say(Claim(work_directories=("/c",)))
    await play.say(Complete(task_id=held.task_id, lease_token=held.lease_token))
    (fresh,) = await play.say(many)
    assert [it.replayed for it in fresh] == [False, False, False]


async def test_what_depends_on_a_deleted_one_of_its_batch_is_not_made_later(worlds: Any) -> None:
    """It was refused when the batch was made, and could be made now but for that."""
    play = await worlds()
    first, third = Draft(work_directory="/a", prompt="a", ref="a"), Draft(work_directory="/c", prompt="c")
    second = Draft(work_directory="/b", prompt="b", depends_on=("task-3", "ref:a"))
    many = CreateMany((first, second, third), atomic=False, idempotency_key="k", request_digest="d")
    ((made, refused, _),) = await play.say(many)
    assert (made.task.task_id, refused.missing) == ("task-1", {0: "task-3"})
    await play.say(new("/x"))
    ((held,),) = await play.say(Claim(work_directories=("/a",)))
    await play.say(Complete(task_id=held.task_id, lease_token=held.lease_token))
    await play.say(Delete(task_id=held.task_id))
    ((gone, orphan, kept),) = await play.say(many)
    assert (type(gone).__name__, orphan.missing, kept.replayed) == ("TaskNotFound", {1: "ref:a"}, True)


async def test_what_two_things_befall_at_the_same_moment_ends_once(worlds: Any) -> None:
    """A child has expired by the time that it hears of its parent's end, for the server was away."""
    play = await worlds()
    ((parent,),) = [await play.say(new("/a"))]
    depends = {"depends_on": (parent.task.task_id,), "on_dependency_failure": "cancel"}
    await play.say(new("/b", expires_at=1000, **depends), new("/b", expires_at=1000, **depends))
    asked = play.world.ask(Cancel(task_id=parent.task.task_id))
    await asyncio.sleep(0)
    await play.world.stop()
    await asked
    play.world.now = 1000
    await play.world.start()
    await play.world.settle()
    ends = play.world.journal.db.execute("select task_id from history where type = 'task.cancelled'").fetchall()
    assert sorted(ends) == [("task-1",), ("task-2",), ("task-3",)]


async def test_who_must_be_looked_up_for_gets_the_first_of_all_that_is_there_by_then(worlds: Any) -> None:
    """Nothing was known of its directory while all slots were taken; what comes in the same batch counts too."""
    play = await worlds(max_concurrent_tasks=1)
    await play.say(new("/w"))
    ((held,),) = await play.say(Claim(work_directories=("/w",)))
    (waiter,) = await play.say(wait("/b"))
    done = Complete(task_id=held.task_id, lease_token=held.lease_token)
    _, _, urgent = await play.say(done, new("/b"), new("/b", Priority.HIGH))
    assert await waiter == (play.world.board.find(urgent.task.task_id, ANYONE),)


async def test_who_must_be_looked_up_for_may_get_what_the_same_report_sets_free(worlds: Any) -> None:
    """What is due comes first, so the child of what has ended is there by then."""
    play = await worlds(max_concurrent_tasks=1)
    ((parent,),) = [await play.say(new("/w"))]
    ((held,),) = await play.say(Claim(work_directories=("/w",)))
    child, _ = await play.say(new("/b", Priority.HIGH, depends_on=(parent.task.task_id,)), new("/b", Priority.LOW))
    (waiter,) = await play.say(wait("/b"))
    await play.say(Complete(task_id=held.task_id, lease_token=held.lease_token))
    assert [task.task_id for task in await waiter] == [child.task.task_id]
