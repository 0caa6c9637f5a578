"""Statistics from the rollups: how much is read depends on the length of the range, never on how much there is."""

from collections.abc import Collection

import orjson

from dispatcher.statistics import HOUR, Statistics
from storage.postgres.reading import Reader, see_one_moment
from storage.summary import Summary
from storage.tallies import EVENTS, NUMBERS, Tally

RANGE = "from rollups where work_directory = any($1) and span = $2 and at >= $3 and at < $4"
ROWS = f"select waiting, processing, {', '.join(NUMBERS)} {RANGE}"
EVENT_ROWS = f"select at, {', '.join(EVENTS)} {RANGE}"
ADDITIONS = "select tallies from additions"


async def statistics(
    db: Reader, work_directories: Collection[str] | None, start: int, end: int, bucket: int
) -> Statistics:
    """Of [start, end), both whole minutes; a bucket is a minute or whole hours. Nothing is added up in between."""
    summary = Summary(work_directories, start, end, bucket)
    await see_one_moment(db)
    for wanted in summary.ranges(HOUR):
        for waiting, processing, *numbers in await db.fetch(ROWS, summary.wanted, *wanted):
            summary.total.add_row(numbers, waiting, processing)
    for wanted in summary.ranges(bucket):
        for at, *numbers in await db.fetch(EVENT_ROWS, summary.wanted, *wanted):
            summary.add_events(at, numbers)
    for (tallies,) in await db.fetch(ADDITIONS):
        for where, minute, *tally in orjson.loads(tallies):
            summary.add_tally(where, minute, Tally(*tally))
    return summary.statistics()
