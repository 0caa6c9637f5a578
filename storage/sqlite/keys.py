"""The keys, written beside what the dispatcher writes."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from dispatcher.errors import KeyExists
from dispatcher.keys import Key
from storage.rows import KEYS

ADD = f"insert into keys ({', '.join(KEYS.columns)}) values ({', '.join('?' * len(KEYS.columns))})"
IN_FORCE = "select 1 from keys where name = ? and revoked_at is null"
REVOKE = "update keys set revoked_at = ? where name = ? and revoked_at is null"
NOTE_USED = """
    update keys set last_used_at = max(coalesce(last_used_at, 0), used.value)
    from json_each(?) as used where digest = used.key"""


class SqliteKeyring:
    """`alone` does a piece of work on the writer, as a transaction by itself. Raises RecordFailed."""

    def __init__(self, alone: Callable[..., Awaitable[Any]]) -> None:
        self._alone = alone

    async def keys(self) -> Sequence[Key]:
        return list(await self._alone(_keys))

    async def key(self, digest: str) -> Key | None:
        """Nobody else writes."""
        return None

    async def add(self, key: Key) -> None:
        await self._alone(add, key)

    async def revoke(self, name: str, at: int) -> bool:
        return bool(await self._alone(_revoke, name, at))

    async def note_used(self, used: Mapping[str, int]) -> None:
        await self._alone(_note_used, used)


def _keys(db: sqlite3.Connection) -> Sequence[Key]:
    return [KEYS.value(row) for row in db.execute(f"{KEYS.select} order by created_at, digest")]


def add(db: sqlite3.Connection, key: Key) -> None:
    if db.execute(IN_FORCE, (key.name,)).fetchone():
        raise KeyExists(key.name)
    db.execute(ADD, KEYS.row(key))


def _revoke(db: sqlite3.Connection, name: str, at: int) -> bool:
    return db.execute(REVOKE, (at, name)).rowcount > 0


def _note_used(db: sqlite3.Connection, used: Mapping[str, int]) -> None:
    db.execute(NOTE_USED, (orjson.dumps(used).decode(),))
