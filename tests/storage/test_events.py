"""The history as the feed reads it: in stretches, none of which takes long, and without a hole that goes untold."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.events import EVENT_TYPES
from dispatcher.ports import Entry, Notice
from dispatcher.record import EventFilter
from storage.postgres import queries as postgres_queries
from storage.sqlite import journal as sqlite
from storage.sqlite import queries
from tests.dispatcher.world import database
from tests.storage.conftest import ReaderOf
from tests.storage.readers import Reader

TASKS = (None, "t1", "t2")
DIRECTORIES = (None, "/a", "/b,c")
TYPES = EVENT_TYPES[:3]


def entry(seq: int, task_id: str | None = None, directory: str | None = None, type: str = "task.created") -> Entry:
    about = {"task_id": task_id, "work_directory": directory, "type": type}
    return Entry(seq=seq, priority=None, status=None, at=seq, details={"n": seq}, **about)


def record(entries: list[Entry]) -> sqlite3.Connection:
    db = database()
    sqlite.commit(db, [Notice(one) for one in entries])
    return db


@pytest.fixture
def long() -> Iterator[sqlite3.Connection]:
    """50 entries, of which every tenth is about a task."""
    db = record([entry(seq, "t1" if seq % 10 == 0 else None) for seq in range(1, 51)])
    yield db
    db.close()


def limit_to(patch: pytest.MonkeyPatch, name: str, value: int) -> None:
    for module in (queries, postgres_queries):
        patch.setattr(module, name, value)


def whole(reader: Reader, after: int, limit: int, only: EventFilter) -> list[Entry]:
    """All that lies behind, stretch by stretch."""
    found: list[Entry] = []
    while True:
        stretch = reader.events(after, limit, only)
        assert len(stretch.entries) <= limit
        assert all(after < one.seq <= stretch.up_to for one in stretch.entries)
        assert stretch.up_to >= after
        found += stretch.entries
        if stretch.up_to >= stretch.last:
            return found
        assert stretch.up_to > after, "it does not get on"
        after = stretch.up_to


lines = st.tuples(st.sampled_from(TASKS), st.sampled_from(DIRECTORIES), st.sampled_from(TYPES))
filters = st.builds(
    EventFilter,
    work_directories=st.lists(st.sampled_from(["/a", "/b,c", "", "/none"]), max_size=3).map(tuple),
    types=st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
    task_id=st.sampled_from([None, None, "t1", "nobody"]),
)


@given(
    st.lists(lines, max_size=30),
    filters,
    st.integers(0, 35),
    st.integers(1, 5),
    st.sampled_from([1, 3, 20_000]),
    st.integers(0, 31),
)
def test_stretches_together_are_what_matches(
    reader_of: ReaderOf,
    made: list[tuple[str | None, str | None, str]],
    only: EventFilter,
    after: int,
    limit: int,
    stretch_max: int,
    removed: int,
) -> None:
    """Wherever one begins, however short they are, and whatever has been removed."""
    entries = [entry(seq, *line) for seq, line in enumerate(made, start=1)]
    db = record(entries)
    db.execute("delete from history where seq <= ?", (removed,))
    reader = reader_of(db)
    expected = [
        one
        for one in entries[removed:]
        if one.seq > after
        and (not only.work_directories or one.work_directory in only.work_directories)
        and (not only.types or one.type in only.types)
        and (only.task_id is None or one.task_id == only.task_id)
    ]
    with pytest.MonkeyPatch.context() as patch:
        limit_to(patch, "STRETCH_MAX", stretch_max)
        assert whole(reader, after, limit, only) == expected
    stretch = reader.events(after, limit, only)
    assert (stretch.first, stretch.last) == (min(removed, len(entries)) + 1, len(entries))
    db.close()


def test_a_stretch_ends_where_it_would_take_long(
    reader_of: ReaderOf, long: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_to(monkeypatch, "STRETCH_MAX", 7)
    reader = reader_of(long)
    nothing = reader.events(0, 100, EventFilter(types=("task.claimed",)))
    assert (nothing.entries, nothing.up_to, nothing.last) == ((), 7, 50)
    of_one_task = reader.events(0, 100, EventFilter(task_id="t1"))
    assert ([one.seq for one in of_one_task.entries], of_one_task.up_to) == ([10, 20, 30, 40, 50], 50)


def test_a_stretch_ends_where_it_has_grown_large(
    reader_of: ReaderOf, long: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never before it has an entry."""
    limit_to(monkeypatch, "STRETCH_BYTES_MAX", 0)
    reader = reader_of(long)
    assert [one.seq for one in reader.events(3, 100, EventFilter()).entries] == [4]
    assert [one.seq for one in whole(reader, 3, 100, EventFilter())] == list(range(4, 51))
