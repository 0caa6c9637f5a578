"""A database file as one end of a move. What has not been moved into it completely, no server takes."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import orjson

from storage.contents import Key, Origin, Part, Place, Row, characters
from storage.encryption import EncryptionKey
from storage.errors import NotOurs, StorageError
from storage.sqlite.driver import Mode, connect, errors_of_sqlite3
from storage.sqlite.forms import FORMS, INSERTS, Convert
from storage.sqlite.owner import OwnerLock
from storage.sqlite.versions import APPLICATION_ID, migrate
from storage.steps import steps

P = ParamSpec("P")
T = TypeVar("T")

STEPS = steps(files("storage.sqlite"))
PART_ROWS = 1000
PART_CHARACTERS = 1_000_000  # or fewer rows, if they are long
CACHE_KIB = 128 * 1024
LOG_PAGES = 16 * 1024  # of the write-ahead log, before it is copied back: many of them are written again and again

UNFINISHED = "select count(*) from sqlite_schema where name = 'unfinished_move'"
NOTE = """
    create table if not exists unfinished_move (
        only_row integer primary key check (only_row = 1), place text not null
    ) strict"""
KEEP_PLACE = "insert into unfinished_move values (1, ?) on conflict do update set place = excluded.place"
STATE = """
    select (select user_version from pragma_user_version), arrival, seq, (select max(updated_at) from tasks),
        (select max(number) from additions), (select seq from webhook),
        (select max(number) from audit) from last_numbers"""
FIRST = "select seq, at, type, task_id from history order by seq limit 1"
OURS = """
    select (select application_id from pragma_application_id), (select user_version from pragma_user_version),
        (select count(*) from sqlite_schema)"""


def refuse_half_moved(db: sqlite3.Connection) -> None:
    """Raises StorageError if a move into it has not been completed."""
    if db.execute(UNFINISHED).fetchone()[0]:
        raise StorageError("a move into it is not complete: say `task-orchestrator migrate` again, it goes on")


class SqliteEnd:
    """A file that no server uses. All work on it is done in a thread of its own."""

    def __init__(self, path: Path, db: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self.name = str(path)
        self._db, self._thread = db, thread

    async def _do(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with _told_of(self.name):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: work(self._db, *args, **kwargs))

    async def origin(self) -> Origin:
        return await self._do(_origin, self.name)

    async def count(self, table: str) -> int:
        return await self._do(_count, table)

    async def read(self, table: str, after: Key | None) -> AsyncGenerator[Part, None]:
        form = FORMS[table]
        rows = await self._do(lambda db: db.execute(form.select(table, after), after or ()))
        try:
            while part := await self._do(lambda _: _part(rows, form.convert, len(form.key))):
                yield part
        finally:
            await self._do(lambda _: rows.close())

    async def is_empty(self) -> bool:
        return await self._do(_is_empty)

    async def place(self) -> Place | None:
        return await self._do(_place)

    async def prepare(self, place: Place, *, is_new: bool) -> None:
        await self._do(_prepare, place, is_new)

    async def write(self, table: str, rows: list[Row], place: Place) -> None:
        await self._do(_write, table, rows, place)

    async def finish(self) -> None:
        await self._do(_finish)


@asynccontextmanager
async def sqlite_source(path: Path, key: EncryptionKey | None = None) -> AsyncIterator[SqliteEnd]:
    """Raises StorageError, also if there is nothing of ours in it. An older one is brought to the present schema."""
    with _taken(path, "rw", key) as end:
        await end._do(_open_source)
        yield end


@asynccontextmanager
async def sqlite_target(path: Path, key: EncryptionKey | None = None) -> AsyncIterator[SqliteEnd]:
    """The file need not exist; with a key it becomes an encrypted one. Raises StorageError."""
    with _taken(path, "rwc", key) as end:
        yield end


@contextmanager
def _taken(path: Path, mode: Mode, key: EncryptionKey | None) -> Iterator[SqliteEnd]:
    with ExitStack() as stack:
        with _told_of(str(path)):
            if mode == "rwc":
                path.parent.mkdir(parents=True, exist_ok=True)
            elif not path.exists():
                raise StorageError("there is no such file")
            lock = OwnerLock(path)
            stack.callback(lock.release)
            db = connect(path, mode, key, check_same_thread=False)
            stack.callback(db.close)
            db.execute(f"pragma cache_size = -{CACHE_KIB}")
        yield SqliteEnd(path, db, stack.enter_context(ThreadPoolExecutor(1, "sqlite")))


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """What goes wrong is a StorageError that says where."""
    try:
        with errors_of_sqlite3():
            yield
    except StorageError as error:
        raise type(error)(f"{name}: {error}") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{name}: {error}") from error


def _open_source(db: sqlite3.Connection) -> None:
    owner, version, _ = db.execute(OURS).fetchone()
    if owner != APPLICATION_ID or not version:
        raise NotOurs("it is not a database of this program")
    migrate(db, STEPS)
    refuse_half_moved(db)
    db.execute("pragma query_only = on")


def _origin(db: sqlite3.Connection, name: str) -> Origin:
    first, state = (db.execute(query).fetchone() for query in (FIRST, STATE))
    return Origin(name, orjson.dumps(["sqlite", first]).decode(), orjson.dumps(state).decode())


def _count(db: sqlite3.Connection, table: str) -> int:
    (number,) = db.execute(f"select count(*) from {FORMS[table].source}").fetchone()
    return int(number)


def _part(rows: sqlite3.Cursor, convert: Convert, key: int) -> Part | None:
    found: list[Row] = []
    size = 0
    for row in rows:
        found.append(convert(row[key:]))
        size += characters(row)
        if len(found) == PART_ROWS or size > PART_CHARACTERS:
            break
    return Part(found, row[:key], size) if found else None


def _is_empty(db: sqlite3.Connection) -> bool:
    owner, version, tables = db.execute(OURS).fetchone()
    if owner != APPLICATION_ID:
        if owner or version or tables:
            raise NotOurs("it is an SQLite database of another program")
        return True
    names = {name for (name,) in db.execute("select name from sqlite_schema where type = 'table'")}
    filled = (f"select count(*) from (select 1 from {name} limit 1)" for name in _written() if name in names)
    used = db.execute("select count(*) from last_numbers where arrival or seq").fetchone()[0]
    return not used and not any(db.execute(query).fetchone()[0] for query in filled)


def _written() -> list[str]:
    return [name for name, sql in INSERTS.items() if sql and name != "last_numbers"]


def _place(db: sqlite3.Connection) -> Place | None:
    if not db.execute(UNFINISHED).fetchone()[0]:
        return None
    (text,) = db.execute("select place from unfinished_move").fetchone()
    return Place.from_json(text)


def _prepare(db: sqlite3.Connection, place: Place, is_new: bool) -> None:
    migrate(db, STEPS)
    db.execute("pragma journal_mode = wal")
    db.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")
    db.execute("pragma synchronous = normal")  # after a power failure it goes on from a little earlier
    if is_new:
        with _transaction(db):
            db.execute(NOTE)  # from here on the audit log may be emptied
            for table in _written():
                db.execute(f"delete from {table}")
            db.execute("update last_numbers set arrival = 0, seq = 0")
            db.execute(KEEP_PLACE, (place.to_json(),))


def _write(db: sqlite3.Connection, table: str, rows: list[Row], place: Place) -> None:
    with _transaction(db):
        if sql := INSERTS[table]:
            db.executemany(sql, map(FORMS[table].written_of, rows))
        db.execute(KEEP_PLACE, (place.to_json(),))


def _finish(db: sqlite3.Connection) -> None:
    db.execute("pragma synchronous = full")
    db.execute("drop table unfinished_move")
    db.execute("pragma wal_checkpoint(truncate)")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    except BaseException:
        db.rollback()
        raise
