"""A board that holds nothing from one batch to the next, on a record that others write to: examples, batch by batch."""

import asyncio
from itertools import count
from typing import Any

from attrs import evolve

from dispatcher.agenda import WINDOW
from dispatcher.board import Effects, Parked
from dispatcher.fields import Priority
from dispatcher.messages import Adopt, Cancel, Claim, Create, Heed, Message, Reconfigure, Release, Retry, Tick
from dispatcher.ports import Snapshot
from dispatcher.rules import Rules
from dispatcher.shared import DEMAND_PER_BATCH, SHELVES_PER_BATCH, SharedBoard
from tests.dispatcher.memory import MemoryJournal
from tests.dispatcher.world import CountingMint

CLAIM = Claim(work_directories=("/w",))
ONE = Rules(max_concurrent_tasks=1)
LIMIT = Reconfigure(rules=ONE, who="ann", changes={"some": "thing"}, runtime={})


class Desk:
    """One of several on the same journal."""

    names = count(step=1000)

    def __init__(self, journal: MemoryJournal) -> None:
        self.journal, self.board = journal, SharedBoard(Snapshot(), CountingMint(tasks=next(self.names)))
        self.served: list[Any] = []

    def batch(self, *messages: Message[Any], now: int = 0) -> list[Any]:
        """Their replies; whatever needs more than was fetched for all of them comes in the next batch."""
        return asyncio.run(self._batch(list(messages), now))

    async def _batch(self, messages: list[Message[Any]], now: int) -> list[Any]:
        replies, changes = [], []
        self.board.forget()
        self.board.learn(await self.journal.fetch(self.board.needs(messages, now)))
        while messages and not (replies and self.board.needs(messages[:1], now)):
            effects: Effects[Any] = self.board.apply(messages.pop(0), now)
            replies.append(effects.reply)
            self.served += effects.served
            changes += effects.changes
        await self.journal.commit(changes)
        return replies + (await self._batch(messages, now) if messages else [])

    def rest(self, now: int = 0) -> None:
        """Until it has nothing left to do."""
        for _ in range(5):
            if not self.board.is_due(now):
                return
            self.batch(Tick(), now=now)
        raise AssertionError("it does not come to rest")


def create(path: str = "/w", **fields: Any) -> Create:
    return Create(work_directory=path, prompt="do it", **fields)


def test_who_waits_for_several_directories_is_looked_after_once() -> None:
    """Though something is new in one of them only."""
    journal = MemoryJournal()
    here, there = Desk(journal), Desk(journal)
    (parked,) = here.batch(Claim(work_directories=("/v", "/w", "/x"), wait_seconds=60))
    assert isinstance(parked, Parked)
    here.batch(Heed(("/w",)))
    here.rest()
    assert here.served == []
    there.batch(create())
    here.batch(Heed(("/w",)))
    here.rest()
    assert len(here.served) == 1


def test_a_limit_holds_for_the_claims_in_its_own_batch() -> None:
    """Whoever set it, and though what works already was not here before."""
    for limit in (LIMIT, Adopt(ONE, 1)):
        journal = MemoryJournal()
        here, there = Desk(journal), Desk(journal)
        there.batch(create(), create())
        there.batch(CLAIM)
        assert here.batch(limit, CLAIM)[1] == ()


def test_an_aging_holds_for_the_claims_in_its_own_batch() -> None:
    journal = MemoryJournal()
    here, there = Desk(journal), Desk(journal)
    there.batch(create(priority=Priority.LOW), now=0)
    there.batch(create(priority=Priority.HIGH), now=10_000)
    aging = Reconfigure(rules=Rules(priority_aging_seconds=1), who="ann", changes={"some": "thing"}, runtime={})
    _, (task,) = here.batch(aging, CLAIM, now=10_000)
    assert task.priority is Priority.LOW


def test_a_batch_hands_out_as_many_as_it_asks_for() -> None:
    """Though more than a window of them, and though a task is made, or comes back, before."""
    journal = MemoryJournal()
    here, there = Desk(journal), Desk(journal)
    there.batch(*[create() for _ in range(WINDOW + 50)])
    ((task,),) = there.batch(CLAIM)
    back = Release(task_id=task.task_id, lease_token=str(task.lease_token))
    replies = here.batch(create(), back, *[evolve(CLAIM, limit=WINDOW // 2)] * 3)
    assert [len(tasks) for tasks in replies[2:]] == [WINDOW // 2, WINDOW // 2, 51]


def test_claims_of_more_shelves_than_a_batch_looks_at_are_decided_in_the_next_one() -> None:
    desk = Desk(MemoryJournal())
    paths = [f"/{number}" for number in range(SHELVES_PER_BATCH + 1)]
    desk.batch(*map(create, paths))
    asked = [Claim(work_directories=(path,)) for path in paths]
    assert len({key.work_directory for key in desk.board.needs(asked, 0).lanes}) == SHELVES_PER_BATCH
    assert [task.work_directory for tasks in desk.batch(*asked) for task in tasks] == paths


def test_claims_of_more_tasks_than_a_batch_fetches_are_decided_in_the_next_one() -> None:
    desk = Desk(MemoryJournal())
    paths = tuple(f"/{number}" for number in range(SHELVES_PER_BATCH // 2))
    desk.batch(*map(create, paths), create("/last"))
    many = Claim(work_directories=paths, limit=DEMAND_PER_BATCH // len(paths) // 2)
    asked = [many, many, Claim(work_directories=("/last",))]
    assert {key.work_directory for key in desk.board.needs(asked, 0).lanes} == {*paths}
    assert [len(tasks) for tasks in desk.batch(*asked)] == [len(paths), 0, 1]


def test_who_ended_elsewhere_tells_those_who_wait_for_it_before_it_is_tried_again() -> None:
    """This server has not heard of it yet, and finds it out as it looks."""
    journal = MemoryJournal()
    here, there = Desk(journal), Desk(journal)
    (parent,) = there.batch(create(max_retries=1))
    there.batch(create(depends_on=(parent.task.task_id,), on_dependency_failure="run"))
    there.batch(Cancel(task_id=parent.task.task_id))
    retry = Retry(task_id=parent.task.task_id)
    here.board.learn(asyncio.run(journal.fetch(here.board.needs([retry], 0))))
    assert here.board.comes_too_early(retry, 0)
    assert here.board.is_due(0)
