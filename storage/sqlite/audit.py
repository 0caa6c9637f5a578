"""The audit log, written beside what the dispatcher writes."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dispatcher.audit import GENESIS, AuditEntry, AuditFilter, Deed, Head, chained
from storage.auditing import LAST, page_of
from storage.rows import AUDIT

ADD = f"insert into audit ({', '.join(AUDIT.columns)}) values ({', '.join('?' * len(AUDIT.columns))})"
PAGE_BYTES = 2 * 4120  # of the write-ahead log, for whatever is appended
ENTRY_BYTES = 500  # an entry, its details aside


class SqliteAuditLog:
    """`alone` does a piece of work on the writer, `read` gives a page; both raise RecordFailed. `grew` is told how many
    bytes the write-ahead log has grown by."""

    def __init__(
        self, alone: Callable[..., Awaitable[Any]], read: Callable[..., Awaitable[Any]], grew: Callable[[int], None]
    ) -> None:
        self._alone, self._read, self._grew = alone, read, grew

    async def append(self, deeds: Sequence[Deed]) -> Sequence[AuditEntry]:
        """One that has failed was rolled back."""
        entries: Sequence[AuditEntry] = await self._alone(append, deeds)
        self._grew(PAGE_BYTES + sum(ENTRY_BYTES + len(entry.details) for entry in entries))
        return entries

    async def page(
        self, only: AuditFilter, limit: int, *, after: int | None = None, before: int | None = None
    ) -> Sequence[AuditEntry]:
        return list(await self._read(only, limit, after, before))


def append(db: sqlite3.Connection, deeds: Sequence[Deed]) -> Sequence[AuditEntry]:
    db.execute("begin immediate")
    try:
        last = db.execute(LAST).fetchone()
        entries = chained(deeds, Head(*last) if last else Head(0, GENESIS))
        db.executemany(ADD, map(AUDIT.row, entries))
        db.execute("commit")
    except BaseException:
        db.rollback()
        raise
    return entries


def page(
    db: sqlite3.Connection, only: AuditFilter, limit: int, after: int | None, before: int | None
) -> Sequence[AuditEntry]:
    return [AUDIT.value(row) for row in db.execute(*page_of(only, limit, after, before, lambda number: f"?{number}"))]
