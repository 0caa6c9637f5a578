"""Whatever a call to the record does, at whatever point: nothing acknowledged is lost, nothing is done twice."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from attrs import define, field

from dispatcher.errors import InvalidState, LeaseLost, NoRoom, Refusal, Unavailable, VersionConflict
from dispatcher.fields import Priority
from dispatcher.messages import (
    Cancel,
    Claim,
    Complete,
    Create,
    CreateMany,
    Draft,
    Edit,
    Fail,
    Heartbeat,
    Log,
    Message,
    Regulate,
    Release,
    Retry,
)
from dispatcher.ports import Changes, Found, Needs
from tests.dispatcher.world import DirectJournal, World, database

DISK_ERROR = sqlite3.OperationalError("disk I/O error")


@define
class FaultyJournal(DirectJournal):
    """One of its calls goes wrong: the `at`th, counted from 1."""

    at: int = 0
    mode: str = "fails"
    calls: int = 0
    hanging: asyncio.Event = field(factory=asyncio.Event)

    async def fetch(self, needs: Needs) -> Found:
        return await self._go_wrong(lambda: super(FaultyJournal, self).fetch(needs), is_commit=False)

    async def commit(self, changes: Changes) -> Changes:
        return await self._go_wrong(lambda: super(FaultyJournal, self).commit(changes), is_commit=True)

    async def _go_wrong(self, call: Callable[[], Awaitable[Any]], *, is_commit: bool) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return await call()
        if self.mode == "is full" and not is_commit:
            return await call()  # it only reads
        if self.mode in ("lies", "hangs afterwards"):
            await call()
        if self.mode.startswith("hangs"):
            self.hanging.set()
            await asyncio.Event().wait()
        raise NoRoom if self.mode == "is full" else DISK_ERROR


MODES = ("fails", "lies", "hangs", "hangs afterwards", "is full")


@define
class Caller:
    """Says everything again until it is answered; the server is started again when it has died or hangs."""

    world: World
    journal: FaultyJournal
    deaths: int = 0
    full: int = 0

    async def say(self, message: Message[Any], *may_be_refused: type[Refusal]) -> Any:
        """The reply; None if it is refused because it has been done already."""
        for attempt in range(3):
            ask = self.world.ask(message)
            hanging = asyncio.create_task(self.journal.hanging.wait())
            await asyncio.wait([ask, hanging], return_when=asyncio.FIRST_COMPLETED)
            hanging.cancel()
            if not ask.done():
                await self._restart(ask)
                continue
            try:
                return ask.result()
            except Unavailable:
                await asyncio.sleep(0)
                if self.world.running.done():
                    await self._restart()
                else:
                    self.full += 1
            except may_be_refused:
                assert attempt, "refused although it was said for the first time"
                return None
        raise AssertionError(message)

    async def _restart(self, ask: "asyncio.Task[Any] | None" = None) -> None:
        """As a supervisor does it; a server that hangs is killed."""
        self.deaths += 1
        self.journal.hanging.clear()
        self.world.running.cancel()
        with suppress(sqlite3.OperationalError, asyncio.CancelledError):
            await self.world.running
        if ask:
            with suppress(Unavailable):
                await ask
        await self.world.start()


def new(key: str, directory: str = "/w", **fields: Any) -> Create:
    return Create(work_directory=directory, prompt=key, idempotency_key=key, request_digest=key, **fields)


def claim(name: str, directory: str = "/w", **fields: Any) -> Claim:
    return Claim(work_directories=(directory,), claim_id=name, worker_id="ann", lease_seconds=60, **fields)


async def day(caller: Caller) -> None:
    """A bit of everything; what it comes to does not depend on how often anything had to be said."""
    say = caller.say
    first = (await say(new("first", priority=Priority.LOW))).task
    drafts = tuple(Draft(work_directory="/w", prompt=name) for name in "abc")
    await say(CreateMany(drafts, idempotency_key="many", request_digest="d"))
    child = (await say(new("child", "/other", depends_on=(first.task_id,)))).task
    await say(Edit(task_id=first.task_id, priority=Priority.HIGH, if_version=1), VersionConflict)
    (held,) = await say(claim("one"))
    assert held.task_id == first.task_id
    await say(Heartbeat(task_id=held.task_id, lease_token=held.lease_token, lease_seconds=90))
    await say(Log(task_id=held.task_id, lease_token=held.lease_token, lines=("once", "or twice")))
    await say(Complete(task_id=held.task_id, lease_token=held.lease_token, result={"n": 1}))
    (after,) = await say(claim("two", "/other"))
    assert after.task_id == child.task_id
    await say(Fail(task_id=after.task_id, lease_token=after.lease_token, error_message="no"))
    await say(Retry(task_id=after.task_id), InvalidState)
    await say(Regulate(work_directory="/w", max_working=2))
    a, b = await say(claim("three", limit=2))
    assert await say(claim("four")) == ()
    await say(Release(task_id=a.task_id, lease_token=a.lease_token), LeaseLost)
    await say(Cancel(task_id=b.task_id, force=True), InvalidState)
    (again, c) = await say(claim("five", limit=2))
    for task in (again, c):
        await say(Complete(task_id=task.task_id, lease_token=task.lease_token, result={"by": task.prompt}))
    (last,) = await say(claim("six", "/other"))
    await say(Complete(task_id=last.task_id, lease_token=last.lease_token, result={"n": 2}))


async def lived(at: int, mode: str) -> Caller:
    journal = FaultyJournal(database(), at=at, mode=mode)
    caller = Caller(await World(window=2, journal=journal).start(), journal)
    await day(caller)
    await caller.world.stop()
    return caller


def outcome(caller: Caller) -> Any:
    """What is on record in the end, but for the numbers that were given out in vain."""
    columns = "prompt, status, retry_count, attempt, result, error_message, ready, unmet"
    tasks = caller.journal.db.execute(f"select {columns} from tasks order by arrival").fetchall()
    history = caller.journal.db.execute(
        "select prompt, type, history.attempt from history left join tasks using (task_id) order by seq"
    ).fetchall()
    lines = caller.journal.db.execute("select distinct arrival, attempt, line from task_logs").fetchall()
    return tasks, history, lines


async def test_a_day_without_faults() -> None:
    """The day is what it should be, so that the others can be compared with it."""
    caller = await lived(0, "fails")
    tasks, history, lines = outcome(caller)
    assert [task[1] for task in tasks] == ["completed", "completed", "cancelled", "completed", "completed"]
    assert sum(type == "task.completed" for _, type, _ in history) == 4
    assert lines == [(1, 1, "once"), (1, 1, "or twice")]
    assert (caller.deaths, caller.full) == (0, 0)


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_goes_wrong_changes_nothing_in_the_end(mode: str) -> None:
    """At every position: the callers are told 503, the server stops or goes on, and the day ends as without it."""
    calm = await lived(0, mode)
    for at in range(1, calm.journal.calls + 1):
        caller = await lived(at, mode)
        assert outcome(caller) == outcome(calm), (mode, at)
        if mode == "is full":
            assert caller.deaths == 0, at
        else:
            assert caller.deaths == 1, at
    assert calm.journal.calls > 20
