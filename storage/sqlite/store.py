"""Opens a database, and serves it as the dispatcher's journal; everybody else reads its record."""

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from asyncio import Event
from asyncio import Task as Job
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any, Concatenate, Literal

import aiosqlite

from dispatcher.board import Board
from dispatcher.clock import SystemClock
from dispatcher.errors import NoRoom, RecordFailed
from dispatcher.fields import to_json
from dispatcher.medium import Room
from dispatcher.ports import Change, Changes, Clock, Found, Needs, Notice, Ruling, Snapshot
from storage.encryption import EncryptionKey
from storage.errors import NotOurs, StorageError
from storage.sqlite import chores, journal, leftovers, search
from storage.sqlite.audit import SqliteAuditLog
from storage.sqlite.chores import Chore, Step
from storage.sqlite.driver import DatabaseFile, Mode
from storage.sqlite.hop import P, T, hop
from storage.sqlite.keys import SqliteKeyring
from storage.sqlite.moving import refuse_half_moved
from storage.sqlite.owner import OwnerLock
from storage.sqlite.record import SqliteRecord
from storage.sqlite.rekey import remove_draft
from storage.sqlite.versions import migrate
from storage.steps import steps
from storage.store import Member

READERS = 3  # read-only connections, each with a thread of its own
LOG_BYTES_MAX = 8 * 1024 * 1024  # about how long the write-ahead log may grow before it is copied back
CHANGE_BYTES = 12 * 1024  # about how much one change adds to the log, its own JSON aside
LOG_LINE_BYTES = 32  # and so much a line of a task's log, its text aside
IDLE_SECONDS = 5  # without a commit for so long, the log is emptied
PROBE_BYTES = 4120  # how much a probe adds to the log: a page and its header
ROOM_BYTES = 256 * 1024  # so much must fit on the disk again before it counts as having room
ROOM_SECONDS = 0.5  # between two looks whether it has
FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}  # nothing was written, and it may be tried again
FULL_BYTES = 32 * 1024  # with less room an I/O error is likely one of these: sqlcipher3 does not tell them apart

log = logging.getLogger(__name__)


