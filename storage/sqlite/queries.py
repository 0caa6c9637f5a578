"""What everybody else asks of the record on SQLite, each in one go and in the thread of a reader."""

import sqlite3
from collections.abc import Collection
from sys import maxsize
from typing import Any

import orjson

from dispatcher.configuration import ConfigVersion
from dispatcher.directory import Directory
from dispatcher.fields import Priority, to_json
from dispatcher.ports import Entry
from dispatcher.record import DirectoryCount, EventFilter, Outcome, Place, Stretch
from dispatcher.task import Status, Task
from storage.rows import CONFIG, DIRECTORIES, HISTORY, TASKS, Row

STRETCH_MAX = 20_000  # entries of the history looked through in one go
STRETCH_BYTES_MAX = 1024 * 1024  # about how much text of them is given

TASK_BY_ID = f"{TASKS.select} where task_id = ?"
CREATED_AT = "select created_at from tasks where arrival >= ? order by arrival limit 1"
OUTCOME = "select arrival, status, coalesce(length(cast(result as blob)), 0) from tasks where task_id = ?"
RESULT = "select result from tasks where arrival = ?"
WORKING = "select coalesce(sum(working), 0) from work_directories"
HELD = "select worker_id, task_id from tasks where status = 'working' and worker_id is not null"
AHEAD = """
    select count(*) from tasks where work_directory = ? and priority = ? and ready = 1 and arrival < ?"""
LANES = [
    f"status = 'waiting' and priority = {priority.rank}" for priority in Priority
]  # of each the index has the oldest
OLDEST_OF_ALL = " union all ".join(
    f"select min(arrival) from tasks indexed by tasks_by_status where {it}" for it in LANES
)
OLDEST_IN_IT = " union all ".join(
    "select min(arrival) from tasks indexed by tasks_by_directory"
    f" where tasks.work_directory = work_directories.work_directory and {it}"
    for it in LANES
)
OLDEST_WAITING = f"select min(created_at) from tasks where arrival in ({OLDEST_OF_ALL})"
DIRECTORY_COUNTS = f"""
    select {DIRECTORIES.names}, {", ".join(Status)}, (
        select min(created_at) from tasks where arrival in ({OLDEST_IN_IT}))
    from work_directories"""


def task_by_id(db: sqlite3.Connection, task_id: str) -> Task | None:
    return next(map(TASKS.value, db.execute(TASK_BY_ID, (task_id,))), None)


def outcomes(db: sqlite3.Connection, task_ids: Collection[str], bytes_max: int) -> dict[str, Outcome]:
    """No more than `bytes_max` of results are ever in memory."""
    found = {}
    for task_id in task_ids:
        if row := db.execute(OUTCOME, (task_id,)).fetchone():
            arrival, status, size = row
            result = None
            if fits := size <= bytes_max:
                (result,) = db.execute(RESULT, (arrival,)).fetchone()
                bytes_max -= size
            found[task_id] = Outcome(Status(status), result and orjson.loads(result), is_omitted=not fits)
    return found


def place_of(db: sqlite3.Connection, task: Task, aging_seconds: float) -> Place:
    """With ageing, those of another priority count as more urgent that were created before it, or not so long after it
    as the priorities lie apart; a task's arrival tells when it was created."""
    ahead = {}
    for priority in Priority:
        ranks = priority.rank - task.priority.rank
        if ranks == 0:
            before = task.arrival
        elif aging_seconds:
            as_urgent = task.created_at + round(ranks * aging_seconds * 1000)  # of those the older one comes first
            before = first_arrival_since(db, as_urgent + (ranks < 0))
        else:
            before = maxsize if ranks > 0 else 0
        (ahead[priority],) = db.execute(AHEAD, (task.work_directory, priority.rank, before)).fetchone()
    older = ahead.pop(task.priority)
    return Place(more_urgent=sum(ahead.values()), older=older)


def first_arrival_since(db: sqlite3.Connection, moment: int) -> int:
    """The arrival of the first task created at `moment` or later. Both grow together, so it can be searched for."""
    low = 0
    (high,) = db.execute("select coalesce(max(arrival), 0) + 1 from tasks").fetchone()
    while low < high:
        middle = (low + high) // 2
        found = db.execute(CREATED_AT, (middle,)).fetchone()
        if found is None or found[0] >= moment:
            high = middle
        else:
            low = middle + 1
    return low


