"""The history on SQLite: one moment, and what is looked at."""

import sqlite3
from collections.abc import Iterator

import pytest

from dispatcher.record import EventFilter
from storage.sqlite import queries
from tests.storage.test_events import TYPES, entry, record


@pytest.fixture
def long() -> Iterator[sqlite3.Connection]:
    """50 entries, of which every tenth is about a task."""
    db = record([entry(seq, "t1" if seq % 10 == 0 else None) for seq in range(1, 51)])
    yield db
    db.close()


def test_a_stretch_shows_the_record_as_of_one_moment(long: sqlite3.Connection) -> None:
    """Or what is removed while it is read would be missed without a word: the reader is in a transaction, and out of
    it afterwards."""
    inside: list[bool] = []
    long.set_trace_callback(lambda sql: inside.append(long.in_transaction) if sql.startswith("select") else None)
    queries.events(long, 0, 10, EventFilter())
    long.set_trace_callback(None)
    assert inside == [True] * 3
    assert not long.in_transaction


@pytest.mark.parametrize(
    ("only", "plan"),
    [
        (EventFilter(), "SEARCH history USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (EventFilter(types=TYPES, work_directories=("/a",)), "SEARCH history USING INTEGER PRIMARY KEY"),
        (EventFilter(task_id="t1"), "SEARCH history USING INDEX history_by_task (task_id=? AND seq>? AND seq<?)"),
        (EventFilter(task_id="t1", types=TYPES), "SEARCH history USING INDEX history_by_task (task_id=? AND seq>?"),
    ],
    ids=str,
)
def test_no_stretch_looks_at_more_than_it_must(long: sqlite3.Connection, only: EventFilter, plan: str) -> None:
    statements: list[str] = []
    long.set_trace_callback(statements.append)
    queries.events(long, 5, 10, only)
    long.set_trace_callback(None)
    (select,) = [sql for sql in statements if sql.startswith("select history")]
    steps = [row[3] for row in long.execute(f"explain query plan {select}")]
    assert any(step.startswith(plan) for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
