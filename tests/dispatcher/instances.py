"""Several real dispatchers on one real PostgreSQL, in one thread and each at a time of the test's choosing.

What one of them does, the others hear of when the test says so.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import asyncpg
from attrs import define, field

from dispatcher.actor import Dispatcher
from dispatcher.hub import Hub
from dispatcher.messages import Adopt, Heed, Message
from dispatcher.ports import Changes, Found, Needs, Snapshot
from dispatcher.rules import Rules
from dispatcher.shared import SharedBoard
from storage.postgres.connections import Address
from storage.postgres.fetching import load
from storage.postgres.journal import PostgresJournal
from storage.postgres.store import NEXT_DUE, READY
from storage.rows import HISTORY
from tests.dispatcher.world import LOOKS_MAX, NO_GRACE, CountingMint, database
from tests.storage.mirror import mirror
from web.membership import Membership

HEARD = f"{HISTORY.select} where seq > $1 order by seq"
QUIET = 5  # turns of the loop without anything to do, after which it is at rest


@define
class Recorded:
    """A journal, what was committed by it, and whether it is at work."""

    journal: PostgresJournal
    commits: list[Changes]
    idle: asyncio.Event = field(factory=asyncio.Event)
    seqs: set[int] = field(factory=set)  # of the lines that are its own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    async def load(self) -> Snapshot:
        self.idle.clear()
        try:
            return await self.journal.load()
        finally:
            self.idle.set()

    async def fetch(self, needs: Needs) -> Found:
        self.idle.clear()
        try:
            return await self.journal.fetch(needs)
        except BaseException:
            self.idle.set()
            raise

    async def commit(self, changes: Changes) -> Changes:
        self.idle.clear()
        try:
            changes = await self.journal.commit(changes)
            self.commits.append(changes)
            self.seqs |= {change.entry.seq for change in changes if change.entry}
            return changes
        finally:
            self.idle.set()

    async def release(self) -> None:
        try:
            await self.journal.release()
        finally:
            self.idle.set()


@define(eq=False)
class Instance:
    journal: Recorded
    board: SharedBoard
    now: int
    dispatcher: Dispatcher = field(init=False)
    membership: Membership = field(init=False)
    running: "asyncio.Task[None]" = field(init=False)
    known: int = 0  # the seq up to which it has heard of everything
    looks: int = 0  # at the clock, since it was last at rest

    def begin(self, owes_grace: bool) -> None:
        hub = Hub()
        self.dispatcher = Dispatcher(self.board, self.journal, hub.publish, self._clock, owes_grace=owes_grace)
        self.membership = Membership(hub, self.dispatcher)
        self.running = asyncio.create_task(self.dispatcher.run())

    def _clock(self) -> int:
        self.looks += 1
        assert self.looks < LOOKS_MAX, "the dispatcher does not come to rest"
        return self.now

    async def settle(self) -> None:
        """Let it work until it has nothing left to do."""
        self.looks, quiet = 0, 0
        while quiet < QUIET:
            idle = asyncio.create_task(self.journal.idle.wait())
            await asyncio.wait([idle, self.running], return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            await asyncio.sleep(0)
            if self.running.done():
                await self.running  # tells why
                return
            quiet = 0 if self._has_work() else quiet + 1

    def _has_work(self) -> bool:
        due = self.dispatcher._board.next_due()
        is_due = due is not None and due <= self.now
        return is_due or self.dispatcher.mailbox_size > 0 or not self.journal.idle.is_set()

    async def leave(self) -> None:
        """Whatever was asked is answered."""
        self.dispatcher.close()
        await self.running
        await self.journal.close()

    async def die(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])
        if self.journal.journal._db is not None:
            self.journal.journal._db.terminate()


@define(eq=False)
class Instances:
    """`at`: the one that is asked. Time passes for each of them when it is spoken to."""

    url: str
    pg: "asyncpg.Connection[asyncpg.Record]"  # the test's own
    number: int = 2
    reminded: bool = True  # of where something is ready, once a second; else they have to know by themselves
    rules: Rules = NO_GRACE
    now: int = 0
    at: int = 0
    mint: CountingMint = field(factory=CountingMint)
    commits: list[Changes] = field(factory=list)
    all: list[Instance] = field(factory=list)
    db: sqlite3.Connection = field(factory=database)  # the record, as SQLite would have it
    copied: int = -1
    _names: Iterator[int] = field(factory=lambda: iter(range(1_000_000)))

    @property
    def here(self) -> Instance:
        return self.all[self.at]

    @property
    def others(self) -> list[int]:
        """In the order in which they hear of what has happened."""
        return [(self.at + step) % self.number for step in range(1, self.number)]

    async def start(self) -> "Instances":
        for place in range(self.number):
            self.all.append(await self._join(was_away=not place))
        return self

    async def _join(self, was_away: bool) -> Instance:
        now = self.now
        journal = PostgresJournal(Address(url=self.url), f"i{next(self._names)}", lambda: self.now, was_away=was_away)
        recorded = Recorded(journal, self.commits)
        snapshot = await recorded.load()
        rules = Rules(**snapshot.runtime) if snapshot.config_version else self.rules
        board = SharedBoard(snapshot, self.mint, rules)
        instance = Instance(recorded, board, now, known=snapshot.last_seq)
        instance.begin(snapshot.was_away)
        return instance

    async def replace(self, place: int, was_away: bool) -> None:
        """What was there has ended."""
        self.all[place] = await self._join(was_away)

    def ask(self, message: Message[Any]) -> "asyncio.Task[Any]":
        self.here.now = self.now
        return asyncio.create_task(self.here.dispatcher.ask(message))

    async def tell(self, place: int) -> bool:
        """It hears of what the others have done, and learns the time; whether there was anything new."""
        instance = self.all[place]
        entries = [HISTORY.value(row) for row in await self.pg.fetch(HEARD, instance.known)]
        foreign = [entry for entry in entries if entry.seq not in instance.journal.seqs]
        instance.known = max([instance.known, *(entry.seq for entry in entries)])
        instance.now = self.now
        instance.membership.heed(foreign)
        if instance.membership.reconfigured.is_set():
            instance.membership.reconfigured.clear()
            snapshot = await load(self.pg)
            instance.dispatcher.heed(Adopt(Rules(**snapshot.runtime), snapshot.config_version))
        await self._beat(instance)
        await instance.settle()
        return bool(foreign)

    async def _beat(self, instance: Instance) -> None:
        directories = list(instance.membership.waiting_directories()) if self.reminded else []
        ready = tuple(row[0] for row in await self.pg.fetch(READY, directories))
        instance.membership.remind(Heed(work_directories=ready, due=await self.pg.fetchval(NEXT_DUE)))

    async def read(self) -> None:
        """The record as it is now."""
        if self.copied != len(self.commits):
            await mirror(self.pg, self.db)
            self.copied = len(self.commits)

    async def end(self) -> None:
        for instance in self.all:
            if not instance.running.done():
                await instance.die()
