"""The record as it lies on disk, read beside the servers that own it."""

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from attrs import frozen

COLUMNS = "seq, type, task_id, work_directory, priority, status, worker_id, attempt, at, details, lease_token"


class View(Protocol):
    """One consistent view of a record. The places of values are `?`."""

    def execute(self, query: str, values: Sequence[Any] = ()) -> Iterable[tuple[Any, ...]]: ...


@frozen
class Entry:
    """One line of the history; `details` is JSON."""

    seq: int
    type: str
    task_id: str
    work_directory: str | None
    priority: int
    status: str
    worker_id: str | None
    attempt: int
    at: int
    details: str
    lease_token: str | None

    @property
    def undelivered(self) -> bool:
        return self.type == "task.released" and '"undelivered"' in self.details


class PostgresView:
    def __init__(self, runner: asyncio.Runner, connection: Any) -> None:
        self._runner, self._connection = runner, connection

    def execute(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        numbers = count(1)
        query = "".join(f"${next(numbers)}" if sign == "?" else sign for sign in query)
        return [tuple(row) for row in self._runner.run(self._connection.fetch(query, *values))]


@contextmanager
def reading(record: Path | str) -> Iterator[View]:
    """A file of SQLite or the URL of a PostgreSQL database; that not in a thread where an event loop runs."""
    if isinstance(record, Path):
        with closing(sqlite3.connect(f"{record.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
            db.execute("begin")
            yield db
    else:
        with asyncio.Runner() as runner:
            connection = runner.run(asyncpg.connect(record))
            try:
                runner.run(connection.execute("begin isolation level repeatable read read only"))
                yield PostgresView(runner, connection)
            finally:
                runner.run(connection.close())


def entries(db: View, after: int = 0) -> Iterable[Entry]:
    """The history from there on, in order of its numbers."""
    return (Entry(*row) for row in db.execute(f"select {COLUMNS} from history where seq > ? order by seq", (after,)))
