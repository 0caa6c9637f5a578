"""The tallies of every minute and hour, written in the transaction that makes happen what they count.

A batch writes a single row, of what it adds; every ADDITIONS_MAX batches these are added to the minutes and hours they
belong to. Whoever reads takes both together.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

import orjson

from storage.tallies import NUMBERS, Key, RowKey, Tallies, Tally, Total, minutes

ADDITIONS_MAX = 16  # batches that are not added up yet

COLUMNS = ("work_directory", "span", "at", *NUMBERS, "waiting", "processing")

DURATIONS = "select waiting, processing from rollups where work_directory = ? and span = ? and at = ?"
ADD = f"""
    insert into rollups ({", ".join(COLUMNS)}) values ({", ".join("?" * len(COLUMNS))})
    on conflict do update set {", ".join(f"{name} = {name} + excluded.{name}" for name in NUMBERS)},
        waiting = coalesce(excluded.waiting, waiting), processing = coalesce(excluded.processing, processing)"""


def write(db: sqlite3.Connection, tallies: Tallies) -> None:
    if tallies:
        rows = [(*key, tally.numbers, tally.waiting, tally.processing) for key, tally in tallies.items()]
        number = db.execute("insert into additions (tallies) values (?)", (orjson.dumps(rows).decode(),)).lastrowid
        if number is not None and number >= ADDITIONS_MAX:
            add_up(db)


def additions(db: sqlite3.Connection) -> Iterator[tuple[Key, Tally]]:
    for (text,) in db.execute("select tallies from additions"):
        for work_directory, minute, *tally in orjson.loads(text):
            yield (work_directory, minute), Tally(*tally)


def add_up(db: sqlite3.Connection) -> None:
    """Nothing changes, for whoever reads."""
    add_to_rollups(db, additions(db))
    db.execute("delete from additions")


def add_to_rollups(db: sqlite3.Connection, tallies: Iterable[tuple[Key, Tally]]) -> None:
    rows = minutes(tallies)
    for key, total in rows.items():
        if (total.waiting.bins or total.processing.bins) and (row := db.execute(DURATIONS, key).fetchone()):
            total.add_durations(*row)  # what is written takes the place of what stands there
    put(db, rows)


def put(db: sqlite3.Connection, rows: Mapping[RowKey, Total]) -> None:
    values = ((*key, *it.numbers, it.waiting.to_json(), it.processing.to_json()) for key, it in rows.items())
    db.executemany(ADD, values)
