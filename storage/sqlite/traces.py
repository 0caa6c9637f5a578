"""What workers have left in the record on SQLite: the logs of their tasks, and that they were there."""

import sqlite3

from dispatcher.ports import LogLine
from dispatcher.record import LogPage, Sighting
from dispatcher.task import Status

LOOK_BACK_MAX = 10_000  # lines of the history in which workers are looked for

STANDING = "select arrival, status, attempt, log_lines from tasks where task_id = ?"
LINES = "select number, attempt, at, line from task_logs where arrival = ? and number > ? order by number limit ?"
LINES_OF_ATTEMPT = LINES.replace("order by", "and attempt = ? order by")

# Others may cancel, retry or edit a task, too, and a lease expires because nobody is there.
SIGHTINGS = f"""
    select worker_id, work_directory, max(at) as last_at from (
        select worker_id, work_directory, at from (
            select * from history where seq > (select seq from last_numbers) - {LOOK_BACK_MAX})
        where type in ('task.claimed', 'task.completed', 'task.failed', 'task.released', 'task.late_result')
        or type = 'task.retried' and json_extract(details, '$.automatic')
        union all
        select worker_id, work_directory, updated_at from tasks where status = 'working')
    where worker_id is not null group by worker_id, work_directory having last_at > ? order by last_at"""


def log(db: sqlite3.Connection, task_id: str, after: int, limit: int, attempt: int | None) -> LogPage | None:
    """How the task stands is read first: what is printed meanwhile is no fault."""
    found = db.execute(STANDING, (task_id,)).fetchone()
    if found is None:
        return None
    arrival, status, latest, log_lines = found
    if attempt is None:
        rows = db.execute(LINES, (arrival, after, limit))
    else:
        rows = db.execute(LINES_OF_ATTEMPT, (arrival, after, attempt, limit))
    lines = tuple(LogLine(*row) for row in rows)
    return LogPage(status=Status(status), attempt=latest, log_lines=log_lines, lines=lines)


def sightings(db: sqlite3.Connection, after: int) -> list[Sighting]:
    return [Sighting(*row) for row in db.execute(SIGHTINGS, (after,))]
