"""Brings a database to the schema that this release knows: forward only, each step in one transaction.

Any number of servers may start at once: one takes a step, the others wait until it is taken. Each step leaves what the
release before it needs, so that servers may be replaced one after the other: a release whose newest step is v works on
a database of version v or v + 1, and refuses any later one.
"""

from typing import TYPE_CHECKING

from asyncpg.exceptions import DuplicateObjectError, DuplicateTableError

from storage.errors import NotOurs, StorageError, TooNew

if TYPE_CHECKING:
    from asyncpg import Connection, Record

AHEAD_MAX = 1  # so many versions may the database be ahead of a release
STEP_SECONDS_MAX = 3600.0  # for one step, and to wait for another server that takes it

# Advisory locks on the whole database: the first number says that they are ours.
OURS = 0x5441534B  # "TASK"
MIGRATING, MOVING, ADDING_UP, AUDITING = 1, 2, 3, 4

UNHURRIED = "set local statement_timeout = 0; set local lock_timeout = 0"
LOCK = f"select pg_advisory_xact_lock({OURS}, {MIGRATING})"
# The columns of a table named schema_version, if there is one.
LOOK = """
    select array_agg(attname || ' ' || atttypid::regtype order by attnum)
    from pg_attribute where attrelid = to_regclass('schema_version') and attnum > 0 and not attisdropped"""
# The first few tables that are no part of an extension.
OTHERS = """
    select string_agg(relname, ', ') from (
        select relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where nspname = any(current_schemas(false)) and relkind in ('r', 'p')
        and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e') order by relname limit 3
    ) as found"""
VERSION = "select version, to_regclass('last_numbers') is not null as is_ours from schema_version"
BEGIN = "create table schema_version (version integer not null); insert into schema_version values (0)"
ADVANCE = "update schema_version set version = $1"


async def migrate(connection: "Connection[Record]", steps: list[str]) -> None:
    """Raises TooNew, NotOurs or StorageError without having touched anything; if a step fails, what asyncpg raises,
    and the database is as it was before that step."""
    encoding = await connection.fetchval("show server_encoding")
    if encoding != "UTF8":
        raise StorageError(f"its encoding is {encoding}: create it with encoding 'UTF8'")
    while await version_of(connection, steps) < len(steps):
        async with connection.transaction(isolation="read_committed"):  # to see what was done while it waited
            await connection.execute(UNHURRIED)
            await connection.execute(LOCK, timeout=STEP_SECONDS_MAX)
            version = await version_of(connection, steps)  # another server may just have taken the step
            if version < len(steps):
                await _take(connection, version + 1, steps[version])


async def version_of(connection: "Connection[Record]", steps: list[str]) -> int:
    """0: it has none of our tables yet."""
    columns = await connection.fetchval(LOOK)
    if columns is None:
        if others := await connection.fetchval(OTHERS):
            raise NotOurs(f"it has tables of another program ({others}): use a database of its own")
        return 0
    rows = await connection.fetch(VERSION) if columns == ["version integer"] else []
    if len(rows) != 1 or not rows[0]["is_ours"]:
        raise NotOurs("its table schema_version belongs to another program: use a database of its own")
    version = int(rows[0]["version"])
    if version > len(steps) + AHEAD_MAX:
        raise TooNew(f"its schema is version {version}, this release knows {len(steps)}: use a newer release")
    return version


async def _take(connection: "Connection[Record]", version: int, sql: str) -> None:
    try:
        if version == 1:
            await connection.execute(BEGIN)
        await connection.execute(sql, timeout=STEP_SECONDS_MAX)
        await connection.execute(ADVANCE, version)
    except (DuplicateTableError, DuplicateObjectError) as error:
        if version == 1:
            raise NotOurs(f"it has tables of another program ({error}): use a database of its own") from error
        raise
