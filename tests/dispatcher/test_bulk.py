"""Many tasks in one message: what they share with their neighbours in a batch, and what not."""

import asyncio
from typing import Any

import pytest

from dispatcher.mailbox import BATCH_MAX
from dispatcher.messages import Claim, Complete, Create, SteerMany
from dispatcher.task import Status
from storage.rows import TASKS
from tests.dispatcher.world import World

CREATE = Create(work_directory="/a", prompt="x")


async def says(world: World, *messages: Any) -> list[Any]:
    """All in one batch."""
    asks = [world.ask(message) for message in messages]
    await world.settle()
    return await asyncio.gather(*asks)


def status_of(world: World, task_id: str) -> Status | None:
    rows = world.journal.db.execute(f"{TASKS.select} where task_id = ?", (task_id,))
    return next((TASKS.value(row).status for row in rows), None)


@pytest.mark.parametrize("action", ["retry", "delete"])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_an_end_is_told_before_it_is_undone_or_forgotten(action: Any, dry_run: bool) -> None:
    """Also if it is among many: who depends on a task that has failed is cancelled with it."""
    world = await World().start()
    await says(world, CREATE)
    ((parent,),) = await says(world, Claim(work_directories=("/a",)))
    child = Create(work_directory="/a", prompt="y", depends_on=(parent.task_id,), on_dependency_failure="cancel")
    _, other = await says(world, child, CREATE)
    failure = Complete(task_id=parent.task_id, lease_token=parent.lease_token, status="failed")
    ids = (other.task.task_id, parent.task_id, "task-2")
    _, steered = await says(world, failure, SteerMany(task_ids=ids, action=action, dry_run=dry_run))
    assert steered.changed == (2 if action == "delete" else 1)
    gone = action == "delete" and not dry_run
    assert status_of(world, "task-2") == (None if gone else "cancelled")
    assert status_of(world, other.task.task_id) == "waiting"
    await world.stop()


async def test_each_of_many_counts_in_a_batch() -> None:
    """So that nobody waits for many slices at once."""
    world = await World().start()
    made = await says(world, *[CREATE] * 300)
    ids = [created.task.task_id for created in made]
    before = len(world.journal.commits)
    slices = [SteerMany(task_ids=tuple(ids[at : at + 100]), action="cancel") for at in (0, 100, 200)]
    answers = await says(world, *slices, CREATE)
    assert [answer.changed for answer in answers[:-1]] == [100] * 3
    sizes = [len(commit) for commit in world.journal.commits[before:]]
    assert sum(sizes) == 301
    assert max(sizes) < BATCH_MAX + 100
    assert len(sizes) > 1
    await world.stop()


async def test_nothing_of_the_refused_is_kept_alive() -> None:
    """A refusal with its traceback would hold on to all that was known when it was raised."""
    world = await World().start()
    (steered,) = await says(world, SteerMany(task_ids=("a", "b"), action="cancel"))
    assert [task_id for task_id, _ in steered.skipped] == ["a", "b"]
    assert all(refusal.__traceback__ is None for _, refusal in steered.skipped)
    await world.stop()
