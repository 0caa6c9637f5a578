"""The real server, on a disk and by a wall clock that can be told to fail.

    python -m tests.faults.faulty_server FD serve …

Each line on the socket FD is a command, and is answered with a line as soon as it is in force:

    clock SECONDS           the wall clock is so far off, from now on
    slow SHORTEST LONGEST   each commit takes so many seconds more, evenly spread; 0 0 ends it
    fail commit | fetch     the next one raises before anything is written or read
    lie                     the next commit is written, and raises nevertheless
    full | room             the database can grow no further; it can again
"""

import os
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from random import uniform
from threading import Thread
from typing import Any

from attrs import define

OFFSET = "FAULTS_CLOCK_OFFSET_SECONDS"  # how far off the wall clock is from the start
PAGES_MAX = 2**32 - 2


def broken_disk() -> sqlite3.OperationalError:
    """As SQLite itself would put it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE"
    return error


@define(eq=False)
class Clock:
    offset_seconds: float

    def install(self) -> None:
        true_time, true_time_ns = time.time, time.time_ns
        time.time = lambda: true_time() + self.offset_seconds
        time.time_ns = lambda: true_time_ns() + round(self.offset_seconds * 1e9)


@define(eq=False)
class Disk:
    """Stands before the functions of storage.sqlite.journal that run in the writer's thread."""

    slow: tuple[float, float] = (0, 0)
    failing: str = ""  # "commit" or "fetch": the next of these
    lying: bool = False
    full: bool = False
    _is_full: bool = False

    def install(self) -> None:
        from storage.sqlite import journal as sqlite

        commit, fetch = sqlite.commit, sqlite.fetch
        sqlite.commit = lambda db, *args: self._commit(db, commit, args)
        sqlite.fetch = lambda db, *args: self._fetch(db, fetch, args)

    def _commit(self, db: sqlite3.Connection, commit: Callable[..., float], args: tuple[Any, ...]) -> float:
        self._make_room(db)
        time.sleep(uniform(*self.slow))
        self._fail_once("commit")
        seconds = commit(db, *args)
        if self.lying:
            self.lying = False
            raise broken_disk()
        return seconds

    def _fetch(self, db: sqlite3.Connection, fetch: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self._fail_once("fetch")
        return fetch(db, *args)

    def _fail_once(self, what: str) -> None:
        if self.failing == what:
            self.failing = ""
            raise broken_disk()

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Only the writer's own connection can be told, and only in its thread."""
        if self.full != self._is_full:
            self._is_full = self.full
            (pages,) = db.execute("pragma page_count").fetchone()
            db.execute(f"pragma max_page_count = {pages if self.full else PAGES_MAX}").fetchone()


def obey(control: socket.socket, clock: Clock, disk: Disk) -> None:
    for line in control.makefile():
        match line.split():
            case ["clock", seconds]:
                clock.offset_seconds = float(seconds)
            case ["slow", shortest, longest]:
                disk.slow = float(shortest), float(longest)
            case ["fail", what]:
                disk.failing = what
            case ["lie"]:
                disk.lying = True
            case ["full" | "room" as word]:
                disk.full = word == "full"
        control.sendall(b"done\n")


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    clock, disk = Clock(float(os.environ.get(OFFSET, 0))), Disk()
    clock.install()
    disk.install()
    Thread(target=obey, args=(control, clock, disk), daemon=True).start()
    from task_orchestrator.cli import main

    sys.argv = ["task-orchestrator", *sys.argv[2:]]
    sys.exit(main())


if __name__ == "__main__":
    main()