class SqliteStore:
    """The one writer of a database, and readers that see what is committed."""

    Board = Board

    def __init__(self, writer: aiosqlite.Connection, record: SqliteRecord, path: Path) -> None:
        self._writer = writer
        self.record = record
        self.keyring = SqliteKeyring(self._alone)
        self.audit_log = SqliteAuditLog(self._alone, record.audit, self._log_grew)
        self._path = path
        self._member: Member | None = None
        self._watchers: list[Callable[[int, float, float], None]] = []
        self._indexing = Chore(search.index_some, "prompts could not be indexed")
        self._cleaning = Chore(
            lambda db, _: leftovers.remove_some(db), "the logs of deleted tasks could not be removed"
        )
        self._full = Event()
        self._roomy = Event()  # the contrary
        self._roomy.set()
        self._log_bytes = 0
        self._committed = Event()
        self._log_is_long = Event()
        left_bytes = _log_size(path)
        if left_bytes:  # the last owner did not stop in peace; one that dies again and again adds to it
            self._log_grew(left_bytes)

    def jobs(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What runs as long as the store is open."""
        kept_up = [self.keep_up(chore) for chore in (self._indexing, self._cleaning)]
        return self.keep_log_short(), self.look_for_room(), *kept_up

    async def load(self) -> Snapshot:
        """Raises StorageError."""
        try:
            return await hop(self._writer, journal.load)
        except sqlite3.Error as error:
            raise StorageError(f"the database cannot be read: {error}") from error

    async def fetch(self, needs: Needs) -> Found:
        return await hop(self._writer, journal.fetch, needs)

    async def commit(self, changes: Changes) -> Changes:
        began = perf_counter()
        try:
            flushed_seconds = await hop(self._writer, journal.commit, changes)
        except sqlite3.OperationalError as error:
            if not _is_full(error, self._path):
                raise
            self._note_full()
            raise NoRoom from error
        self._log_grew(sum(map(_log_bytes, changes)))
        self._indexing.due.set()
        if any(isinstance(change, Change) and leftovers.has_left_a_log(change) for change in changes):
            self._cleaning.due.set()
        for watcher in self._watchers:
            watcher(len(changes), perf_counter() - began, flushed_seconds)
        return changes

    async def release(self) -> None:
        """Nobody else writes, so nothing was held."""

    def watch(self, watcher: Callable[[int, float, float], None]) -> None:
        """From now on it is told of every commit: how many changes it had, how many seconds it took, and how many of
        these to make what was written durable. It must not wait, nor raise."""
        self._watchers.append(watcher)

    def clock(self, snapshot: Snapshot) -> Clock:
        return SystemClock(snapshot.last_at)

    @contextlib.asynccontextmanager
    async def membership(self, member: Member, last: int) -> AsyncIterator[None]:
        """Nobody else writes: whatever is announced is published at once."""
        self._member = member
        yield

    def announce(self, changes: Changes) -> None:
        assert self._member is not None
        self._member.publish(changes)

    async def probe(self) -> None:
        try:
            await hop(self._writer, journal.probe)
        except sqlite3.Error as error:
            raise RecordFailed(str(error)) from error
        self._log_bytes += PROBE_BYTES  # alone it is not worth a checkpoint, unlike a commit
        if self._log_bytes > LOG_BYTES_MAX:
            self._log_grew(0)

    async def room(self) -> Room:
        try:
            return await asyncio.to_thread(_room, self._path)
        except OSError as error:
            raise RecordFailed(str(error)) from error

    @property
    def short_of_room(self) -> bool:
        return self._full.is_set()

    def stop_waiting(self) -> None:
        """It is never away."""

    @property
    def is_away(self) -> bool:
        return False

    async def look_for_room(self) -> None:
        """After the disk was full: notices when it is no longer."""
        while True:
            await self._full.wait()
            await asyncio.sleep(ROOM_SECONDS)
            with contextlib.suppress(sqlite3.Error):
                await hop(self._writer, journal.take_room, ROOM_BYTES)
                self._full.clear()
                self._roomy.set()
                log.warning("the disk has room again")

    async def webhook_place(self) -> int | None:
        return await self._alone(journal.webhook_place)

    async def keep_webhook_place(self, seq: int | None) -> None:
        await self._alone(journal.keep_webhook_place, seq)
        self._log_grew(CHANGE_BYTES)

    async def _alone(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A transaction by itself, beside those of the dispatcher."""
        try:
            return await hop(self._writer, work, *args, **kwargs)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in FULL:
                self._note_full()
            raise RecordFailed(str(error)) from error

    def _note_full(self) -> None:
        if not self.short_of_room:
            log.error("the disk is full: nothing new is taken until there is room again")
            self._full.set()
            self._roomy.clear()

    async def keep_up(self, chore: Chore) -> None:
        """Does it whenever it is due, in the gaps between the commits and while there is room."""
        failed = False
        while True:
            await chore.due.wait()
            await asyncio.sleep(chores.AGAIN_SECONDS if failed else chores.LATER_SECONDS)
            await self._roomy.wait()
            chore.due.clear()
            try:
                await self._do(chore)
                failed = False
            except sqlite3.Error as error:  # it harms nobody; the next commit will meet the trouble too
                chore.due.set()
                if not failed:
                    log.warning("%s: %s", chore.trouble, error)
                failed = True

    async def _do(self, chore: Chore) -> None:
        step = Step(more=True)
        is_first = True
        while step.more:
            if self.short_of_room:
                chore.due.set()
                return
            step = await hop(self._writer, chore.step, is_first)
            is_first = False
            if step.seconds:
                self._log_grew(step.log_bytes)
                await asyncio.sleep(step.rest_seconds)

    # The write-ahead log

    def _log_grew(self, size: int) -> None:
        self._log_bytes += size
        self._committed.set()
        if self._log_bytes > LOG_BYTES_MAX:
            self._log_is_long.set()

    async def keep_log_short(self) -> None:
        """Checkpoints, between the commits and never inside one, and only here: with two connections that
        checkpoint, SQLite before 3.51.3 can corrupt the file."""
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._log_is_long.wait()
                await self._checkpoint("passive")
            except TimeoutError:
                if not self._committed.is_set() and not self.short_of_room:  # the room it takes would be gone
                    await self._checkpoint("truncate")

    async def _checkpoint(self, mode: str) -> None:
        self._log_bytes = 0
        self._log_is_long.clear()
        try:
            await hop(self._writer, _checkpoint, mode)
        except sqlite3.Error as error:  # nothing is lost, the log only stays long; the next commit will meet it too
            log.warning("checkpoint failed: %s", error)


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    synchronous: Literal["full", "normal"] = "full",
    timeout_seconds: float = 30,
    key: EncryptionKey | None = None,
) -> AsyncIterator[SqliteStore]:
    """Own the database at `path`, made if need be and brought to the present schema. With a key it is encrypted.
    Raises StorageError.

    With synchronous="normal" a power failure may take the last commits with it; a crash of the process never does.
    """
    async with AsyncExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = OwnerLock(path)
            stack.callback(lock.release)
            remove_draft(path)
            file = await asyncio.to_thread(DatabaseFile, path, key)
            if key and key.is_short:
                log.warning("the encryption key (%s) is short: make one with `openssl rand -hex 32`", key.origin)
            writer = await stack.enter_async_context(_connect(file, "rwc", timeout_seconds))
            await hop(writer, _prepare, synchronous)
            reading = (_connect(file, "ro", timeout_seconds) for _ in range(READERS))
            readers = [await stack.enter_async_context(reader) for reader in reading]
        except StorageError as error:
            raise type(error)(f"{path}: {error}") from None
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: {'the disk is full' if _is_full(error, path) else error}") from error
        store = SqliteStore(writer, SqliteRecord(readers, timeout_seconds), path)
        for job in store.jobs():
            stack.push_async_callback(_stop, asyncio.create_task(job))
        yield store


