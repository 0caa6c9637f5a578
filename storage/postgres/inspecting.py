"""Reads the audit log of a database, whatever else happens there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from dispatcher.audit import AuditFilter, AuditLog
from dispatcher.errors import RecordFailed
from storage.errors import StorageError
from storage.postgres.audit import PostgresAuditLog, page
from storage.postgres.connections import LOST, Address


async def _refuse(*_: Any) -> Any:
    raise RecordFailed("it is only read")


@asynccontextmanager
async def audit_log(url: str) -> AsyncIterator[AuditLog]:
    """Raises StorageError."""
    address = Address(url=url)
    try:
        db = await address.connect(default_transaction_read_only="on")
    except (*LOST, asyncpg.PostgresError) as error:
        raise StorageError(f"PostgreSQL at {address.place}: {error or type(error).__name__}") from error

    async def read(only: AuditFilter, limit: int, after: int | None, before: int | None) -> Any:
        try:
            return await page(db, only, limit, after, before)
        except (*LOST, asyncpg.PostgresError) as error:
            raise StorageError(f"PostgreSQL at {address.place}: {error or type(error).__name__}") from error

    try:
        yield PostgresAuditLog(_refuse, read)
    finally:
        await db.close(timeout=1)
