"""What is printed while others change the same task, or while there is no room for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.decisions import logs
from dispatcher.errors import LogFull, Unavailable
from dispatcher.hub import about_task
from dispatcher.messages import Claim, Complete, Create, Delete, Log, Release
from dispatcher.task import Status, Task
from storage.sqlite import leftovers
from tests.dispatcher.test_actor import Stage, stage
from tests.dispatcher.world import World

__all__ = ["stage"]

CREATE = Create(work_directory="/w", prompt="do it")
CLAIM = Claim(work_directories=("/w",))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = await World().start()
    yield world
    await world.stop()
    world.journal.db.close()


async def claimed(server: Any) -> Task:
    await server.ask(CREATE)
    (task,) = await server.ask(CLAIM)
    assert isinstance(task, Task)
    return task


def prints(task: Task, *lines: str) -> Log:
    return Log(task_id=task.task_id, lease_token=task.lease_token, lines=lines)


def rows(world: World) -> list[Any]:
    """Once what nobody sees any more has been removed."""
    while leftovers.remove_some(world.journal.db).more:
        pass
    assert world.journal.db.execute("select * from logs_left").fetchall() == []
    return world.journal.db.execute("select number, attempt, line from task_logs order by arrival, number").fetchall()


async def test_all_of_one_batch_is_kept_in_turn(world: World) -> None:
    """A later attempt goes on where the earlier one stopped."""
    task = await claimed(world)
    before = len(world.journal.commits)
    await asyncio.gather(
        world.ask(prints(task, "a", "b")),
        world.ask(prints(task, "c")),
        world.ask(Release(task_id=task.task_id, lease_token=task.lease_token)),
        again := world.ask(CLAIM),
    )
    assert len(world.journal.commits) == before + 1
    (second,) = again.result()
    assert (await world.ask(prints(second, "d"))).log_lines == 4
    assert rows(world) == [(1, 1, "a"), (2, 1, "b"), (3, 1, "c"), (4, 2, "d")]


async def test_nothing_is_left_of_what_is_deleted_in_the_same_batch(world: World) -> None:
    task = await claimed(world)
    await asyncio.gather(
        world.ask(prints(task, "a")),
        world.ask(Complete(task_id=task.task_id, lease_token=task.lease_token)),
        world.ask(Delete(task_id=task.task_id)),
    )
    assert rows(world) == []


async def test_it_goes_with_its_own_task_only(world: World) -> None:
    gone, stays = await claimed(world), await claimed(world)
    for task in (gone, stays):
        await world.ask(prints(task, task.task_id))
    await world.ask(Complete(task_id=gone.task_id, lease_token=gone.lease_token))
    await world.ask(Delete(task_id=gone.task_id))
    assert rows(world) == [(1, 1, stays.task_id)]


async def test_those_who_listen_to_the_task_hear_of_it(world: World) -> None:
    """As of a heartbeat: without an entry."""
    task = await claimed(world)
    with world.hub.listen(about_task(task.task_id)) as heard:
        await world.ask(prints(task, "a"))
        news = await heard.next()
    assert (news.type, news.task_id, news.status) == (None, task.task_id, "working")


async def test_a_full_log_harms_no_neighbour(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_LINES_MAX", 3)
    task = await claimed(world)
    asks = [world.ask(prints(task, *lines)) for lines in ("ab", "cd", "e", "f")]
    done = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(answer) for answer in done] == [Task, LogFull, Task, LogFull]
    assert [line for *_, line in rows(world)] == ["a", "b", "e"]


async def test_a_log_is_bounded_by_its_bytes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all attempts, as UTF-8."""
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 5)
    task = await claimed(world)
    assert (await world.ask(prints(task, "\u00e9", ""))).log_bytes == 2
    await world.ask(Release(task_id=task.task_id, lease_token=task.lease_token))
    (again,) = await world.ask(CLAIM)
    with pytest.raises(LogFull):
        await world.ask(prints(again, "\u00e9", "\u00e9"))
    assert (await world.ask(prints(again, "abc"))).log_bytes == 5
    assert [line for *_, line in rows(world)] == ["\u00e9", "", "abc"]


async def test_a_long_log_is_removed_in_slices_behind_its_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that deletes the task removes no line; nor is anything forgotten over a restart."""
    monkeypatch.setattr(leftovers, "SLICE", 3)
    gone, stays = await claimed(world), await claimed(world)
    for task in (gone, stays):
        await world.ask(prints(task, *"abcdefg"))
    await world.ask(Complete(task_id=gone.task_id, lease_token=gone.lease_token))
    await world.ask(Delete(task_id=gone.task_id))
    db = world.journal.db
    left = [db.execute("select count(*) from task_logs where arrival = 1").fetchone()[0]]
    while leftovers.remove_some(db).more:
        left += db.execute("select count(*) from task_logs where arrival = 1").fetchone()
    assert left == [7, 4, 1]
    assert [line for *_, line in rows(world)] == list("abcdefg")


async def test_what_there_is_no_room_for_is_turned_down(stage: Stage) -> None:
    """The room is for the reports."""
    task = await claimed(stage)
    stage.journal.full_at = (1,)
    printing = stage.ask(prints(task, "a"))
    report = stage.ask(Complete(task_id=task.task_id, lease_token=task.lease_token))
    with pytest.raises(Unavailable, match="full"):
        await printing
    assert (await report).status is Status.COMPLETED
    second = await claimed(stage)
    stage.journal.short_of_room = True
    with pytest.raises(Unavailable, match="full"):
        await stage.ask(prints(second, "a"))
