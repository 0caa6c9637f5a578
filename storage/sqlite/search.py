"""The index of the prompts' text: every three letters in a row, and the tasks whose prompts have them.

A commit does not wait for it. New prompts are indexed a slice at a time, in the gaps between the commits; what is not
indexed yet is the tail, which every search looks through. Prompts are indexed as they are compared (`fold`).
"""

import sqlite3
import time
from collections.abc import Iterable
from itertools import islice

from dispatcher.ports import Change
from storage.sqlite.chores import Step
from storage.texts import fold

SLICE = 128  # prompts indexed in one transaction
SLICE_CHARACTERS_MAX = 100_000  # or fewer, if they are long
TAIL_MAX = 5_000  # with more prompts not indexed yet, every search has to look through too many
MERGE_PAGES = 32  # the pieces of the index are joined so many pages at a time
GRAM = 3
GRAMS_MAX = 32  # of a long text no more are looked up
PAGE_BYTES = 4096
BYTES_PER_CHARACTER = 10  # about what a character of a prompt adds to the log

INDEXED = "select arrival from prompts_indexed"
NEXT = (
    "select arrival, prompt from tasks where arrival > (select arrival from prompts_indexed) order by arrival limit ?"
)
BEHIND = f"select (select arrival from last_numbers) - ({INDEXED})"
ADD = "insert into prompts (rowid, prompt) values (?, ?)"
REMOVE = "insert into prompts (prompts, rowid, prompt) values ('delete', ?, ?)"
ADVANCE = "update prompts_indexed set arrival = ?"
MERGE = "insert into prompts (prompts, rank) values ('merge', ?)"


def wanted(text: str) -> str | None:
    """What the index is asked for to find a folded text, or more; None: too short to ask for.

    Each letter in one of the threes is enough, as the prompts themselves are looked at in the end.
    """
    last = len(text) - GRAM
    grams = dict.fromkeys(text[at : at + GRAM] for at in sorted({*range(0, last, GRAM), last})) if last >= 0 else {}
    return " AND ".join('"' + gram.replace('"', '""') + '"' for gram in islice(grams, GRAMS_MAX)) or None


def indexed(db: sqlite3.Connection) -> int:
    """The arrival up to which every prompt is in the index."""
    (arrival,) = db.execute(INDEXED).fetchone()
    return int(arrival)


def index_some(db: sqlite3.Connection, is_first: bool) -> Step:
    """In one short transaction of its own; none if there is nothing to do for the first of a row of steps."""
    began = time.monotonic()
    rows: list[tuple[int, str]] = []
    size = 0
    for arrival, prompt in db.execute(NEXT, (SLICE,)):
        rows.append((arrival, fold(prompt)))
        size += len(prompt)
        if size > SLICE_CHARACTERS_MAX:
            break
    if is_first and not rows:
        return Step()
    merged = _write(db, rows)
    (behind,) = db.execute(BEHIND).fetchone()
    log_bytes = size * BYTES_PER_CHARACTER + MERGE_PAGES * PAGE_BYTES * merged
    return Step(time.monotonic() - began, log_bytes, behind > TAIL_MAX, more=bool(rows) or merged)


def _write(db: sqlite3.Connection, rows: list[tuple[int, str]]) -> bool:
    """Whether there was something to merge."""
    db.execute("begin immediate")
    try:
        db.executemany(ADD, rows)
        if rows:
            db.execute(ADVANCE, (rows[-1][0],))
        before = db.total_changes
        db.execute(MERGE, (MERGE_PAGES,))
        merged = db.total_changes - before > 1  # as SQLite tells it
        db.execute("commit")
        return merged
    except BaseException:
        db.rollback()
        raise


def keep_in_step(db: sqlite3.Connection, net: Iterable[Change]) -> None:
    """Within a commit: what was indexed and is now deleted, or says something else."""
    other = [it for it in net if it.before and (it.gone or it.before.prompt != it.after.prompt)]
    if other:
        mark = indexed(db)
        known = [(change, change.before) for change in other if change.before and change.after.arrival <= mark]
        db.executemany(REMOVE, ((before.arrival, fold(before.prompt)) for _, before in known))
        db.executemany(
            ADD, ((change.after.arrival, fold(change.after.prompt)) for change, _ in known if not change.gone)
        )
