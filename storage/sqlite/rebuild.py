"""Counts everything once more from the history, should the rollups ever be doubted."""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from dispatcher.statistics import HOUR, MINUTE
from storage.encryption import EncryptionKey
from storage.errors import StorageError
from storage.rows import RANKED
from storage.sqlite.driver import connect, errors_of_sqlite3
from storage.sqlite.moving import refuse_half_moved
from storage.sqlite.owner import OwnerLock
from storage.sqlite.rollups import add_to_rollups, add_up, put
from storage.sqlite.versions import migrate
from storage.steps import steps
from storage.tallies import NUMBERS, Key, RowKey, Tallies, Tally, Total, floor

NEVER = 2**62
STRETCH_LINES = 10_000  # of the history are in memory at a time

# Behind the last gap in the numbers of the history nothing is missing, if it goes on to the end.
FIRST = """
    select seq, at from history as line
    where not exists (select 1 from history as before where before.seq = line.seq - 1) order by seq desc limit 1"""
ENDS = "select (select seq from last_numbers), (select max(seq) from history)"
FORGET = "delete from rollups where span = ? and at >= ?"
KEPT = f"""
    select work_directory, waiting, processing, {", ".join(NUMBERS)} from rollups
    where span = {MINUTE} and at >= ?1 and at < ?1 + {HOUR}"""
# With the creation of a task, how it stands in its last line.
LINES = """
    select line.seq, line.type, line.at, line.work_directory, last.status, last.priority,
        line.details ->> 'waiting_seconds', line.details ->> 'processing_seconds'
    from history as line left join history as last on last.seq = case line.type when 'task.created' then
        (select max(seq) from history as other where other.task_id = line.task_id) end
    where line.seq >= ? and line.at >= ? and line.task_id is not null order by line.seq"""


def rebuild_file(path: Path, tell: Callable[[int, int], None], key: EncryptionKey | None = None) -> int:
    """The same, of a database that no server uses. Raises StorageError."""
    if not path.exists():
        raise StorageError(f"{path}: there is no such file")
    try:
        lock = OwnerLock(path)
        try:
            with errors_of_sqlite3(), closing(connect(path, "rw", key)) as db:
                migrate(db, steps(files("storage.sqlite")))
                refuse_half_moved(db)
                return rebuild(db, tell)
        finally:
            lock.release()
    except StorageError as error:
        raise type(error)(f"{path}: {error}") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: {error}") from error


def rebuild(db: sqlite3.Connection, tell: Callable[[int, int], None]) -> int:
    """Replace all that the history tells of, in one transaction; returns the moment from which on it does (NEVER, if it
    tells of nothing). `tell` hears up to which seq it has come, and which is the last.

    Where a part of the history has been removed, what was counted of that time stays, up to the first whole minute
    behind it.
    """
    db.execute("begin immediate")
    try:
        add_up(db)
        first, since, last = _covered(db)
        db.execute(FORGET, (MINUTE, since))
        db.execute(FORGET, (HOUR, floor(since, HOUR)))
        _put_back(db, floor(since, HOUR))
        for seq, tallies in _stretches(db, first, since):
            add_to_rollups(db, tallies.items())
            tell(seq, last)
        db.execute("commit")
    except BaseException:
        db.rollback()
        raise
    return since


def _covered(db: sqlite3.Connection) -> tuple[int, int, int]:
    """The line from which on the history is whole, the moment from which on it is so, and the last line."""
    given_out, last = db.execute(ENDS).fetchone()
    if last is None or last != given_out:
        return NEVER, NEVER, given_out
    first, at = db.execute(FIRST).fetchone()
    return first, 0 if first == 1 else floor(at, MINUTE) + MINUTE, last


def _put_back(db: sqlite3.Connection, hour: int) -> None:
    """Of this hour the minutes that were kept."""
    totals: defaultdict[RowKey, Total] = defaultdict(Total)
    for path, waiting, processing, *numbers in db.execute(KEPT, (hour,)):
        totals[path, HOUR, hour].add_row(numbers, waiting, processing)
    put(db, totals)


def _stretches(db: sqlite3.Connection, first: int, since: int) -> Iterator[tuple[int, Tallies]]:
    """What the lines of each stretch add, and the last of them."""
    lines = db.execute(LINES, (first, since))
    while stretch := lines.fetchmany(STRETCH_LINES):
        found: defaultdict[Key, Tally] = defaultdict(Tally)
        for _, type, at, path, status, priority, waiting, processing in stretch:
            tally = found[path, floor(at, MINUTE)]
            tally.count_line(type, {"waiting_seconds": waiting, "processing_seconds": processing})
            if status is not None:
                tally.count_task(status, RANKED[priority], 1)
        yield stretch[-1][0], found
