"""A database on PostgreSQL as SQLite would have it, so that one test reads either; and how it is emptied."""

import sqlite3
from typing import Any

from dispatcher.task import Status
from storage.rows import CONFIG, DIRECTORIES, HISTORY, TASKS
from storage.tallies import COLUMNS

Connection = Any  # to PostgreSQL: one of a pool, or one by itself

HISTORY_NAMES = ", ".join("nullif(work_directory, '')" if it == "work_directory" else it for it in HISTORY.columns)
LEDGER = ", ".join(["work_directory", *Status, *DIRECTORIES.columns[1:]])
# Of each table: its columns in SQLite, and what is read for them in PostgreSQL.
TABLES = {
    "tasks": (f"{', '.join(TASKS.columns)}, due_at", f"select {', '.join(TASKS.columns)}, due_at from tasks"),
    "ready_tags": (None, "select work_directory, tag, priority, arrival from ready_tags"),
    "task_tags": (None, "select tag, arrival from task_tags"),
    "dependencies": (None, "select parent_id, arrival from dependencies"),
    "history": (", ".join(HISTORY.columns), f"select {HISTORY_NAMES} from history"),
    "task_logs": (None, "select arrival, number, attempt, at, line from task_logs"),
    "logs_left": (None, "select arrival from logs_left"),
    "work_directories": (LEDGER, f"select {LEDGER} from work_directories"),
    "config_versions": (", ".join(CONFIG.columns), f"select {', '.join(CONFIG.columns)} from config_versions"),
    "rollups": (", ".join(COLUMNS), f"select {', '.join(COLUMNS)} from rollups"),
    "additions": (None, "select number, tallies from additions"),
    "last_numbers": ("only_row, arrival, seq", "select 1, last_value, seq from last_numbers, arrivals"),
}
EMPTY = """
    truncate tasks, ready_tags, task_tags, dependencies, history, task_logs, idempotency_keys, work_directories,
        instances, duties, webhook, config_versions, rollups, additions, logs_left restart identity;
    update last_numbers set seq = 0;
    alter sequence arrivals restart"""


async def empty(db: Connection) -> None:
    """As it was when it was made, numbers included."""
    await db.execute(EMPTY)


async def mirror(source: Connection, target: sqlite3.Connection) -> None:
    """Everything, and nothing else, as of one moment."""
    async with source.transaction(isolation="repeatable_read", readonly=True):
        for table, (names, query) in TABLES.items():
            target.execute(f"delete from {table}")
            if rows := [tuple(row) for row in await source.fetch(query)]:
                marks = ", ".join("?" * len(rows[0]))
                target.executemany(f"insert into {table} {f'({names})' if names else ''} values ({marks})", rows)
