"""Statistics from the rollups: how much is read depends on the length of the range, never on how much there is."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from dispatcher.fields import to_json
from dispatcher.statistics import HOUR, Statistics
from storage.sqlite.rollups import additions
from storage.summary import Summary
from storage.tallies import EVENTS, NUMBERS

RANGE = "from rollups where work_directory in (select value from json_each(?)) and span = ? and at >= ? and at < ?"
ROWS = f"select waiting, processing, {', '.join(NUMBERS)} {RANGE}"
EVENT_ROWS = f"select at, {', '.join(EVENTS)} {RANGE}"


def statistics(
    db: sqlite3.Connection, work_directories: Collection[str] | None, start: int, end: int, bucket: int
) -> Statistics:
    """Of [start, end), both whole minutes; a bucket is a minute or whole hours."""
    summary = Summary(work_directories, start, end, bucket)
    where = to_json(summary.wanted)
    with _one_view(db):
        for wanted in summary.ranges(HOUR):
            for waiting, processing, *numbers in db.execute(ROWS, (where, *wanted)):
                summary.total.add_row(numbers, waiting, processing)
        for wanted in summary.ranges(bucket):
            for at, *numbers in db.execute(EVENT_ROWS, (where, *wanted)):
                summary.add_events(at, numbers)
        for (path, minute), tally in additions(db):
            summary.add_tally(path, minute, tally)
    return summary.statistics()


@contextmanager
def _one_view(db: sqlite3.Connection) -> Iterator[None]:
    """No commit comes between."""
    db.execute("begin")
    try:
        yield
    finally:
        db.execute("rollback")
