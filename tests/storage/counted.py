"""What the rollups should say, by counting the history line by line; shares no code with them but the bins."""

import json
import sqlite3
from collections import Counter, defaultdict
from typing import Any

from storage.durations import bin_of
from storage.sqlite.rebuild import NEVER, rebuild
from storage.sqlite.rollups import add_up

SPANS = (60_000, 3_600_000)
EVENTS = ("created", "claimed", "completed", "failed", "cancelled", "retried", "released", "lease_expired", "deleted")
STATUSES = ("waiting", "working", "completed", "failed", "cancelled")
PRIORITIES = ("low", "medium", "high")
NUMBERS = (*EVENTS, *(f"now_{name}" for name in (*STATUSES, *PRIORITIES)))
LINES = "select type, task_id, work_directory, priority, status, at, details from history order by seq"

View = Any  # whatever executes SQL: a connection of SQLite, or the like
Facts = list[tuple[int, str, str, Any]]  # at, work directory, what, how long in milliseconds
Rows = dict[tuple[str, int, int], dict[str, Any]]


def facts(db: View) -> Facts:
    """Everything that is counted, once."""
    found: Facts = []
    born: dict[str, int] = {}
    last: dict[str, tuple[str, str, str]] = {}
    begun: dict[str, int] = {}
    for type, task_id, path, priority, status, at, details in db.execute(LINES):
        if task_id is None:
            continue
        name, said = type.removeprefix("task."), json.loads(details)
        found.append((at, path, name, None))
        if name == "created":
            born[task_id] = at
        if name == "claimed":
            begun[task_id] = at
            found.append((at, path, "waiting", round(said["waiting_seconds"] * 1000)))
        if name in ("completed", "failed"):
            assert round(said["processing_seconds"] * 1000) == at - begun[task_id]
            found.append((at, path, "processing", at - begun[task_id]))
        last[task_id] = path, status, PRIORITIES[priority]
    for task_id, (path, status, priority) in last.items():
        found += [(born[task_id], path, f"now_{name}", None) for name in (status, priority)]
    for task_id, status, priority in db.execute("select task_id, status, priority from tasks"):
        assert last[task_id][1:] == (status, PRIORITIES[priority])
    return found


def expected(db: View) -> Rows:
    rows: Rows = defaultdict(lambda: {**dict.fromkeys(NUMBERS, 0), "waiting": [], "processing": []})
    for at, path, what, ms in facts(db):
        for span in SPANS:
            for directory in (path, ""):
                row = rows[directory, span, at // span * span]
                if ms is not None:
                    row[what].append(ms)
                elif what in NUMBERS:
                    row[what] += 1
    return {
        key: {**row, **{name: _binned(row[name]) for name in ("waiting", "processing")}} for key, row in rows.items()
    }


def _binned(durations: list[int]) -> dict[str, Any] | None:
    if not durations:
        return None
    bins = Counter(str(bin_of(ms)) for ms in durations)
    return {"bins": dict(bins), "sum": sum(durations), "most": max(durations)}


def counted(db: View) -> Rows:
    """What they do say, once everything is added up."""
    names = ("waiting", "processing", *NUMBERS)
    rows: Rows = {}
    query = f"select work_directory, span, at, {', '.join(names)} from rollups"
    for path, span, at, waiting, processing, *numbers in db.execute(query):
        texts = (json.loads(text) if text else None for text in (waiting, processing))
        rows[path, span, at] = dict(zip(names, (*texts, *numbers), strict=True))
    return rows


def counted_so_far(db: View) -> Rows:
    """What they say together with what is yet to be added."""
    rows = counted(db)
    for (text,) in db.execute("select tallies from additions"):
        for path, at, numbers, *durations in json.loads(text):
            for key in ((directory, span, at // span * span) for directory in (path, "") for span in SPANS):
                row = rows.setdefault(key, dict.fromkeys((*NUMBERS, "waiting", "processing"), None))
                for name, number in zip(NUMBERS, numbers, strict=True):
                    row[name] = (row[name] or 0) + number
                for name, more in zip(("waiting", "processing"), durations, strict=True):
                    row[name] = _together(row[name], _binned(more))
    return rows


def _together(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    if not (one and other):
        return one or other
    bins = Counter(one["bins"]) + Counter(other["bins"])
    return {"bins": dict(bins), "sum": one["sum"] + other["sum"], "most": max(one["most"], other["most"])}


def agree_with_the_history(db: sqlite3.Connection) -> None:
    """So do they when they are counted once more, to the letter."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    try:
        db.backup(copy)
        add_up(copy)
        assert counted(copy) == expected(copy)
        before = copy.execute("select * from rollups").fetchall()
        copy.execute("delete from rollups where at % 120000 = 0")
        copy.execute("update rollups set created = created + 1, now_low = 7, waiting = null")
        assert rebuild(copy, lambda seq, last: None) in (0, NEVER)
        assert copy.execute("select * from rollups").fetchall() == before
    finally:
        copy.close()
