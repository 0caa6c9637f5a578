"""The record on SQLite: read-only connections that see what is committed."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import cycle
from typing import Concatenate

import aiosqlite

from dispatcher.configuration import ConfigVersion
from dispatcher.errors import RecordFailed
from dispatcher.ports import Entry
from dispatcher.record import DirectoryCount, EventFilter, Filter, LogPage, Outcome, Place, Sighting, Stretch
from dispatcher.statistics import Statistics
from dispatcher.task import Task
from storage import matching, queries, traces
from storage.hop import P, T, hop
from storage.statistics import statistics


class SqliteRecord:
    """Each reader has a thread of its own."""

    def __init__(self, readers: Sequence[aiosqlite.Connection], timeout_seconds: float) -> None:
        self._readers, self._timeout_seconds = cycle(readers), timeout_seconds

    async def task(self, task_id: str) -> Task | None:
        return await self._read(queries.task_by_id, task_id)

    async def outcomes(self, task_ids: Collection[str], bytes_max: int) -> Mapping[str, Outcome]:
        return await self._read(queries.outcomes, task_ids, bytes_max)

    async def place(self, task: Task, aging_seconds: float) -> Place:
        return await self._read(queries.place_of, task, aging_seconds)

    async def last_arrival(self) -> int:
        return await self._read(matching.last_arrival)

    async def matching(self, only: Filter, first: int, last: int) -> Sequence[str]:
        return await self._read(matching.matching, only, first, last)

    async def directories(self) -> Sequence[DirectoryCount]:
        return await self._read(queries.directories)

    async def directory(self, work_directory: str) -> DirectoryCount:
        return await self._read(queries.directory, work_directory)

    async def history(self, task_id: str) -> Sequence[Entry]:
        return await self._read(queries.entries_of, task_id)

    async def events(self, after: int, limit: int, only: EventFilter) -> Stretch:
        return await self._read(queries.events, after, limit, only)

    async def log(self, task_id: str, after: int, limit: int, attempt: int | None = None) -> LogPage | None:
        return await self._read(traces.log, task_id, after, limit, attempt)

    async def sightings(self, after: int) -> Sequence[Sighting]:
        return await self._read(traces.sightings, after)

    async def newest(self, work_directory: str | None, limit: int, offset: int) -> tuple[Sequence[Task], int]:
        return await self._read(queries.newest, work_directory, limit, offset)

    async def waiting(self, work_directory: str | None) -> int:
        return await self._read(queries.waiting, work_directory)

    async def config_versions(self, limit: int, offset: int) -> tuple[Sequence[ConfigVersion], int]:
        return await self._read(queries.config_versions, limit, offset)

    async def config_version(self, version: int) -> ConfigVersion | None:
        return await self._read(queries.config_version, version)

    async def statistics(self, work_directory: str | None, start: int, end: int, bucket: int) -> Statistics:
        return await self._read(statistics, work_directory, start, end, bucket)

    async def oldest_waiting(self) -> int | None:
        return await self._read(queries.oldest_waiting)

    async def _read(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await hop(next(self._readers), query, *args, **kwargs)
        except sqlite3.Error as error:
            raise RecordFailed(str(error)) from error
