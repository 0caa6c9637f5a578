"""The logs of tasks that were deleted: what is long is removed in slices, in the gaps between the commits.

Nobody sees them any more, for a log is found by its task; neither ids nor arrivals are ever given out again.
"""

import sqlite3
import time
from collections.abc import Iterable

from dispatcher.ports import Change
from storage.sqlite.chores import Step

SLICE = 128  # lines removed in one transaction
PAGE_BYTES = 4096

LEAVE = "insert into logs_left values (?)"
LEFT = "select arrival from logs_left order by arrival limit ?"
REMOVE = """
    delete from task_logs where arrival = ?1
    and number in (select number from task_logs where arrival = ?1 order by number limit ?2)"""
FORGET = "delete from logs_left where arrival = ?"


def leave(db: sqlite3.Connection, net: Iterable[Change]) -> None:
    """Within a commit: what those tasks have printed that are deleted by it."""
    db.executemany(LEAVE, ((it.after.arrival,) for it in net if has_left_a_log(it)))


def has_left_a_log(change: Change) -> bool:
    return change.gone and change.after.log_lines > 0


def remove_some(db: sqlite3.Connection) -> Step:
    """In one short transaction of its own; none if nothing is left."""
    began = time.monotonic()
    arrivals = [arrival for (arrival,) in db.execute(LEFT, (SLICE,))]
    if not arrivals:
        return Step()
    db.execute("begin immediate")
    try:
        lines = _remove(db, arrivals)
        db.execute("commit")
    except BaseException:
        db.rollback()
        raise
    more = lines == SLICE or len(arrivals) == SLICE
    return Step(time.monotonic() - began, (lines + 1) * PAGE_BYTES, more=more)


def _remove(db: sqlite3.Connection, arrivals: Iterable[int]) -> int:
    lines = 0
    for arrival in arrivals:
        lines += db.execute(REMOVE, (arrival, SLICE - lines)).rowcount
        if lines == SLICE:
            break
        db.execute(FORGET, (arrival,))
    return lines
