"""Rows on PostgreSQL for the tests: as SQLite has them, or as they are given."""

import sqlite3
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import asyncpg

from dispatcher.task import Status, Task
from storage.rows import TASKS
from storage.texts import fold

SCHEMA = (files("storage.postgres") / "schema.sql").read_text()
FILLED = ("tasks", "task_tags", "history", "task_logs", "work_directories", "config_versions", "rollups", "additions")
BOOLEAN = {"paused", "draining"}

COUNT_TASKS = f"""
    delete from work_directories;
    insert into work_directories (work_directory, {", ".join(Status)})
    select work_directory, {", ".join(f"count(*) filter (where status = '{status}')" for status in Status)}
    from tasks group by work_directory"""

Rows = Iterable[dict[str, Any]]
Connection = Any  # one of a pool, or a connection by itself


async def clear(db: Connection) -> None:
    deletes = "; ".join(f"delete from {table}" for table in FILLED)
    await db.execute(f"{deletes}; update last_numbers set seq = 0; select setval('arrivals', 1, false)")


async def put_tasks(db: Connection, tasks: Iterable[Task]) -> None:
    tasks = list(tasks)
    await put(db, "tasks", map(_row, tasks))
    await put(
        db,
        "task_tags",
        ({"work_directory": it.work_directory, "tag": tag, "arrival": it.arrival} for it in tasks for tag in it.tags),
    )


def _row(task: Task) -> dict[str, Any]:
    folded = fold(task.prompt)
    return {
        **dict(zip(TASKS.columns, TASKS.row(task), strict=True)),
        "due_at": task.due_at,
        "folded": None if folded == task.prompt else folded,
    }


async def copy(source: sqlite3.Connection, db: Connection) -> None:
    """Everything that is read of it, and nothing else."""
    await clear(db)
    await put_tasks(db, map(TASKS.value, source.execute(TASKS.select)))
    entries = _rows(source, "select * from history")
    await put(db, "history", ({**entry, "work_directory": entry["work_directory"] or ""} for entry in entries))
    logs = "select tasks.work_directory, task_logs.* from task_logs join tasks using (arrival)"
    await put(db, "task_logs", _rows(source, logs))
    await put(db, "additions", _rows(source, "select tallies from additions"))
    for table in ("config_versions", "work_directories", "rollups"):
        await put(db, table, _rows(source, f"select * from {table}"))
    arrival, seq = source.execute("select arrival, seq from last_numbers").fetchone()
    await db.execute("update last_numbers set seq = $1", seq)
    await db.execute("select setval('arrivals', $1, $2)", max(arrival, 1), arrival > 0)


def _rows(source: sqlite3.Connection, query: str) -> Rows:
    cursor = source.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


async def put(db: Connection, table: str, rows: Rows) -> None:
    if rows := list(rows):
        names = list(rows[0])
        marks = ", ".join(f"${place}" for place in range(1, len(names) + 1))
        values = [[bool(row[name]) if name in BOOLEAN else row[name] for name in names] for row in rows]
        await db.executemany(f"insert into {table} ({', '.join(names)}) values ({marks})", values)


async def connect(url: str, size: int = 4, **more: Any) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool on a database with the schema."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=size, **more)
    async with pool.acquire() as db:
        if not await db.fetchval("select to_regclass('tasks')"):
            await db.execute(SCHEMA)
    return pool
