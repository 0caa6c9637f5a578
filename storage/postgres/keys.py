"""The keys that all servers on the database go by. Each is told at once when they change."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from dispatcher.errors import KeyExists
from dispatcher.keys import Key
from storage.postgres.arrays import types, unnest
from storage.postgres.reading import Reader
from storage.rows import KEYS

KEYS_CHANNEL = "task_orchestrator_keys"
TELL = f"pg_notify('{KEYS_CHANNEL}', $1)"  # by whom
IN_FORCE = f"{KEYS.select} where digest = $1 and revoked_at is null"
TYPES = types(KEYS)
ADD = f"""
    with added as (insert into keys ({", ".join(TYPES)}) select * from {unnest([*TYPES.values()], 2)} returning 1)
    select {TELL} from added"""
REVOKE = f"""
    with revoked as (update keys set revoked_at = $2 where name = $3 and revoked_at is null returning 1)
    select {TELL} from revoked"""
NOTE_USED = """
    update keys set last_used_at = greatest(last_used_at, used.at)
    from unnest($1::text[], $2::bigint[]) as used (digest, at) where keys.digest = used.digest"""
KEYS_CHANGES = "select count(*) + count(revoked_at) from keys"  # grows with every change


class PostgresKeyring:
    """`alone` does a piece of work on a connection, as a transaction by itself. Raises RecordFailed."""

    def __init__(self, alone: Callable[[Callable[[Reader], Awaitable[Any]]], Awaitable[Any]], instance_id: str) -> None:
        self._alone, self._instance_id = alone, instance_id

    async def keys(self) -> Sequence[Key]:
        rows = await self._alone(lambda db: db.fetch(f"{KEYS.select} order by created_at, digest"))
        return [KEYS.value(row) for row in rows]

    async def key(self, digest: str) -> Key | None:
        row = await self._alone(lambda db: db.fetchrow(IN_FORCE, digest))
        return KEYS.value(row) if row else None

    async def add(self, key: Key) -> None:
        async def work(db: Reader) -> None:
            try:
                await db.fetch(ADD, self._instance_id, *([value] for value in KEYS.row(key)))
            except asyncpg.UniqueViolationError:
                raise KeyExists(key.name) from None

        await self._alone(work)

    async def revoke(self, name: str, at: int) -> bool:
        return bool(await self._alone(lambda db: db.fetch(REVOKE, self._instance_id, at, name)))

    async def note_used(self, used: Mapping[str, int]) -> None:
        await self._alone(lambda db: db.execute(NOTE_USED, [*used], [*used.values()]))
