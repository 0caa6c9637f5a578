"""The dispatcher's journal on PostgreSQL: one connection, on which a batch is one transaction.

What goes wrong is told in three ways. Undone: nothing of the batch is on record, and it is to be decided once more.
NoRoom: the same, as the disk is full. RecordFailed: PostgreSQL refuses it, and would do so again. A commit whose answer
was lost is none of these: once the database can be reached again it is found out what came of it.
"""

import asyncio
import logging
from asyncio import Event
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic, perf_counter

import asyncpg
from attrs import evolve

from dispatcher.errors import NoRoom, RecordFailed, Undone
from dispatcher.ports import Changes, Clock, Found, Needs, Snapshot
from storage.postgres.connections import AGAIN, LOST, Address, Db
from storage.postgres.fetching import Fetch, load
from storage.postgres.writing import Disagreement, write

PATIENCE_SECONDS = 10  # for what is done for one batch; then its connection is given up
AWAY_SECONDS = 5  # without a connection for so long, it is away
RETRY_SECONDS = 0.25  # between two attempts to connect
SAY_SECONDS = 5  # so often the log says that it is away

JOIN = """
    insert into instances (instance_id, started_at, seen_at, batch, presence) values ($1, $2, $2, $3, '[[], []]')
    on conflict do nothing"""
BATCH = "select batch from instances where instance_id = $1 for update"

log = logging.getLogger(__name__)


class PostgresJournal:
    short_of_room = False

    def __init__(self, address: Address, instance_id: str, clock: Clock, *, was_away: bool) -> None:
        self._address, self._instance_id, self._clock = address, instance_id, clock
        self._watchers: list[Callable[[int, float, float], None]] = []
        self._db: Db | None = None
        self._has_begun = False  # a transaction, there
        self._limited: set[str] = set()
        self._batch = 0  # committed so far
        self._was_away = was_away  # and nobody has been told yet
        self._lost_at: float | None = None
        self._said_at = -inf
        self.heard_at = monotonic()  # the last time that it did what was asked
        self._stopping = Event()

    @property
    def is_away(self) -> bool:
        return self._lost_at is not None and monotonic() - self._lost_at > AWAY_SECONDS

    def watch(self, watcher: Callable[[int, float, float], None]) -> None:
        """From now on it is told of every commit: how many changes it had, how many seconds it took, and how many of
        these the COMMIT itself. It must not wait, nor raise."""
        self._watchers.append(watcher)

    def stop_waiting(self) -> None:
        """The server stops: where the database is away, it is not waited for any more."""
        self._stopping.set()

    async def join(self) -> None:
        """From now on the others know of this server."""
        await self._connected()

    async def close(self) -> None:
        if self._db is not None:
            with suppress(*LOST, asyncpg.PostgresError):
                await self._db.execute("delete from instances where instance_id = $1", self._instance_id)
                await self._db.close(timeout=1)

    async def load(self) -> Snapshot:
        while True:
            db = await self._connected()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    snapshot = await load(db)
                was_away, self._was_away = self._was_away, False
                return evolve(snapshot, was_away=was_away)
            except (*LOST, asyncpg.PostgresError) as error:
                self._lose(error)
                await self._rest(error)

    async def fetch(self, needs: Needs) -> Found:
        db = await self._begin()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await Fetch(db, self._limited)(needs)
            self.heard_at = monotonic()
            return found
        except Exception as error:
            raise await self._undo(error) from error

    async def _begin(self) -> Db:
        db = await self._connected()
        if self._was_away:
            raise Undone("the database was away")
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await db.execute("begin")
        except Exception as error:
            raise await self._undo(error) from error
        self._has_begun = True
        return db

    async def release(self) -> None:
        assert self._db is not None
        self._has_begun = False
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._db.execute("rollback")
        except (*LOST, asyncpg.PostgresError) as error:
            self._lose(error)
            self._lost_at = None  # as far as is known it can be reached: the next batch will tell

    async def commit(self, changes: Changes) -> Changes:
        batch, began = self._batch + 1, perf_counter()
        db = self._db if self._has_begun else await self._begin()  # there was nothing to fetch
        assert db is not None
        self._has_begun = False
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                changes = await write(db, changes, instance_id=self._instance_id, batch=batch, now=self._clock())
        except Exception as error:
            raise await self._undo(error) from error
        written = perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await db.execute("commit")
        except LOST as error:
            self._lose(error)
            if not await self._has_committed(batch):
                raise Undone(str(error)) from error
        except asyncpg.PostgresError as error:
            raise await self._undo(error) from error
        self._batch, self.heard_at = batch, monotonic()
        for watcher in self._watchers:
            watcher(len(changes), perf_counter() - began, perf_counter() - written)
        return changes

    async def _undo(self, error: Exception) -> Exception:
        """What it means that this went wrong, when all that was done of the batch is undone."""
        self._has_begun = False
        if isinstance(error, LOST):
            self._lose(error)
            return Undone(str(error))
        assert self._db is not None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._db.execute("rollback")
        except (*LOST, asyncpg.PostgresError) as lost:
            self._lose(lost)
        if isinstance(error, AGAIN):
            log.info("a batch is decided once more: %s", error)
            return Undone(str(error))
        if isinstance(error, asyncpg.DiskFullError):
            return NoRoom(str(error))
        if isinstance(error, asyncpg.PostgresError | Disagreement):
            log.error("PostgreSQL refuses a batch: %s", error)
            return RecordFailed(str(error))
        return error

    async def _has_committed(self, batch: int) -> bool:
        """A transaction that is not over yet, for its server has not noticed that we are gone, is waited for."""
        while True:
            db = await self._connected()
            try:
                async with asyncio.timeout(2 * PATIENCE_SECONDS):
                    return bool(await db.fetchval(BATCH, self._instance_id) == batch)
            except AGAIN:
                continue
            except (*LOST, asyncpg.PostgresError) as error:
                self._lose(error)
                await self._rest(error)

    async def _connected(self) -> Db:
        """A connection that can write. Waits for as long as there is none; RecordFailed if the server stops."""
        while self._db is None or self._db.is_closed():
            if self._lost_at is None:
                self._lost_at = monotonic()
            try:
                self._db = await self._connect()
            except (*LOST, asyncpg.PostgresError) as error:
                await self._rest(error)
        if self._lost_at is not None:
            if self.is_away:
                self._was_away = True
                log.warning("the database can be used again, after %.0f s", monotonic() - self._lost_at)
            self._lost_at = None
        return self._db

    async def _connect(self) -> Db:
        db = await self._address.connect_writer()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await db.execute(JOIN, self._instance_id, self._clock(), self._batch)
        except BaseException:
            db.terminate()
            raise
        return db

    async def _rest(self, error: Exception) -> None:
        if monotonic() - self._said_at > SAY_SECONDS:
            self._said_at = monotonic()
            log.warning("the database cannot be used: %s", error or type(error).__name__)
        if self._stopping.is_set():
            raise RecordFailed("the database cannot be reached") from error
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await self._stopping.wait()

    def _lose(self, error: BaseException) -> None:
        log.warning("the connection to the database is lost: %s", error or type(error).__name__)
        self._has_begun = False
        if self._lost_at is None:
            self._lost_at = monotonic()
        if self._db is not None:
            self._db.terminate()
            self._db = None
