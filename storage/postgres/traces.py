"""What workers have left in the record on PostgreSQL: the logs of their tasks, and that they were there."""

from dispatcher.ports import LogLine
from dispatcher.record import LogPage, Sighting
from dispatcher.task import Status
from storage.postgres.reading import Reader

LOOK_BACK_MAX = 10_000  # lines of the history in which workers are looked for

STANDING = "select work_directory, arrival, status, attempt, log_lines from tasks where task_id = $1"
LINES = """
    select number, attempt, at, line from task_logs
    where work_directory = $1 and arrival = $2 and number > $3 and ($5::integer is null or attempt = $5)
    order by number limit $4"""

# Others may cancel, retry or edit a task, too, and a lease expires because nobody is there. What is quoted in a text is
# escaped there.
SIGHTINGS = f"""
    select worker_id, work_directory, max(at) as last_at from (
        select worker_id, work_directory, at from history
        where seq > (select seq from last_numbers) - {LOOK_BACK_MAX}
        and (type in ('task.claimed', 'task.completed', 'task.failed', 'task.released', 'task.late_result')
            or type = 'task.retried' and details like '%"automatic":true%')
        union all
        select worker_id, work_directory, updated_at from tasks where status = 'working') as seen
    where worker_id is not null group by worker_id, work_directory having max(at) > $1 order by last_at"""


async def log(db: Reader, task_id: str, after: int, limit: int, attempt: int | None) -> LogPage | None:
    """How the task stands is read first: what is printed meanwhile is no fault."""
    found = await db.fetchrow(STANDING, task_id)
    if found is None:
        return None
    work_directory, arrival, status, latest, log_lines = found
    rows = await db.fetch(LINES, work_directory, arrival, after, limit, attempt)
    lines = tuple(LogLine(*row) for row in rows)
    return LogPage(status=Status(status), attempt=latest, log_lines=log_lines, lines=lines)


async def sightings(db: Reader, after: int) -> list[Sighting]:
    return [Sighting(*row) for row in await db.fetch(SIGHTINGS, after)]
