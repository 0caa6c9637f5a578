"""The real dispatcher on a real SQLite database, but in one thread and at a time of the test's choosing."""

import asyncio
import sqlite3
from importlib.resources import files
from typing import Any

from attrs import define, field

from dispatcher.actor import Dispatcher
from dispatcher.agenda import Agenda
from dispatcher.board import Board
from dispatcher.hub import Hub
from dispatcher.messages import Message
from dispatcher.ports import Changes, Found, Needs, Snapshot
from dispatcher.rules import Rules
from storage.sqlite import journal as sqlite
from storage.sqlite.versions import migrate
from storage.steps import steps

STEPS = steps(files("storage.sqlite"))
LOOKS_MAX = 10_000
NO_GRACE = Rules(restart_grace_seconds=0)


@define
class CountingMint:
    """task-1, task-2, …; token-1, token-2, …; no jitter."""

    tasks: int = 0
    tokens: int = 0

    def task_id(self, now: int) -> str:
        self.tasks += 1
        return f"task-{self.tasks}"

    def lease_token(self) -> str:
        self.tokens += 1
        return f"token-{self.tokens}"

    def jitter(self) -> float:
        return 0


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db, STEPS)
    return db


@define
class DirectJournal:
    """SQLite without a thread: nothing else runs while it works."""

    db: sqlite3.Connection
    commits: list[Changes] = field(factory=list)
    short_of_room: bool = False
    is_away: bool = False

    def stop_waiting(self) -> None:
        pass

    async def load(self) -> Snapshot:
        return sqlite.load(self.db)

    async def fetch(self, needs: Needs) -> Found:
        return sqlite.fetch(self.db, needs)

    async def commit(self, changes: Changes) -> Changes:
        sqlite.commit(self.db, changes)
        self.commits.append(changes)
        return changes

    async def release(self) -> None:
        pass


@define
class World:
    """A dispatcher that can be restarted. `settle` lets it work until it has nothing left to do."""

    window: int = 2
    resident_max: int = 1000
    shelves_max: int = 1000
    now: int = 0
    rules: Rules = NO_GRACE
    journal: DirectJournal = field(factory=lambda: DirectJournal(database()))
    mint: CountingMint = field(factory=CountingMint)
    hub: Hub = field(factory=Hub)
    dispatcher: Dispatcher = field(init=False)
    board: Board = field(init=False)
    running: "asyncio.Task[None]" = field(init=False)
    looks: int = 0  # at the clock, since it was last at rest

    @property
    def db(self) -> sqlite3.Connection:
        return self.journal.db

    @property
    def commits(self) -> list[Changes]:
        return self.journal.commits

    async def start(self) -> "World":
        agenda = Agenda(self.window, self.resident_max, self.shelves_max)
        snapshot = await self.journal.load()
        rules = Rules(**snapshot.runtime) if snapshot.config_version else self.rules
        self.board = Board(snapshot, self.mint, rules, agenda)
        self.dispatcher = Dispatcher(self.board, self.journal, self.hub.publish, self._clock)
        self.running = asyncio.create_task(self.dispatcher.run())
        return self

    def _clock(self) -> int:
        self.looks += 1
        assert self.looks < LOOKS_MAX, "the dispatcher does not come to rest"
        return self.now

    async def stop(self) -> None:
        self.dispatcher.close()
        await self.running

    def ask(self, message: Message[Any]) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.dispatcher.ask(message))

    async def settle(self) -> None:
        self.looks = 0
        for _ in range(1000):
            before = len(self.journal.commits)
            for _ in range(10):
                await asyncio.sleep(0)
            if self.running.done():
                await self.running  # tells why
            due = self.board.next_due()
            if (
                self.dispatcher.mailbox_size == 0
                and before == len(self.journal.commits)
                and (due is None or due > self.now)
            ):
                return
        raise AssertionError("the dispatcher does not come to rest")
