"""The record on SQLite, written by one connection: a batch is one transaction and one hop to its thread.

The functions that take a `sqlite3.Connection` run in that thread. Anything they raise means that nothing of
the batch was written.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from itertools import chain
from time import perf_counter

import orjson

from dispatcher.fields import to_json
from dispatcher.ports import (
    Change,
    Changes,
    Configured,
    Found,
    LaneKey,
    Lease,
    Needs,
    Ruling,
    Run,
    Slice,
    Snapshot,
)
from dispatcher.task import Status, Task
from storage.changes import (
    CHANGING,
    EDITABLE,
    counts,
    editable,
    log_rows,
    net_of,
    no_longer_unmet,
    ready_tags,
    tags_lost,
    tags_won,
    unmet,
)
from storage.rows import CONFIG, DIRECTORIES, HISTORY, TASKS, Row
from storage.sqlite import leftovers, rollups, search
from storage.tallies import tallies

DUE_SLICE = 256  # tasks that fall due are fetched so many at a time
DEPENDANTS_SLICE = 256  # and so many of those that wait for them


def _marks(columns: Sequence[object]) -> str:
    return ", ".join("?" * len(columns))


INSERT_TASK = f"insert into tasks ({', '.join(TASKS.columns)}, due_at) values ({_marks(TASKS.columns)}, ?)"
UPDATE_TASK = f"""
    update tasks set {", ".join(f"{name} = ?" for _, name in CHANGING)}, due_at = ?
    where arrival = ? and version = ?"""
UPDATE_EDITABLE = f"update tasks set {', '.join(f'{name} = ?' for name in EDITABLE)} where arrival = ?"
DELETE_TASK = "delete from tasks where arrival = ? and version = ?"
INSERT_ENTRY = f"insert into history ({', '.join(HISTORY.columns)}) values ({_marks(HISTORY.columns)})"
INSERT_CONFIG = f"insert into config_versions ({', '.join(CONFIG.columns)}) values ({_marks(CONFIG.columns)})"
INSERT_READY_TAG = "insert into ready_tags values (?, ?, ?, ?)"
DELETE_READY_TAG = "delete from ready_tags where work_directory = ? and tag = ? and priority = ? and arrival = ?"
INSERT_TAG = "insert into task_tags values (?, ?)"
DELETE_TAG = "delete from task_tags where tag = ? and arrival = ?"
INSERT_DEPENDENCY = "insert into dependencies values (?, ?)"
INSERT_LOG_LINE = "insert into task_logs values (?, ?, ?, ?, ?)"
DELETE_DEPENDENCY = "delete from dependencies where parent_id = ? and arrival = ?"
INSERT_DIRECTORY = "insert into work_directories (work_directory) values (?) on conflict do nothing"
ADD_COUNT = f"""
    update work_directories set {", ".join(f"{status} = {status} + ?" for status in Status)} where work_directory = ?"""
RULES = ("max_working", "paused", "paused_reason", "paused_until", "draining")
LAY_DOWN = f"update work_directories set {', '.join(f'{name} = ?' for name in RULES)} where work_directory = ?"
KEEP_NUMBERS = "update last_numbers set arrival = max(arrival, ?), seq = max(seq, ?)"

TASKS_BY_ID = f"{TASKS.select} where task_id in (select value from json_each(?))"
PARENTS = TASKS_BY_ID.replace("tasks.result", "case tasks.status when 'completed' then null else tasks.result end")
TASK_BY_KEY = f"{TASKS.select} where idempotency_key = ?"
WORKING = f"{TASKS.select} where status = 'working'"
RULED = f"{DIRECTORIES.select} where max_working is not null or paused or draining"
CONFIGURED = "select version, runtime from config_versions order by version desc limit 1"
LAST_AT = """
    select max(coalesce((select at from history order by seq desc limit 1), 0),
               coalesce((select max(updated_at) from tasks where status = 'working'), 0))"""
WHO_DEPENDS = f"""
    select {TASKS.names} from dependencies join tasks using (arrival)
    where parent_id = ? and arrival >= ? order by arrival limit ?"""
NEXT_DUE = "select min(due_at) from tasks where due_at is not null"
DUE = f"{TASKS.select} where due_at <= ? order by due_at limit ?"
READY = f"""
    {TASKS.select} where work_directory = ?1 and priority = ?2 and ready = 1 and arrival >= ?3
    and (expires_at is null or expires_at > ?4) order by arrival limit ?5"""
READY_WITH_TAGS = f"""
    select {TASKS.names} from ready_tags as one cross join tasks on tasks.arrival = one.arrival
    where one.work_directory = ?1 and one.priority = ?2 and one.arrival >= ?3 and one.tag = json_extract(?6, '$[0]')
    and (expires_at is null or expires_at > ?4) and not exists (
        select 1 from json_each(?6) as wanted where not exists (
            select 1 from ready_tags as other
            where other.work_directory = ?1 and other.tag = wanted.value
            and other.priority = ?2 and other.arrival = one.arrival))
    order by one.arrival limit ?5"""
CLAIM_UNDER = """
    select seq, attempt, worker_id, json_extract(details, '$.claimed_by') from history
    where task_id = ? and type = 'task.claimed' and lease_token = ?"""
END_OF_LEASE = """
    select type from history where task_id = ? and attempt = ? and seq > ? and type in (
        'task.completed', 'task.failed', 'task.cancelled', 'task.retried', 'task.released', 'task.lease_expired')
    order by seq limit 1"""
LATE_RESULT = "select 1 from history where task_id = ? and attempt = ? and type = 'task.late_result'"


def load(db: sqlite3.Connection) -> Snapshot:
    arrival, seq = db.execute("select arrival, seq from last_numbers").fetchone()
    (next_due,) = db.execute(NEXT_DUE).fetchone()
    (last_at,) = db.execute(LAST_AT).fetchone()
    config_version, runtime = db.execute(CONFIGURED).fetchone() or (0, "{}")
    return Snapshot(
        last_arrival=arrival,
        last_seq=seq,
        last_at=last_at,
        working=_tasks(db.execute(WORKING)),
        directories=tuple(map(DIRECTORIES.value, db.execute(RULED))),
        next_due=next_due,
        config_version=config_version,
        runtime=orjson.loads(runtime),
    )


def fetch(db: sqlite3.Connection, needs: Needs) -> Found:
    due, next_due = _due(db, needs.now) if needs.due else (None, None)
    dependants: dict[str, Run] = {}
    if due:
        dependants, place = _dependants(db, due)
        due, next_due = due[:place], due[place].due_at if place < len(due) else next_due
    return Found(
        tasks=_by_id(db, TASKS_BY_ID, needs.tasks),
        parents=_by_id(db, PARENTS, needs.parents),
        leases={(task_id, token): _lease(db, task_id, token) for task_id, token in needs.leases},
        lanes=_runs(db, needs),
        keys={key: next(iter(_tasks(db.execute(TASK_BY_KEY, (key,)))), None) for key in needs.keys},
        due=due,
        dependants=dependants,
        next_due=next_due,
    )


def commit(db: sqlite3.Connection, changes: Changes) -> float:
    """The seconds that it took to make the changes durable, once they were written."""
    db.execute("begin immediate")
    try:
        _write(db, changes)
        began = perf_counter()
        db.execute("commit")
        return perf_counter() - began
    except BaseException:
        db.rollback()
        raise


def probe(db: sqlite3.Connection) -> None:
    """Write a page for good, as a commit does, and change nothing. Raises sqlite3.Error."""
    db.execute("begin immediate")
    try:
        db.execute("insert into room values (null)")
        db.execute("delete from room")
        db.execute("commit")
    except BaseException:
        db.rollback()
        raise


def take_room(db: sqlite3.Connection, size: int) -> None:
    """Write so many bytes for good, and give them back. Raises sqlite3.Error if they do not fit."""
    db.execute("insert into room values (zeroblob(?))", (size,))
    db.execute("delete from room")


def webhook_place(db: sqlite3.Connection) -> int | None:
    row = db.execute("select seq from webhook").fetchone()
    return row and int(row[0])


def keep_webhook_place(db: sqlite3.Connection, seq: int | None) -> None:
    if seq is None:
        db.execute("delete from webhook")
    else:
        db.execute("insert into webhook values (1, ?) on conflict do update set seq = excluded.seq", (seq,))


def _write(db: sqlite3.Connection, changes: Changes) -> None:
    net = net_of(change for change in changes if isinstance(change, Change))
    ruled = {change.after.work_directory: change.after for change in changes if isinstance(change, Ruling)}
    gone = [change.before for change in net if change.gone and change.before]
    moves = [(change.before, change.after) for change in net if not change.gone]
    created = [after for before, after in moves if before is None]
    updated = [(before, after) for before, after in moves if before is not None]
    entries = [change.entry for change in changes if change.entry]
    _expect(len(gone), db.executemany(DELETE_TASK, ((task.arrival, task.version) for task in gone)))
    _expect(len(updated), db.executemany(UPDATE_TASK, (_update_row(before, after) for before, after in updated)))
    db.executemany(
        UPDATE_EDITABLE, (_edit_row(after) for before, after in updated if editable(before) != editable(after))
    )
    db.executemany(INSERT_TASK, (_task_row(task) for task in created))  # a key may have changed hands above
    db.executemany(INSERT_ENTRY, map(HISTORY.row, entries))
    db.executemany(DELETE_READY_TAG, chain.from_iterable(ready_tags(it.before) for it in net if it.before))
    db.executemany(INSERT_READY_TAG, chain.from_iterable(ready_tags(after) for _, after in moves))
    db.executemany(DELETE_TAG, chain.from_iterable(tags_lost(change) for change in net))
    db.executemany(INSERT_TAG, chain.from_iterable(tags_won(change) for change in net))
    db.executemany(DELETE_DEPENDENCY, chain.from_iterable(no_longer_unmet(change) for change in net))
    db.executemany(INSERT_DEPENDENCY, ((parent, task.arrival) for task in created for parent in unmet(task)))
    db.executemany(INSERT_LOG_LINE, log_rows(changes))
    leftovers.leave(db, net)
    db.executemany(INSERT_DIRECTORY, {(path,) for path in (*ruled, *(task.work_directory for task in created))})
    db.executemany(ADD_COUNT, counts(net))
    rollups.write(db, tallies(net, entries))
    db.executemany(LAY_DOWN, ((*DIRECTORIES.row(rules)[1:], path) for path, rules in ruled.items()))
    db.executemany(INSERT_CONFIG, (CONFIG.row(change.after) for change in changes if isinstance(change, Configured)))
    search.keep_in_step(db, net)
    last_arrival = max((task.arrival for task in created), default=0)
    db.execute(KEEP_NUMBERS, (last_arrival, max((entry.seq for entry in entries), default=0)))


def _expect(rows: int, cursor: sqlite3.Cursor) -> None:
    if rows and cursor.rowcount != rows:
        raise sqlite3.IntegrityError("the record and the board disagree about a task's version")


def _task_row(task: Task) -> Row:
    return *TASKS.row(task), task.due_at


def _update_row(before: Task, after: Task) -> Row:
    row = TASKS.row(after)
    return *(row[place] for place, _ in CHANGING), after.due_at, before.arrival, before.version


def _edit_row(task: Task) -> Row:
    row = dict(zip(TASKS.columns, TASKS.row(task), strict=True))
    return *(row[name] for name in EDITABLE), task.arrival


def _tasks(rows: Iterable[Row]) -> tuple[Task, ...]:
    return tuple(map(TASKS.value, rows))


def _by_id(db: sqlite3.Connection, query: str, task_ids: Set[str]) -> dict[str, Task | None]:
    if not task_ids:
        return {}
    found = _tasks(db.execute(query, (to_json(list(task_ids)),)))
    return dict.fromkeys(task_ids) | {task.task_id: task for task in found}


def _lease(db: sqlite3.Connection, task_id: str, token: str) -> Lease | None:
    claim = db.execute(CLAIM_UNDER, (task_id, token)).fetchone()
    if claim is None:
        return None
    seq, attempt, worker_id, claimed_by = claim
    end = db.execute(END_OF_LEASE, (task_id, attempt, seq)).fetchone()
    late = db.execute(LATE_RESULT, (task_id, attempt)).fetchone()
    return Lease(attempt, worker_id, claimed_by, end[0] if end else None, late is not None)


def _runs(db: sqlite3.Connection, needs: Needs) -> dict[LaneKey, Run]:
    runs: dict[LaneKey, Run] = {}
    yields: Counter[tuple[str, frozenset[str]]] = Counter()
    for key, slice in sorted(needs.lanes.items(), key=lambda lane: -lane[0].priority.rank):
        if yields[key.work_directory, key.tags] < slice.enough:
            runs[key] = _run(db, key, slice, needs.now)
            yields[key.work_directory, key.tags] += len(runs[key].tasks)
    return runs


def _run(db: sqlite3.Connection, key: LaneKey, slice: Slice, now: int) -> Run:
    """One row more than wanted is asked for: it is the new edge."""
    wanted = (key.work_directory, key.priority.rank, slice.edge, now, slice.limit + 1, to_json(sorted(key.tags)))
    tasks = _tasks(db.execute(READY_WITH_TAGS, wanted) if key.tags else db.execute(READY, wanted[:5]))
    behind = tasks[slice.limit :]
    return Run(tasks[: slice.limit], behind[0].arrival if behind else None)


def _dependants(db: sqlite3.Connection, due: tuple[Task, ...]) -> tuple[dict[str, Run], int]:
    """Who waits for the tasks that are due because they have ended, and the place where they become too many."""
    dependants: dict[str, Run] = {}
    room = DEPENDANTS_SLICE
    for place, task in enumerate(due):
        if task.tell_from is not None:
            if not room:
                return dependants, place
            found = _tasks(db.execute(WHO_DEPENDS, (task.task_id, task.tell_from, room + 1)))
            dependants[task.task_id] = Run(found[:room], found[room].arrival if len(found) > room else None)
            room -= len(dependants[task.task_id].tasks)
    return dependants, len(due)


def _due(db: sqlite3.Connection, moment: int) -> tuple[tuple[Task, ...], int | None]:
    tasks = _tasks(db.execute(DUE, (moment, DUE_SLICE + 1)))
    if len(tasks) > DUE_SLICE:
        return tasks[:DUE_SLICE], tasks[DUE_SLICE].due_at
    (next_due,) = db.execute("select min(due_at) from tasks where due_at > ?", (moment,)).fetchone()
    return tasks, next_due
