"""Can the record be written? Whoever asks, and however often: one look at a time, and no more than one a second."""

import asyncio
from asyncio import Task as Job
from collections.abc import Awaitable
from time import monotonic
from typing import TypeVar

from attrs import frozen

from dispatcher.errors import RecordFailed
from dispatcher.medium import Medium
from dispatcher.ports import Clock

KEPT_SECONDS = 1
PATIENCE_SECONDS = 2  # a record that takes longer is not well

T = TypeVar("T")


@frozen
class Probed:
    is_written: bool
    spent_seconds: float  # so far, if it hangs
    at: int


class Probe:
    def __init__(self, medium: Medium, clock: Clock) -> None:
        self._medium, self._clock = medium, clock
        self._job: Job[Probed] | None = None
        self._began = 0.0

    async def look(self) -> Probed:
        """What came of the last look, or of a new one."""
        if self._job is None or (self._job.done() and monotonic() - self._began > KEPT_SECONDS):
            self._began = monotonic()
            self._job = asyncio.create_task(self._look())
        patience = max(0.0, self._began + PATIENCE_SECONDS - monotonic())
        await asyncio.wait([self._job], timeout=patience)
        return self._job.result() if self._job.done() else self._probed(False)

    async def _look(self) -> Probed:
        try:
            await self._medium.probe()
        except RecordFailed:
            return self._probed(False)
        return self._probed(True)

    def _probed(self, is_written: bool) -> Probed:
        return Probed(is_written, monotonic() - self._began, self._clock())


async def in_time(question: Awaitable[T]) -> T | None:
    """What the record says, or None if it says nothing in time."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await question
    except (RecordFailed, TimeoutError):
        return None
