"""How the record is, for whoever asks and however often: of each question one at a time, and an answer may be kept."""

import asyncio
from asyncio import Task as Job
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

from attrs import frozen

from dispatcher.errors import RecordFailed
from dispatcher.medium import Medium
from dispatcher.ports import Clock
from dispatcher.record import Record

T = TypeVar("T")

KEPT_SECONDS = 1
PATIENCE_SECONDS = 2  # a record that takes longer is not well


@frozen
class Seen(Generic[T]):
    """`value` is None if the record failed, or has not answered in time."""

    value: T | None
    spent_seconds: float
    at: int


class Look(Generic[T]):
    def __init__(self, question: Callable[[], Awaitable[T]], clock: Clock, kept_seconds: float) -> None:
        self._question, self._clock, self._kept_seconds = question, clock, kept_seconds
        self._job: Job[Seen[T]] | None = None
        self._began = 0.0

    async def __call__(self) -> Seen[T]:
        """What came of the last look, or of a new one. One that hangs is waited for, but no longer than is patient."""
        if self._job is None or (self._job.done() and monotonic() - self._began >= self._kept_seconds):
            self._began = monotonic()
            self._job = asyncio.create_task(self._look())
        job = self._job
        await asyncio.wait([job], timeout=max(0.0, self._began + PATIENCE_SECONDS - monotonic()))
        return job.result() if job.done() else self._seen(None)

    async def _look(self) -> Seen[T]:
        try:
            return self._seen(await self._question())
        except (RecordFailed, TimeoutError):
            return self._seen(None)

    def _seen(self, value: T | None) -> Seen[T]:
        return Seen(value, monotonic() - self._began, self._clock())


class Looks:
    def __init__(self, record: Record, medium: Medium, clock: Clock) -> None:
        async def write() -> bool:
            await medium.probe()
            return True

        async def oldest() -> float:
            created_at = await record.oldest_waiting()
            return 0 if created_at is None else max(0, clock() - created_at) / 1000

        self.is_writable = Look(write, clock, KEPT_SECONDS)
        self.room = Look(lambda: medium.room(), clock, KEPT_SECONDS)
        self.working = Look(lambda: record.working(), clock, 0)
        self.others = Look(lambda: record.others(), clock, KEPT_SECONDS)
        self.waiting = Look(lambda: record.waiting(None), clock, 0)
        self.oldest_waiting_seconds = Look(oldest, clock, KEPT_SECONDS)
