"""The record as it lies on disk, read beside the server that owns it."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from attrs import frozen

COLUMNS = "seq, type, task_id, priority, status, worker_id, attempt, at, details, lease_token"


@frozen
class Entry:
    """One line of the history; `details` is JSON."""

    seq: int
    type: str
    task_id: str
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


@contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """One consistent view of it."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("begin")
        yield db


def entries(db: sqlite3.Connection, after: int = 0) -> Iterable[Entry]:
    """The history from there on, in order of its numbers."""
    (table,) = db.execute("select name from sqlite_schema where name in ('history', 'task_history')").fetchone()
    return (Entry(*row) for row in db.execute(f"select {COLUMNS} from {table} where seq > ? order by seq", (after,)))
