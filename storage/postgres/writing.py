"""What a batch has led to, written back in the transaction that has fetched what it is about."""

from collections.abc import Iterable, Sequence, Set
from functools import lru_cache
from typing import Any
from zlib import crc32

import orjson
from asyncpg import Record
from attrs import evolve

from dispatcher.ports import Change, Changes, Configured, Entry, Ruling
from dispatcher.task import Status, Task
from storage.changes import (
    CHANGING,
    EDITABLE,
    counts,
    editable,
    net_of,
    no_longer_unmet,
    ready_tags,
    tags_lost,
    tags_won,
)
from storage.changes import unmet as still_unmet
from storage.postgres.arrays import columns, delete, insert, types, unnest, update
from storage.postgres.connections import Db
from storage.rows import CONFIG, DIRECTORIES, HISTORY, TASKS, Row
from storage.tallies import tallies
from storage.texts import fold

CHANNEL = "task_orchestrator"
NOTIFIED_MAX = 100  # directories, and tasks, named in a notification; with more of them, none is
MANY, NONE = "*", "-"  # in their place

TASK_KEY = {"work_directory": "text", "arrival": "bigint"}
READY_TAG = {"work_directory": "text", "tag": "text", "priority": "smallint", "arrival": "bigint"}
TAG = {"work_directory": "text", "tag": "text", "arrival": "bigint"}
DEPENDENCY = {"parent_id": "text", "work_directory": "text", "arrival": "bigint"}
LOG_LINE = {**TASK_KEY, "number": "bigint", "attempt": "integer", "at": "bigint", "line": "text"}
VERSION = {"version": "bigint"}

TASK = {**types(TASKS), "due_at": "bigint", "folded": "text"}
CHANGED = {name: TASK[name] for _, name in CHANGING} | {"due_at": "bigint"}
EDITED = {name: TASK[name] for name in (*EDITABLE, "folded")}

INSERT_TASKS = insert("tasks", TASK)
# A result that stays as it is may be large: it is neither sent nor written again.
UPDATE_TASKS = update("tasks", TASK_KEY, CHANGED, VERSION, unless={"result": "keeps_result"})
EDIT_TASKS = update("tasks", TASK_KEY, EDITED, {})
DELETE_TASKS = delete("tasks", {**TASK_KEY, **VERSION})
INSERT_READY_TAGS, DELETE_READY_TAGS = insert("ready_tags", READY_TAG), delete("ready_tags", READY_TAG)
INSERT_TAGS, DELETE_TAGS = insert("task_tags", TAG), delete("task_tags", TAG)
INSERT_DEPENDENCIES, DELETE_DEPENDENCIES = insert("dependencies", DEPENDENCY), delete("dependencies", DEPENDENCY)
INSERT_LOG_LINES = insert("task_logs", LOG_LINE)
LEAVE_LOGS = insert("logs_left", TASK_KEY)
INSERT_KEYS = insert("idempotency_keys", {"key": "text", **TASK_KEY})
DELETE_KEYS = "delete from idempotency_keys where key = any($1)"
INSERT_CONFIG = insert("config_versions", types(CONFIG))
RULES = types(DIRECTORIES)
LAY_DOWN = f"""
    {insert("work_directories", RULES)}
    on conflict (work_directory) do update set {", ".join(f"{name} = excluded.{name}" for name in [*RULES][1:])}"""

# From here on, until it commits, nobody else writes to the history: so its numbers have no gap, and are in the order of
# the commits.
TOLD = {name: type for name, type in types(HISTORY).items() if name != "seq"}
COUNTED = [*Status, "work_directory"]
ADDED = ", ".join(f"{name} = old.{name} + excluded.{name}" for name in Status)
TELL = f"""
    with numbered as (
        update last_numbers set seq = seq + $1 returning seq - $1 as before
    ), told as (
        insert into history (seq, {", ".join(TOLD)})
        select numbered.before + line.place, {", ".join(f"line.{name}" for name in TOLD)}
        from numbered cross join {unnest([*TOLD.values()], 8)} with ordinality as line ({", ".join(TOLD)}, place)
    ), counted as (
        insert into work_directories as old ({", ".join(COUNTED)})
        select {", ".join(f"more.{name}" for name in COUNTED)}
        from numbered cross join {unnest(["bigint"] * len(Status) + ["text"], 8 + len(TOLD))}
            as more ({", ".join(COUNTED)})
        on conflict (work_directory) do update set {ADDED}
    ), added as (
        insert into additions (tallies) select $2::text from numbered where $2 is not null
    ), noted as (
        update instances set batch = $3, seen_at = $4 from numbered where instance_id = $5
    )
    select before, pg_notify($6, concat_ws(' ', $5, before + $1, $7::text)) from numbered"""
NOTE = "update instances set batch = $1, seen_at = $2 where instance_id = $3"
NOTIFY = "select pg_notify($1, $2)"


class Disagreement(Exception):
    """The record and the board disagree about a task's version."""


async def write(db: Db, changes: Changes, *, instance_id: str, batch: int, now: int) -> Changes:
    """The changes, with the numbers of their lines. To be committed without delay: others wait for that."""
    net = net_of(change for change in changes if isinstance(change, Change))
    await _write_tasks(db, net)
    await _write_beside(db, net)
    await _many(db, INSERT_LOG_LINES, _log_rows(changes))
    entries = [change.entry for change in changes if change.entry]
    touched = f"{_made_ready(net)} {_printed(changes)}"
    if not entries:
        await db.execute(NOTE, batch, now, instance_id)
        if touched != f"{NONE} {NONE}":
            await db.execute(NOTIFY, CHANNEL, f"{instance_id} 0 {touched}")
        return changes
    added = [(*key, tally.numbers, tally.waiting, tally.processing) for key, tally in tallies(net, entries).items()]
    told = columns((_line(entry) for entry in entries), len(TOLD))
    counted = columns(counts(net), len(COUNTED))
    json = orjson.dumps(added).decode() if added else None
    before, _ = await _row(db, TELL, len(entries), json, batch, now, instance_id, CHANNEL, touched, *told, *counted)
    ruled = {change.after.work_directory: change.after for change in changes if isinstance(change, Ruling)}
    await _many(db, LAY_DOWN, (DIRECTORIES.row(rules) for rules in ruled.values()))
    await _many(db, INSERT_CONFIG, (CONFIG.row(change.after) for change in changes if isinstance(change, Configured)))
    return _numbered(changes, before)


