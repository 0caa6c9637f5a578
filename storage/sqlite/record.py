"""The record on SQLite: read-only connections that see what is committed."""

import asyncio
import sqlite3
from asyncio import Task as Job
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Concatenate

import aiosqlite

from dispatcher.audit import AuditEntry, AuditFilter
from dispatcher.caller import Reach
from dispatcher.configuration import ConfigVersion
from dispatcher.errors import RecordFailed
from dispatcher.ports import Entry
from dispatcher.presence import Presence
from dispatcher.record import (
    DirectoryCount,
    EventFilter,
    Filter,
    LogPage,
    Names,
    Outcome,
    Page,
    Place,
    Sighting,
    Sort,
    Spot,
    Stretch,
)
from dispatcher.statistics import Statistics
from dispatcher.task import Task
from storage.sqlite import audit, known, lists, matching, queries, traces
from storage.sqlite.hop import P, T, hop
from storage.sqlite.statistics import statistics

INTERRUPT_SECONDS = 0.02  # between two tries to stop what is no longer wanted


class SqliteRecord:
    """Each reader has a thread of its own, and does one thing at a time."""

    def __init__(self, readers: Sequence[aiosqlite.Connection], timeout_seconds: float) -> None:
        self._readers = readers
        self._timeout_seconds = timeout_seconds
        self._idle: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._long = asyncio.Semaphore(max(1, len(readers) - 1))  # who asks for one row need not wait behind these

    async def task(self, task_id: str) -> Task | None:
        return await self._read(queries.task_by_id, task_id)

    async def outcomes(self, task_ids: Collection[str], bytes_max: int) -> Mapping[str, Outcome]:
        return await self._read(queries.outcomes, task_ids, bytes_max)

    async def place(self, task: Task, aging_seconds: float) -> Place:
        return await self._read(queries.place_of, task, aging_seconds)

    async def last_arrival(self) -> int:
        return await self._read(matching.last_arrival)

    async def matching(self, only: Filter, first: int, last: int) -> Sequence[str]:
        return await self._read_long(matching.matching, only, first, last)

    async def directories(self) -> Sequence[DirectoryCount]:
        return await self._read_long(queries.directories)

    async def directory(self, work_directory: str) -> DirectoryCount:
        return await self._read(queries.directory, work_directory)

    async def directories_after(self, name: str, limit: int, reach: Reach | None = None) -> Sequence[str]:
        return await self._read_long(known.directories_after, name, limit, reach)

    async def directories_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        return await self._read_long(known.directories_like, text, limit, reach)

    async def tags_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        return await self._read_long(known.tags_like, text, limit, reach)

    async def history(self, task_id: str, limit: int) -> Sequence[Entry]:
        return await self._read_long(queries.entries_of, task_id, limit)

    async def events(self, after: int, limit: int, only: EventFilter) -> Stretch:
        return await self._read_long(queries.events, after, limit, only)

    async def log(self, task_id: str, after: int, limit: int, attempt: int | None = None) -> LogPage | None:
        return await self._read_long(traces.log, task_id, after, limit, attempt)

    async def sightings(self, after: int) -> Sequence[Sighting]:
        return await self._read_long(traces.sightings, after)

    async def page(
        self, only: Filter, sort: Sort, limit: int, *, offset: int = 0, after: Spot | None = None, counted: bool = True
    ) -> Page:
        return await self._read_long(lists.page, only, sort, limit, offset=offset, after=after, counted=counted)

    async def waiting(self, work_directory: str | None) -> int:
        return await self._read(queries.waiting, work_directory)

    async def working(self) -> int:
        return await self._read(queries.working)

    async def held(self) -> Mapping[str, Sequence[str]]:
        return await self._read_long(queries.held)

    async def others(self) -> Sequence[Presence]:
        return ()

    async def config_versions(self, limit: int, offset: int) -> tuple[Sequence[ConfigVersion], int]:
        return await self._read(queries.config_versions, limit, offset)

    async def config_version(self, version: int) -> ConfigVersion | None:
        return await self._read(queries.config_version, version)

    async def audit(self, only: AuditFilter, limit: int, after: int | None, before: int | None) -> Sequence[AuditEntry]:
        return await self._read_long(audit.page, only, limit, after, before)

    async def statistics(
        self, work_directories: Collection[str] | None, start: int, end: int, bucket: int
    ) -> Statistics:
        return await self._read_long(statistics, work_directories, start, end, bucket)

    async def oldest_waiting(self) -> int | None:
        return await self._read(queries.oldest_waiting)

    async def _read_long(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What may take long; one reader is always left for the rest."""
        async with asyncio.timeout(self._timeout_seconds), self._long:
            return await self._read_at_once(query, *args, **kwargs)

    async def _read(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        async with asyncio.timeout(self._timeout_seconds):
            return await self._read_at_once(query, *args, **kwargs)

    async def _read_at_once(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As soon as a reader is idle."""
        reader = await self._idle.get()
        job = asyncio.create_task(hop(reader, query, *args, **kwargs))
        job.add_done_callback(lambda job: self._done(reader, job))
        try:
            return await asyncio.shield(job)
        except sqlite3.Error as error:
            raise RecordFailed(str(error)) from error
        except asyncio.CancelledError:
            await _interrupt(reader, job)
            raise

    def _done(self, reader: aiosqlite.Connection, job: Job[Any]) -> None:
        self._idle.put_nowait(reader)
        if not job.cancelled():
            job.exception()  # it may be that nobody waits for it any more


async def _interrupt(reader: aiosqlite.Connection, job: Job[Any]) -> None:
    """Nobody waits for it any more. It consists of several statements, and an interrupt ends only the one that runs."""
    while not job.done():
        await reader.interrupt()
        await asyncio.wait([job], timeout=INTERRUPT_SECONDS)
