"""Batches of several servers on one PostgreSQL, each brought as far as a test wants it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import asyncpg
from attrs import define, field

from dispatcher.board import Effects
from dispatcher.errors import Refusal
from dispatcher.messages import Message
from dispatcher.ports import Changes
from dispatcher.shared import SharedBoard
from storage.postgres.connections import Address
from storage.postgres.journal import PostgresJournal
from storage.postgres.versions import migrate
from storage.steps import steps
from tests.dispatcher.world import CountingMint
from tests.storage.mirror import empty

STEPS = steps(files("storage.postgres"))
WAITING = """
    select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"""

Db = Any  # a connection


@define(eq=False)
class Seat:
    """A board and its journal. A batch is `take`, which begins it, then `keep` or `drop`."""

    journal: PostgresJournal
    board: SharedBoard
    now: int = 0
    outcomes: list[Any] = field(factory=list)
    changes: list[Any] = field(factory=list)

    async def take(self, *messages: Message[Any]) -> list[Any]:
        """Fetch what they are about, and decide them; the replies, or refusals."""
        self.outcomes, self.changes = [], []
        self.board.forget()
        if needs := self.board.needs(messages, self.now):
            self.board.learn(await self.journal.fetch(needs))
        for message in messages:
            assert not self.board.needs([message], self.now), "one fetch is not enough for this"
            try:
                effects: Effects[Any] = self.board.apply(message, self.now)
            except Refusal as refusal:
                self.outcomes.append(refusal)
                continue
            self.outcomes.append(effects.reply)
            self.changes += effects.changes
        return self.outcomes

    async def keep(self) -> Changes:
        return await self.journal.commit(self.changes)

    async def drop(self) -> None:
        await self.journal.release()

    async def say(self, *messages: Message[Any]) -> list[Any]:
        outcomes = await self.take(*messages)
        await (self.keep() if self.changes else self.drop())
        return outcomes


@define(eq=False)
class Table:
    """A database, and who sits at it."""

    url: str
    db: Db
    mint: CountingMint = field(factory=CountingMint)
    seats: list[Seat] = field(factory=list)

    def address(self, **more: Any) -> Address:
        return Address(url=self.url, **more)

    async def seat(self) -> Seat:
        journal = PostgresJournal(self.address(), f"seat-{len(self.seats)}", lambda: 0, was_away=False)
        seat = Seat(journal, SharedBoard(await journal.load(), self.mint))
        self.seats.append(seat)
        return seat

    async def until_waiting(self, number: int = 1) -> None:
        """So many of those who sit here wait for a lock."""
        async with asyncio.timeout(10):
            while await self.db.fetchval(WAITING) < number:
                await self.db.execute("select pg_sleep(0.005)")

    async def seqs(self) -> list[int]:
        return [row[0] for row in await self.db.fetch("select seq from history order by seq")]


@asynccontextmanager
async def table(url: str) -> AsyncIterator[Table]:
    """Nothing is there yet."""
    db = await asyncpg.connect(url)
    await migrate(db, STEPS)
    await empty(db)
    made = Table(url, db)
    try:
        yield made
    finally:
        for seat in made.seats:
            await seat.journal.close()
        await db.close()


@define
class Mishap:
    """Stands before a connection: the first statement that begins so goes wrong, once."""

    db: Db
    statement: str
    wrong: Callable[[Callable[[], Any]], Any]
    happened: bool = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.db, name)
        if name not in ("execute", "fetch", "fetchrow", "fetchval"):
            return real

        async def run(statement: str, *values: Any) -> Any:
            if not self.happened and statement.strip().startswith(self.statement):
                self.happened = True
                return await self.wrong(lambda: real(statement, *values))
            return await real(statement, *values)

        return run
