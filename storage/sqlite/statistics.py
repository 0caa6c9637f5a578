"""Statistics from the rollups: how much is read depends on the length of the range, never on how much there is."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from dispatcher.statistics import HOUR, Statistics
from storage.sqlite.rollups import additions
from storage.summary import Summary
from storage.tallies import EVENTS, EVERYWHERE, NUMBERS

RANGE = "from rollups where work_directory = ? and span = ? and at >= ? and at < ?"
ROWS = f"select waiting, processing, {', '.join(NUMBERS)} {RANGE}"
EVENT_ROWS = f"select at, {', '.join(EVENTS)} {RANGE}"


def statistics(db: sqlite3.Connection, work_directory: str | None, start: int, end: int, bucket: int) -> Statistics:
    """Of [start, end), both whole minutes; a bucket is a minute or whole hours."""
    summary = Summary(work_directory or EVERYWHERE, start, end, bucket)
    with _one_view(db):
        for wanted in summary.ranges(HOUR):
            for waiting, processing, *numbers in db.execute(ROWS, wanted):
                summary.total.add_row(numbers, waiting, processing)
        for wanted in summary.ranges(bucket):
            for at, *numbers in db.execute(EVENT_ROWS, wanted):
                summary.add_events(at, numbers)
        for (where, minute), tally in additions(db):
            summary.add_tally(where, minute, tally)
    return summary.statistics()


@contextmanager
def _one_view(db: sqlite3.Connection) -> Iterator[None]:
    """No commit comes between."""
    db.execute("begin")
    try:
        yield
    finally:
        db.execute("rollback")
