"""Moves a whole record to another place, of whatever kind, and sees to it that all of it has arrived.

Tables are copied one after the other, in the order of their keys. A batch is one transaction of the target, which also
notes how far it has come: a move that was interrupted goes on from there. Until both have been read again and found the
same, the target is marked as unfinished, and no server takes it.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from pathlib import Path
from typing import Protocol

from attrs import frozen

from storage.contents import TABLES, Checksum, End, Part, Place, Row
from storage.encryption import EncryptionKey
from storage.errors import StorageError
from storage.sqlite.moving import sqlite_source, sqlite_target

BATCH_ROWS = 10_000
BATCH_CHARACTERS = 8_000_000  # or fewer rows, if they are long
SQLITE = "sqlite:///"
START_OVER = "start over with --restart"


class Listener(Protocol):
    """Hears how it goes on. `rows` of `table` have been copied, or compared, of about `total`."""

    def copied(self, table: str, rows: int, total: int) -> None: ...

    def compared(self, table: str, rows: int, total: int) -> None: ...


@frozen
class Comparison:
    """Of one table: how many rows each side has, and their checksums."""

    table: str
    rows: int
    checksum: str
    rows_there: int
    checksum_there: str

    @property
    def is_same(self) -> bool:
        return (self.rows, self.checksum) == (self.rows_there, self.checksum_there)


@frozen
class Moved:
    """What came of it. `resumed`: an earlier attempt had already copied so many rows."""

    source: str
    target: str
    tables: tuple[Comparison, ...]
    resumed: int = 0

    @property
    def is_same(self) -> bool:
        return all(comparison.is_same for comparison in self.tables)


async def move(
    source_url: str,
    target_url: str,
    listener: Listener,
    *,
    restart: bool = False,
    source_key: EncryptionKey | None = None,
    target_key: EncryptionKey | None = None,
) -> Moved:
    """Raises StorageError. What `restart` removes is only what an unfinished move has written into the target."""
    async with open_source(source_url, source_key) as source, open_target(target_url, target_key) as target:
        place = await _begin(source, target, restart)
        resumed = sum(place.done.values()) + place.rows
        for table in TABLES:
            if table not in place.done:
                place = await _copy(source, target, table, place, listener)
        result = Moved(source.name, target.name, await _compare_all(source, target, listener), resumed)
        if result.is_same:
            await target.finish()
        return result


async def compare(
    source_url: str,
    target_url: str,
    listener: Listener,
    *,
    source_key: EncryptionKey | None = None,
    target_key: EncryptionKey | None = None,
) -> Moved:
    """The same look at two records as at the end of a move. Raises StorageError."""
    async with open_source(source_url, source_key) as source, open_source(target_url, target_key) as target:
        return Moved(source.name, target.name, await _compare_all(source, target, listener))


async def _begin(source: End, target: End, restart: bool) -> Place:
    """Where to go on, with the target ready for it."""
    origin, place = await source.origin(), await target.place()
    if place is None and not await target.is_empty():
        why = "it is not empty, and no move into it is unfinished (--verify-only compares one that is complete)"
        raise StorageError(f"{target.name}: {why}: nothing was changed")
    is_new = place is None or restart
    if place is None or restart:
        place = Place(origin)
    elif place.origin.identity != origin.identity:
        raise StorageError(f"{target.name}: the unfinished move into it is from {place.origin.name}: {START_OVER}")
    elif place.origin.state != origin.state:
        raise StorageError(f"{source.name}: it has changed since the move was interrupted: {START_OVER}")
    await target.prepare(place, is_new=is_new)
    return place


async def _copy(source: End, target: End, table: str, place: Place, listener: Listener) -> Place:
    total = await source.count(table)
    listener.copied(table, place.rows, total)
    async with aclosing(_batches(source, table, place)) as batches:
        async for batch in batches:
            place = place.behind(batch)
            await target.write(table, batch.rows, place)
            listener.copied(table, place.rows, total)
    place = place.end_of(table)
    await target.write(table, [], place)
    listener.copied(table, place.done[table], place.done[table])
    return place


async def _batches(source: End, table: str, place: Place) -> AsyncGenerator[Part, None]:
    """Parts, as many at once as make a transaction worthwhile."""
    rows: list[Row] = []
    size, last = 0, place.after
    async with aclosing(source.read(table, last)) as parts:
        async for part in parts:
            rows += part.rows
            size, last = size + part.characters, part.last
            if len(rows) >= BATCH_ROWS or size >= BATCH_CHARACTERS:
                yield Part(rows, last, size)
                rows, size = [], 0
    if rows and last is not None:
        yield Part(rows, last, size)


async def _compare_all(source: End, target: End, listener: Listener) -> tuple[Comparison, ...]:
    return tuple([await _compare(source, target, table, listener) for table in TABLES])


async def _compare(source: End, target: End, table: str, listener: Listener) -> Comparison:
    total = await source.count(table) + await target.count(table)
    here = await _read_again(source, table, 0, total, listener)
    there = await _read_again(target, table, here.rows, total, listener)
    listener.compared(table, here.rows + there.rows, here.rows + there.rows)
    return Comparison(table, here.rows, str(here), there.rows, str(there))


async def _read_again(end: End, table: str, before: int, total: int, listener: Listener) -> Checksum:
    found = Checksum()
    async with aclosing(end.read(table, None)) as parts:
        async for part in parts:
            found.add(part.rows)
            listener.compared(table, before + found.rows, total)
    return found


def open_source(url: str, key: EncryptionKey | None = None) -> AbstractAsyncContextManager[End]:
    """A record to be read, which nobody else uses from now on; the key is a file's. Raises StorageError."""
    if url.startswith(SQLITE):
        return sqlite_source(Path(url.removeprefix(SQLITE)), key)
    with _asyncpg():
        from storage.postgres.moving import postgres_source
    return postgres_source(url)


def open_target(url: str, key: EncryptionKey | None = None) -> AbstractAsyncContextManager[End]:
    """Where a record may be moved to, which nobody else uses from now on; the key is a file's. Raises StorageError."""
    if url.startswith(SQLITE):
        return sqlite_target(Path(url.removeprefix(SQLITE)), key)
    with _asyncpg():
        from storage.postgres.moving import postgres_target
    return postgres_target(url)


@contextmanager
def _asyncpg() -> Iterator[None]:
    """It need not be installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise StorageError("asyncpg is missing, which PostgreSQL takes: pip install asyncpg") from None