async def _write_tasks(db: Db, net: Sequence[Change]) -> None:
    gone = [change.before for change in net if change.gone and change.before]
    moves = [(change.before, change.after) for change in net if not change.gone]
    updated = [(before, after) for before, after in moves if before is not None]
    edited = [after for before, after in updated if editable(before) != editable(after)]
    created = [after for before, after in moves if before is None]
    await _exactly(db, DELETE_TASKS, [(it.work_directory, it.arrival, it.version) for it in gone])
    await _exactly(db, UPDATE_TASKS, [_changed(*it) for it in updated])
    await _exactly(db, EDIT_TASKS, [_edited(task) for task in edited])
    await _exactly(db, INSERT_TASKS, [(*TASKS.row(task), task.due_at, _folded(task)) for task in created])


async def _write_beside(db: Db, net: Sequence[Change]) -> None:
    """What is found by way of other tables."""
    ready = [
        ({*ready_tags(it.before)} if it.before else set(), {*ready_tags(it.after)} if not it.gone else set())
        for it in net
    ]
    await _many(db, DELETE_READY_TAGS, (row for before, after in ready for row in before - after))
    await _many(db, INSERT_READY_TAGS, (row for before, after in ready for row in after - before))
    await _many(db, DELETE_TAGS, ((it.after.work_directory, *row) for it in net for row in tags_lost(it)))
    await _many(db, INSERT_TAGS, ((it.after.work_directory, *row) for it in net for row in tags_won(it)))
    met = ((parent, it.after.work_directory, arrival) for it in net for parent, arrival in no_longer_unmet(it))
    await _many(db, DELETE_DEPENDENCIES, met)
    new = [it.after for it in net if it.before is None and not it.gone]
    await _many(
        db, INSERT_DEPENDENCIES, ((it_, task.work_directory, task.arrival) for task in new for it_ in still_unmet(task))
    )
    if lost := [key for it in net if it.before and (key := it.before.idempotency_key) and _key(it) != key]:
        await db.execute(DELETE_KEYS, lost)
    won = ((key, it.after.work_directory, it.after.arrival) for it in net if it.before is None and (key := _key(it)))
    await _many(db, INSERT_KEYS, won)
    left = (it.after for it in net if it.gone and it.before and it.before.log_lines)
    await _many(db, LEAVE_LOGS, ((task.work_directory, task.arrival) for task in left))


def _key(change: Change) -> str | None:
    return None if change.gone else change.after.idempotency_key


def _folded(task: Task) -> str | None:
    folded = fold(task.prompt)
    return None if folded == task.prompt else folded


def _changed(before: Task, after: Task) -> Row:
    keeps_result = before.result is after.result
    row = TASKS.row(after)
    values = (None if name == "result" and keeps_result else row[place] for place, name in CHANGING)
    return after.work_directory, after.arrival, *values, after.due_at, before.version, keeps_result


def _edited(task: Task) -> Row:
    row = dict(zip(TASKS.columns, TASKS.row(task), strict=True))
    return task.work_directory, task.arrival, *(row[name] for name in EDITABLE), _folded(task)


def _line(entry: Entry) -> Row:
    row = dict(zip(HISTORY.columns, HISTORY.row(entry), strict=True))
    return tuple(row[name] or "" if name == "work_directory" else row[name] for name in TOLD)


def _log_rows(changes: Changes) -> Iterable[Row]:
    for change in changes:
        if isinstance(change, Change):
            for line in change.log:
                key = change.after.work_directory, change.after.arrival
                yield *key, line.number, line.attempt, line.at, line.line


@lru_cache(100_000)
def directory_id(work_directory: str) -> str:
    """A short name for it. Another one may have the same."""
    return f"{crc32(work_directory.encode()):x}"


def _made_ready(net: Iterable[Change]) -> str:
    """Where there is something to claim now."""
    return _named({directory_id(it.after.work_directory) for it in net if it.after.ready and not it.gone})


def _printed(changes: Changes) -> str:
    """The tasks whose logs have grown."""
    return _named({change.after.task_id for change in changes if isinstance(change, Change) and change.log})


def _named(ids: Set[str]) -> str:
    return MANY if len(ids) > NOTIFIED_MAX else ",".join(sorted(ids)) or NONE


def _numbered(changes: Changes, before: int) -> Changes:
    numbered = []
    for change in changes:
        if change.entry:
            before += 1
            change = evolve(change, entry=evolve(change.entry, seq=before))
        numbered.append(change)
    return numbered


async def _many(db: Db, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    if arrays := columns(map(tuple, rows), 0):
        await db.execute(statement, *arrays)


async def _exactly(db: Db, statement: str, rows: Sequence[Row]) -> None:
    if rows:
        status = await db.execute(statement, *columns(rows, 0))
        if int(status.split()[-1]) != len(rows):
            raise Disagreement(f"{status} of {len(rows)}")


async def _row(db: Db, statement: str, *values: Any) -> Record:
    row = await db.fetchrow(statement, *values)
    assert row is not None, "the record has no last numbers"
    return row