def directories(db: sqlite3.Connection) -> list[DirectoryCount]:
    return list(map(_directory_count, db.execute(f"{DIRECTORY_COUNTS} order by work_directory")))


def directory(db: sqlite3.Connection, work_directory: str) -> DirectoryCount:
    row = db.execute(f"{DIRECTORY_COUNTS} where work_directory = ?", (work_directory,)).fetchone()
    if row is None:
        rules = Directory(work_directory=work_directory)
        return DirectoryCount(rules=rules, tasks=dict.fromkeys(Status, 0), oldest_waiting_at=None, is_known=False)
    return _directory_count(row)


def _directory_count(row: Row) -> DirectoryCount:
    rules = len(DIRECTORIES.columns)
    return DirectoryCount(
        rules=DIRECTORIES.value(row[:rules]),
        tasks=dict(zip(Status, row[rules:-1], strict=True)),
        oldest_waiting_at=row[-1],
    )


def entries_of(db: sqlite3.Connection, task_id: str, limit: int) -> list[Entry]:
    newest = db.execute(f"{HISTORY.select} where task_id = ? order by seq desc limit ?", (task_id, limit))
    return list(map(HISTORY.value, newest))[::-1]


def events(db: sqlite3.Connection, after: int, limit: int, only: EventFilter) -> Stretch:
    """All as of one moment. The history of one task is looked through whole, it has an index."""
    db.execute("begin")
    try:
        return _stretch(db, after, limit, only)
    finally:
        db.execute("rollback")


def _stretch(db: sqlite3.Connection, after: int, limit: int, only: EventFilter) -> Stretch:
    (last,) = db.execute("select seq from last_numbers").fetchone()
    (first,) = db.execute("select coalesce(min(seq), ?) from history", (last + 1,)).fetchone()
    end = last if only.task_id else min(last, max(after, first - 1) + STRETCH_MAX)
    where = ["seq > ?", "seq <= ?"]
    values: list[Any] = [after, end]
    for column, wanted in (("work_directory", only.work_directories), ("type", only.types)):
        if wanted:
            where.append(f"{column} in (select value from json_each(?))")
            values.append(to_json(wanted))
    if only.task_id:
        where.append("task_id = ?")
        values.append(only.task_id)
    entries, size, up_to = [], 0, max(after, end)
    for row in db.execute(f"{HISTORY.select} where {' and '.join(where)} order by seq limit ?", (*values, limit)):
        entries.append(HISTORY.value(row))
        size += sum(len(value) for value in row if isinstance(value, str))
        if len(entries) == limit or size > STRETCH_BYTES_MAX:
            up_to = entries[-1].seq
            break
    return Stretch(entries=tuple(entries), up_to=up_to, first=first, last=last)


def waiting(db: sqlite3.Connection, work_directory: str | None) -> int:
    where, values = ("", ()) if work_directory is None else ("where work_directory = ?", (work_directory,))
    (total,) = db.execute(f"select coalesce(sum(waiting), 0) from work_directories {where}", values).fetchone()
    return int(total)


def config_versions(db: sqlite3.Connection, limit: int, offset: int) -> tuple[list[ConfigVersion], int]:
    rows = db.execute(f"{CONFIG.select} order by version desc limit ? offset ?", (limit, offset))
    (total,) = db.execute("select count(*) from config_versions").fetchone()
    return list(map(CONFIG.value, rows)), total


def config_version(db: sqlite3.Connection, version: int) -> ConfigVersion | None:
    return next(map(CONFIG.value, db.execute(f"{CONFIG.select} where version = ?", (version,))), None)


def oldest_waiting(db: sqlite3.Connection) -> int | None:
    (created_at,) = db.execute(OLDEST_WAITING).fetchone()
    return None if created_at is None else int(created_at)


def working(db: sqlite3.Connection) -> int:
    (number,) = db.execute(WORKING).fetchone()
    return int(number)


def held(db: sqlite3.Connection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for worker_id, task_id in db.execute(HELD):
        found.setdefault(worker_id, []).append(task_id)
    return found
