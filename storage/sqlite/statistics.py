"""Statistics from the rollups: how much is read depends on the length of the range, never on how much there is."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import add
from typing import Any

from dispatcher.fields import Priority
from dispatcher.statistics import HOUR, MINUTE, Bucket, Spread, Statistics
from dispatcher.task import Status
from storage.durations import Durations
from storage.sqlite.rollups import additions
from storage.tallies import EVENTS, EVERYWHERE, NUMBERS, PLACES, Total, floor

RANGE = "from rollups where work_directory = ? and span = ? and at >= ? and at < ?"
ROWS = f"select waiting, processing, {', '.join(NUMBERS)} {RANGE}"
EVENT_ROWS = f"select at, {', '.join(EVENTS)} {RANGE}"
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def statistics(db: sqlite3.Connection, work_directory: str | None, start: int, end: int, bucket: int) -> Statistics:
    """Of [start, end), both whole minutes; a bucket is a minute or whole hours."""
    total, origin = Total(), floor(start, bucket)
    series = [[0] * len(EVENTS) for _ in range(origin, end, bucket)]
    directory = work_directory or EVERYWHERE
    with _one_view(db):
        for waiting, processing, *numbers in _rows(db, ROWS, directory, start, end, HOUR):
            total.add_row(numbers, waiting, processing)
        for at, *numbers in _rows(db, EVENT_ROWS, directory, start, end, bucket):
            _count(series, (at - origin) // bucket, numbers)
        for (where, minute), tally in additions(db):
            if start <= minute < end and directory in (EVERYWHERE, where):
                total.add(tally)
                _count(series, (minute - origin) // bucket, tally.numbers)
    return Statistics(
        by_status={status: total.numbers[PLACES[status]] for status in Status},
        by_priority={priority: total.numbers[PLACES[priority]] for priority in Priority},
        events=_events(total.numbers),
        processing=_spread(total.processing),
        waiting=_spread(total.waiting),
        series=[Bucket(max(start, origin + place * bucket), _events(it)) for place, it in enumerate(series)],
    )


def _count(series: list[list[int]], place: int, numbers: Sequence[int]) -> None:
    series[place] = list(map(add, series[place], numbers))  # events come first, the others are left out


@contextmanager
def _one_view(db: sqlite3.Connection) -> Iterator[None]:
    """No commit comes between."""
    db.execute("begin")
    try:
        yield
    finally:
        db.execute("rollback")


def _rows(db: sqlite3.Connection, query: str, directory: str, start: int, end: int, bucket: int) -> Iterator[Any]:
    """The fewest that make up the range, none of which lies in two buckets."""
    first_hour, end_of_hours = start + -start % HOUR, floor(end, HOUR)
    if bucket < HOUR or first_hour >= end_of_hours:
        first_hour = end_of_hours = end
    yield from db.execute(query, (directory, MINUTE, start, first_hour))
    yield from db.execute(query, (directory, HOUR, first_hour, end_of_hours))
    yield from db.execute(query, (directory, MINUTE, end_of_hours, end))


def _events(numbers: Sequence[int]) -> dict[str, int]:
    return dict(zip(EVENTS, numbers, strict=False))  # they come first


def _spread(durations: Durations) -> Spread:
    if not durations.bins:
        return Spread()
    points = durations.percentiles(PERCENTILES) | {"avg": durations.average(), "max": durations.most}
    return Spread(**{name: round(ms / 1000, 6) for name, ms in points.items()})
