"""The real dispatcher on a real SQLite database, but in one thread and at a time of the test's choosing."""

import asyncio
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from attrs import define, field

from dispatcher.actor import Dispatcher
from dispatcher.agenda import Agenda
from dispatcher.board import Board
from dispatcher.hub import Hub
from dispatcher.messages import Message
from dispatcher.ports import Change, Found, Needs, Snapshot
from storage import sqlite
from storage.versions import migrate, steps

STEPS = steps(files("storage"))


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
    commits: list[Sequence[Change]] = field(factory=list)

    async def load(self) -> Snapshot:
        return sqlite.load(self.db)

    async def fetch(self, needs: Needs) -> Found:
        return sqlite.fetch(self.db, needs)

    async def commit(self, changes: Sequence[Change]) -> None:
        sqlite.commit(self.db, changes)
        self.commits.append(changes)


@define
class World:
    """A dispatcher that can be restarted. `settle` lets it work until it has nothing left to do."""

    window: int = 2
    resident_max: int = 1000
    shelves_max: int = 1000
    now: int = 0
    journal: DirectJournal = field(factory=lambda: DirectJournal(database()))
    mint: CountingMint = field(factory=CountingMint)
    hub: Hub = field(factory=Hub)
    dispatcher: Dispatcher = field(init=False)
    board: Board = field(init=False)
    running: "asyncio.Task[None]" = field(init=False)

    async def start(self) -> "World":
        self.agenda = Agenda(self.window, self.resident_max, self.shelves_max)
        self.board = Board(await self.journal.load(), self.mint, agenda=self.agenda)
        self.dispatcher = Dispatcher(self.board, self.journal, self.hub, lambda: self.now)
        self.running = asyncio.create_task(self.dispatcher.run())
        return self

    async def stop(self) -> None:
        self.dispatcher.close()
        await self.running

    agenda: Agenda = field(init=False)

    def ask(self, message: Message[Any]) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.dispatcher.ask(message))

    async def settle(self) -> None:
        for _ in range(1000):
            before = len(self.journal.commits)
            for _ in range(10):
                await asyncio.sleep(0)
            due = self.board.next_due()
            if (
                self.dispatcher.mailbox_size == 0
                and before == len(self.journal.commits)
                and (due is None or due > self.now)
            ):
                return
        raise AssertionError("the dispatcher does not come to rest")