@asynccontextmanager
async def _connect(file: DatabaseFile, mode: Mode, timeout_seconds: float) -> AsyncIterator[aiosqlite.Connection]:
    connection = aiosqlite.Connection(lambda: file.connect(mode, timeout=timeout_seconds), iter_chunk_size=64)
    try:
        await connection
    except BaseException:
        await asyncio.to_thread(connection._thread.join)  # it has been told to end, and must not outlive the loop
        raise
    try:
        yield connection
    finally:
        await connection.close()


def _prepare(db: sqlite3.Connection, synchronous: str) -> None:
    migrate(db, steps(files("storage.sqlite")))
    refuse_half_moved(db)
    (mode,) = db.execute("pragma journal_mode = wal").fetchone()
    if mode != "wal":
        raise NotOurs(f"its file system allows no write-ahead log (journal mode is {mode})")
    db.execute(f"pragma synchronous = {synchronous}")
    db.execute("pragma wal_autocheckpoint = 0")
    db.execute("begin immediate")  # a file that cannot be written is refused now, not at the first request
    db.execute("rollback")


def _checkpoint(db: sqlite3.Connection, mode: str) -> None:
    """Never waits for readers, or the commits would wait behind it: what cannot be done now is done the next time."""
    (patience,) = db.execute("pragma busy_timeout").fetchone()
    db.execute("pragma busy_timeout = 0")
    try:
        db.execute(f"pragma wal_checkpoint({mode})").fetchone()
    finally:
        db.execute(f"pragma busy_timeout = {patience}")


def _is_full(error: Exception, path: Path) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code in FULL or (code == sqlite3.SQLITE_IOERR and shutil.disk_usage(path.resolve().parent).free < FULL_BYTES)


def _log_size(path: Path) -> int:
    log = Path(f"{path.resolve()}-wal")
    return log.stat().st_size if log.exists() else 0


def _room(path: Path) -> Room:
    disk = shutil.disk_usage(path)
    return Room(free_bytes=disk.free, total_bytes=disk.total, log_bytes=_log_size(path))


def _log_bytes(change: Change | Ruling | Notice) -> int:
    if not isinstance(change, Change):
        return CHANGE_BYTES
    details = change.entry.details if change.entry else None
    printed = sum(LOG_LINE_BYTES + len(line.line.encode()) for line in change.log)
    return CHANGE_BYTES + len(change.after.prompt) + len(to_json([change.after.result, details])) + printed


async def _stop(job: Job[None]) -> None:
    job.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await job
