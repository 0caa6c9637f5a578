"""The record on PostgreSQL: connections of a pool, that see what is committed."""

import asyncio
from asyncio import Semaphore
from asyncio import Task as Job
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

import asyncpg

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
from storage.postgres import audit, known, lists, matching, queries, traces
from storage.postgres.connections import LOST
from storage.postgres.reading import Reader
from storage.postgres.statistics import statistics

GIVE_BACK_SECONDS = 5  # so long a connection may take to become free again; then it is closed

LONG_MAX = 16  # reads that may take long, at a time
NO_NAMES = Names((), 0)
NUL = "\0"  # PostgreSQL has no text that holds it, and none can be asked for
FAULTS = (asyncpg.PostgresError, asyncpg.InternalClientError, *LOST)

P = ParamSpec("P")
T = TypeVar("T")


class PostgresRecord:
    """What may take long shares one half of the pool, or less: who asks for one row need not wait behind it."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", timeout_seconds: float, instance_id: str | None = None
    ) -> None:
        """`instance_id`: of the server that reads."""
        self._pool, self._instance_id = pool, instance_id
        self._timeout_seconds = timeout_seconds
        self._long = Semaphore(max(1, min(LONG_MAX, pool.get_max_size() // 2)))
        self._going_back: set[Job[None]] = set()

    async def task(self, task_id: str) -> Task | None:
        return None if NUL in task_id else await self._read(queries.task_by_id, task_id)

    async def outcomes(self, task_ids: Collection[str], bytes_max: int) -> Mapping[str, Outcome]:
        return await self._read_long(queries.outcomes, task_ids, bytes_max)

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
        return NO_NAMES if NUL in text else await self._read_long(known.directories_like, text, limit, reach)

    async def tags_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        return NO_NAMES if NUL in text else await self._read_long(known.tags_like, text, limit, reach)

    async def history(self, task_id: str, limit: int) -> Sequence[Entry]:
        return () if NUL in task_id else await self._read_long(queries.entries_of, task_id, limit)

    async def events(self, after: int, limit: int, only: EventFilter) -> Stretch:
        return await self._read_long(queries.events, after, limit, only)

    async def news(self, after: int, limit: int) -> Stretch:
        """The same of all of them, for this server itself: it does not wait behind what may take long."""
        return await self._read(queries.events, after, limit, EventFilter())

    async def log(self, task_id: str, after: int, limit: int, attempt: int | None = None) -> LogPage | None:
        return None if NUL in task_id else await self._read_long(traces.log, task_id, after, limit, attempt)

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
        return await self._read(queries.presences, self._instance_id)

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
        self, query: Callable[Concatenate[Reader, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._within_the_time(self._long, query, *args, **kwargs)

    async def _read(
        self, query: Callable[Concatenate[Reader, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._within_the_time(None, query, *args, **kwargs)

    async def _within_the_time(
        self,
        turn: Semaphore | None,
        query: Callable[Concatenate[Reader, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Once more on a new connection, if it was that which failed: to read twice does no harm."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    return await self.once(turn, query, *args, **kwargs)
                except TimeoutError:
                    raise
                except (*LOST, asyncpg.InternalClientError):
                    await self._pool.expire_connections()
                    return await self.once(turn, query, *args, **kwargs)
        except asyncpg.QueryCanceledError as error:
            raise TimeoutError from error
        except TimeoutError:
            raise
        except FAULTS as error:
            raise RecordFailed(str(error)) from error

    async def once(
        self,
        turn: Semaphore | None,
        query: Callable[Concatenate[Reader, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """On a connection of the pool; whoever gives up meanwhile need not wait until that is free again."""
        if turn is not None:
            await turn.acquire()
        reader: Reader | None = None
        try:
            reader = await self._pool.acquire()
            return await query(reader, *args, **kwargs)
        finally:
            if reader is not None:
                job = asyncio.create_task(self._give_back(reader, turn))
                self._going_back.add(job)
                job.add_done_callback(self._going_back.discard)
            elif turn is not None:
                turn.release()

    async def _give_back(self, reader: Reader, turn: Semaphore | None) -> None:
        """Nobody waits for this. A statement that still runs is cancelled by its driver; a transaction is ended."""
        try:
            with suppress(*FAULTS):
                await self._end(reader)
            with suppress(*FAULTS):
                await self._pool.release(reader, timeout=GIVE_BACK_SECONDS)
        finally:
            if turn is not None:
                turn.release()

    async def _end(self, reader: Reader) -> None:
        """A connection that was lost is the pool's no more, and raises InterfaceError."""
        if reader.is_in_transaction():
            try:
                async with asyncio.timeout(GIVE_BACK_SECONDS):
                    await reader.execute("rollback")
            except FAULTS:
                reader.terminate()
