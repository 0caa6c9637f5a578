"""Reads the audit log of a database as it lies there, whether or not a server is at work on it. Nothing is written."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from dispatcher.audit import AuditEntry, AuditFilter, AuditLog
from dispatcher.errors import RecordFailed
from storage.encryption import EncryptionKey
from storage.errors import StorageError
from storage.sqlite import audit
from storage.sqlite.driver import connect
from storage.store import path_of


async def _refuse(*_: Any) -> Any:
    raise RecordFailed("it is only read")


@asynccontextmanager
async def open_audit_log(url: str, key: EncryptionKey | None = None) -> AsyncIterator[AuditLog]:
    """Raises StorageError, also later."""
    if path := path_of(url):
        with _opened(path, key) as db:

            async def read(only: AuditFilter, limit: int, after: int | None, before: int | None) -> Any:
                return await asyncio.to_thread(_page, path, db, only, limit, after, before)

            yield audit.SqliteAuditLog(_refuse, read, lambda _: None)
        return
    try:
        from storage.postgres.inspecting import audit_log
    except ModuleNotFoundError as error:
        raise StorageError(f"{error.name} is missing, which PostgreSQL takes: pip install {error.name}") from error
    async with audit_log(url) as opened:
        yield opened


def _opened(path: Path, key: EncryptionKey | None) -> "closing[sqlite3.Connection]":
    try:
        return closing(connect(path, "ro", key, check_same_thread=False))
    except StorageError as error:
        raise type(error)(f"{path}: {error}") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: {error}") from None


def _page(path: Path, db: sqlite3.Connection, *asked: Any) -> Sequence[AuditEntry]:
    try:
        return audit.page(db, *asked)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from None
