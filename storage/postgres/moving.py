"""A database as one end of a move. What has not been moved into it completely, no server takes."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg
import orjson

from storage.contents import TABLES, Key, Origin, Part, Place, Row, characters
from storage.errors import AlreadyOwned, NotOurs, StorageError, TooNew
from storage.postgres.connections import Address
from storage.postgres.forms import FORMS
from storage.postgres.tls import refuse_unusable, told
from storage.postgres.versions import MOVING, OURS, migrate, version_of
from storage.steps import steps

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

STEPS = steps(files("storage.postgres"))
LOCK_SECONDS = 5  # so long PostgreSQL may take to notice that the last move is no more
SEEN_SECONDS = 15  # a server that was seen so recently may still be at work
# Of its session: it takes the time it needs, also between two rows that it reads.
SESSION = {
    "application_name": "task-orchestrator migrate",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

UNFINISHED = "select to_regclass('unfinished_move') is not null"
LOCK = f"select pg_advisory_lock({OURS}, {MOVING})"
IS_FREE = f"select pg_try_advisory_xact_lock_shared({OURS}, {MOVING})"
IS_THERE = "select to_regclass($1) is not null"
SEEN = """
    select instance_id, (extract(epoch from clock_timestamp()) - seen_at / 1000.0)::float8 as seconds
    from instances order by seen_at desc limit 1"""
NOTE = "create table if not exists unfinished_move (only_row boolean primary key check (only_row), place text not null)"
KEEP_PLACE = "insert into unfinished_move values (true, $1) on conflict (only_row) do update set place = excluded.place"
STATE = """
    select (select version from schema_version), (select last_value from arrivals), seq,
        (select max(updated_at) from tasks), (select max(number) from additions), (select seq from webhook),
        (select max(number) from audit)
    from last_numbers"""
FIRST = "select seq, at, type, task_id from history order by seq limit 1"
# Rows come in the order of an index, so that nothing is sorted, and the first of them come at once.
IN_ORDER = "set local enable_seqscan = off; set local enable_sort = off; set local enable_hashjoin = off"
ARRIVALS = "select setval('arrivals', greatest($1::bigint, 1), $1::bigint > 0)"
ADDITIONS = """
    select setval(pg_get_serial_sequence('additions', 'number'), number) from additions order by number desc limit 1"""


async def refuse_half_moved(connection: "Connection[Record] | PoolConnectionProxy[Record]") -> None:
    """Raises StorageError if a move into it has not been completed, or one from or into it is going on.

    To be asked by a server once its row in `instances` is committed: so either it sees the move, or the move sees it.
    """
    if not await connection.fetchval(IS_FREE):
        raise AlreadyOwned("it is being moved: `task-orchestrator migrate` is at work on it")
    if await connection.fetchval(UNFINISHED):
        raise StorageError("a move into it is not complete: say `task-orchestrator migrate` again, it goes on")


class PostgresEnd:
    """A database that no server uses."""

    def __init__(self, name: str, connection: "Connection[Record]") -> None:
        self.name = name
        self._db = connection

    async def origin(self) -> Origin:
        with _told_of(self.name):
            first, state = await self._db.fetchrow(FIRST), await self._db.fetchrow(STATE)
            identity = ["postgresql", first and tuple(first)]
            return Origin(self.name, orjson.dumps(identity).decode(), orjson.dumps(tuple(state or ())).decode())

    async def count(self, table: str) -> int:
        with _told_of(self.name):
            return int(await self._db.fetchval(f"select count(*) from {table}"))

    async def read(self, table: str, after: Key | None) -> AsyncGenerator[Part, None]:
        form = FORMS[table]
        key = len(form.key)
        with _told_of(self.name):
            async with self._db.transaction(isolation="repeatable_read", readonly=True):
                await self._db.execute(IN_ORDER)
                cursor = await self._db.cursor(form.select(table, after), *(after or ()))
                while found := await cursor.fetch(form.part_rows):
                    rows = [tuple(row) for row in found]
                    yield Part([row[key:] for row in rows], rows[-1][:key], sum(map(characters, rows)))

    async def is_empty(self) -> bool:
        with _told_of(self.name):
            if not await version_of(self._db, STEPS):
                return True
            queries = (f"select exists (select 1 from {name})" for name in TABLES if name != "last_numbers")
            used = await self._db.fetchval("select seq > 0 from last_numbers")
            return not used and not any([await self._db.fetchval(query) for query in queries])

    async def place(self) -> Place | None:
        with _told_of(self.name):
            if not await self._db.fetchval(UNFINISHED):
                return None
            return Place.from_json(await self._db.fetchval("select place from unfinished_move"))

    async def prepare(self, place: Place, *, is_new: bool) -> None:
        with _told_of(self.name):
            await _to_present(self._db)
            await self._db.execute("set synchronous_commit = off")  # after a crash it goes on from a little earlier
            if is_new:
                async with self._db.transaction():
                    names = ", ".join(name for name in TABLES if name != "last_numbers")
                    await self._db.execute(NOTE)  # from here on the audit log may be emptied
                    await self._db.execute(f"truncate {names} restart identity")
                    await self._db.execute("update last_numbers set seq = 0")
                    await self._db.execute(KEEP_PLACE, place.to_json())

    async def write(self, table: str, rows: list[Row], place: Place) -> None:
        with _told_of(self.name):
            async with self._db.transaction():
                await self._put(table, rows)
                await self._db.execute(KEEP_PLACE, place.to_json())

    async def _put(self, table: str, rows: list[Row]) -> None:
        if table == "last_numbers":
            for arrival, seq in rows:
                await self._db.execute("update last_numbers set seq = $1", seq)
                await self._db.execute(ARRIVALS, arrival)
        elif table == "webhook":
            await self._db.executemany("insert into webhook values (true, $1)", rows)
        elif rows:
            await self._db.copy_records_to_table(table, records=rows, columns=TABLES[table])

    async def finish(self) -> None:
        with _told_of(self.name):
            await self._db.execute(f"analyze {', '.join(TABLES)}")
            await self._db.execute("set synchronous_commit = on")
            async with self._db.transaction():
                await self._db.execute(ADDITIONS)
                await self._db.execute("drop table unfinished_move")


@asynccontextmanager
async def postgres_source(url: str) -> AsyncIterator[PostgresEnd]:
    """Raises StorageError, also if there is nothing of ours in it. An older one is brought to the present schema."""
    async with _end(url) as end:
        with _told_of(end.name):
            if not await version_of(end._db, STEPS):
                raise NotOurs("there is no record in it")
            await _to_present(end._db)
            if await end._db.fetchval(UNFINISHED):
                raise StorageError("a move into it is not complete")
        yield end


@asynccontextmanager
async def postgres_target(url: str) -> AsyncIterator[PostgresEnd]:
    """A database, which may be empty. Raises StorageError."""
    async with _end(url) as end:
        yield end


@asynccontextmanager
async def _end(url: str) -> AsyncIterator[PostgresEnd]:
    name = shown(url)
    with _told_of(name):
        refuse_unusable(url)
        connection = await Address(url=url).connect(**SESSION)
    try:
        with _told_of(name):
            await _take(connection)
        yield PostgresEnd(name, connection)
    except BaseException:
        connection.terminate()  # at once, whatever it is doing; the lock goes with it
        raise
    await connection.close()


async def _take(connection: "Connection[Record]") -> None:
    """From now on no server will use it. Raises AlreadyOwned if one does."""
    try:
        await connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'; {LOCK}; set lock_timeout = 0")
    except asyncpg.LockNotAvailableError:
        raise AlreadyOwned("a move from or into it is going on already") from None
    if await connection.fetchval(IS_THERE, "instances"):
        seen = await connection.fetchrow(SEEN)
        if seen is not None and seen["seconds"] < SEEN_SECONDS:
            ago = f"{seen['seconds']:.0f} s ago"
            raise AlreadyOwned(
                f"the server {seen['instance_id']} uses it, or did {ago}: stop it, and wait {SEEN_SECONDS} s"
            )


async def _to_present(connection: "Connection[Record]") -> None:
    await migrate(connection, STEPS)
    if (version := await version_of(connection, STEPS)) > len(STEPS):
        raise TooNew(f"its schema is version {version}, this release knows {len(STEPS)}: use a newer release")


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """What goes wrong is a StorageError that says where."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{name}: {error}") from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StorageError(f"{name}: {told(error)}") from error


def shown(url: str) -> str:
    """What may be shown of it: no password, and nothing of the parameters, where it may be too."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.split("?")[0].rpartition("@")
    return f"{scheme}://{credentials.split(':')[0]}{at}{place}"
