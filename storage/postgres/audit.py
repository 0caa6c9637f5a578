"""The audit log that all servers on the database write to: one chain, so one of them at a time."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import frozen

from dispatcher.audit import GENESIS, AuditEntry, AuditFilter, Deed, Head, chained
from storage.auditing import LAST, page_of
from storage.postgres.arrays import columns, insert, types
from storage.postgres.connections import Db
from storage.postgres.reading import Reader
from storage.postgres.versions import AUDITING, OURS
from storage.rows import AUDIT

LOCK = f"select pg_advisory_xact_lock({OURS}, {AUDITING})"
ADD = insert("audit", types(AUDIT))
DURABLE = "set local synchronous_commit = on"  # whatever the session says: so is what was done
IS_THERE = "select exists (select from audit where number = $1 and hash = $2)"


@frozen
class _Attempt:
    """What was about to be committed."""

    deeds: Sequence[Deed]
    entries: Sequence[AuditEntry]


class PostgresAuditLog:
    """`alone` does a piece of work on a connection, `read` gives a page. Both raise RecordFailed."""

    def __init__(
        self,
        alone: Callable[[Callable[[Reader], Awaitable[Any]]], Awaitable[Any]],
        read: Callable[..., Awaitable[Any]],
    ) -> None:
        self._alone, self._read = alone, read
        self._attempt: _Attempt | None = None  # the last one, if it is not known what came of it

    async def append(self, deeds: Sequence[Deed]) -> Sequence[AuditEntry]:
        return list(await self._alone(lambda db: self._append(db, tuple(deeds))))

    async def page(
        self, only: AuditFilter, limit: int, *, after: int | None = None, before: int | None = None
    ) -> Sequence[AuditEntry]:
        return list(await self._read(only, limit, after, before))

    async def _append(self, db: Reader, deeds: Sequence[Deed]) -> Sequence[AuditEntry]:
        async with db.transaction():
            await db.execute(DURABLE)
            await db.execute(LOCK)  # whoever held it has been committed, or never will be
            entries = await self._already_there(db, deeds)
            if not entries:
                last = await db.fetchrow(LAST)
                entries = chained(deeds, Head(*last) if last else Head(0, GENESIS))
                await db.execute(ADD, *columns([tuple(AUDIT.row(entry)) for entry in entries], len(AUDIT.columns)))
                self._attempt = _Attempt(deeds, entries)
        self._attempt = None
        return entries

    async def _already_there(self, db: Reader, deeds: Sequence[Deed]) -> Sequence[AuditEntry]:
        attempt = self._attempt
        if attempt is None or attempt.deeds != deeds:
            return ()
        end = attempt.entries[-1]
        return attempt.entries if await db.fetchval(IS_THERE, end.number, end.hash) else ()


async def page(
    db: "Reader | Db", only: AuditFilter, limit: int, after: int | None, before: int | None
) -> Sequence[AuditEntry]:
    sql, values = page_of(only, limit, after, before, lambda number: f"${number}")
    return [AUDIT.value(row) for row in await db.fetch(sql, *values)]
