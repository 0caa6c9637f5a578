"""What everybody else asks of the record on PostgreSQL, of which each costs little."""

from collections.abc import Collection
from typing import Any

import orjson

from dispatcher.configuration import ConfigVersion
from dispatcher.directory import Directory
from dispatcher.fields import Priority
from dispatcher.ports import Entry
from dispatcher.presence import Presence
from dispatcher.record import DirectoryCount, EventFilter, Outcome, Place, Stretch
from dispatcher.task import Status, Task
from storage.postgres import presence
from storage.postgres.reading import Reader, see_one_moment
from storage.rows import CONFIG, DIRECTORIES, HISTORY, TASKS

STRETCH_MAX = 20_000  # entries of the history looked through in one go
STRETCH_BYTES_MAX = 1024 * 1024  # about how much text of them is given
GONE_SECONDS = 15  # a server that has not been seen for so long is not there any more
NOW = "(extract(epoch from clock_timestamp()) * 1000)::bigint"
NO_DIRECTORY = ""  # stands for it in the history

TASK_BY_ID = f"{TASKS.select} where task_id = $1"
OUTCOMES = """
    select task_id, work_directory, arrival, status, coalesce(octet_length(result), 0) as size
    from tasks where task_id = any($1::text[])"""
RESULTS = """
    select tasks.task_id, tasks.result from unnest($1::text[], $2::bigint[]) as place (work_directory, arrival)
    join tasks on tasks.work_directory = place.work_directory and tasks.arrival = place.arrival"""
OLDER = """
    select count(*) from tasks where work_directory = $1 and priority = $2 and ready and arrival < $3"""
MORE_URGENT = """
    select count(*) from tasks where work_directory = $1 and priority = $2 and ready and created_at < $3"""
OLDEST_WAITING = " union all ".join(
    f"select min(created_at) as at from tasks where status = 'waiting' and priority = {priority.rank}"
    for priority in Priority
)  # of each the index has the oldest
DIRECTORY_COUNTS = f"""
    select {DIRECTORIES.names}, {", ".join(Status)}, case when waiting > 0 then (
        select min(created_at) from tasks
        where tasks.work_directory = work_directories.work_directory and status = 'waiting') end
    from work_directories"""
ENTRIES_OF = f"{HISTORY.select} where task_id = $1 order by seq desc limit $2"
ENDS = """
    select seq as last, coalesce((select min(seq) from history), seq + 1) as first from last_numbers"""
# With each of them how large those before it are.
STRETCH = f"""
    select * from (
        select line.*, coalesce(sum(octet_length(details)) over (
            order by seq rows between unbounded preceding and 1 preceding), 0) as before
        from ({HISTORY.select} where seq > $1 and seq <= $2 %s order by seq limit $4) as line
    ) as line where before <= $3 order by seq"""
WAITING = "select coalesce(sum(waiting), 0)::bigint from work_directories"
WORKING = "select coalesce(sum(working), 0)::bigint from work_directories"
HELD = "select worker_id, task_id from tasks where status = 'working' and worker_id is not null"
PRESENCES = f"""
    select presence from instances where instance_id is distinct from $1 and seen_at > {NOW} - $2"""
CONFIG_VERSIONS = f"{CONFIG.select} order by version desc limit $1 offset $2"


async def task_by_id(db: Reader, task_id: str) -> Task | None:
    return next(map(TASKS.value, await db.fetch(TASK_BY_ID, task_id)), None)


async def outcomes(db: Reader, task_ids: Collection[str], bytes_max: int) -> dict[str, Outcome]:
    """No more than `bytes_max` of results are ever in memory."""
    await see_one_moment(db)
    known = {row["task_id"]: row for row in await db.fetch(OUTCOMES, list(task_ids))}
    fit = []
    for task_id in dict.fromkeys(task_ids):
        if (row := known.get(task_id)) and row["size"] <= bytes_max:
            bytes_max -= row["size"]
            fit.append(row)
    places = [row["work_directory"] for row in fit], [row["arrival"] for row in fit]
    results = {row["task_id"]: row["result"] for row in await db.fetch(RESULTS, *places)}
    return {
        task_id: Outcome(
            Status(known[task_id]["status"]),
            (result := results.get(task_id)) and orjson.loads(result),
            is_omitted=task_id not in results,
        )
        for task_id in task_ids
        if task_id in known
    }


async def place_of(db: Reader, task: Task, aging_seconds: float) -> Place:
    """With ageing, those of another priority count as more urgent that were created before it, or not so long after it
    as the priorities lie apart."""
    await see_one_moment(db)
    ahead = 0
    for priority in Priority:
        ranks = priority.rank - task.priority.rank
        if ranks and (aging_seconds or ranks > 0):
            as_urgent = task.created_at + round(ranks * aging_seconds * 1000)  # of those the older one comes first
            before = as_urgent + (ranks < 0) if aging_seconds else 2**63 - 1
            ahead += await db.fetchval(MORE_URGENT, task.work_directory, priority.rank, before)
    older = await db.fetchval(OLDER, task.work_directory, task.priority.rank, task.arrival)
    return Place(more_urgent=ahead, older=older)


async def directories(db: Reader) -> list[DirectoryCount]:
    return list(map(_directory_count, await db.fetch(f"{DIRECTORY_COUNTS} order by work_directory")))


async def directory(db: Reader, work_directory: str) -> DirectoryCount:
    row = await db.fetchrow(f"{DIRECTORY_COUNTS} where work_directory = $1", work_directory)
    if row is None:
        rules = Directory(work_directory=work_directory)
        return DirectoryCount(rules=rules, tasks=dict.fromkeys(Status, 0), oldest_waiting_at=None, is_known=False)
    return _directory_count(row)


def _directory_count(row: Any) -> DirectoryCount:
    rules = len(DIRECTORIES.columns)
    return DirectoryCount(
        rules=DIRECTORIES.value(row[:rules]),
        tasks=dict(zip(Status, row[rules:-1], strict=True)),
        oldest_waiting_at=row[-1],
    )


async def entries_of(db: Reader, task_id: str, limit: int) -> list[Entry]:
    return list(map(entry, await db.fetch(ENTRIES_OF, task_id, limit)))[::-1]


def entry(row: Any) -> Entry:
    """One of the history, whose columns come first."""
    values = dict(zip(HISTORY.columns, row, strict=False))
    values["work_directory"] = values["work_directory"] or None
    found: Entry = HISTORY.value(values.values())
    return found


async def events(db: Reader, after: int, limit: int, only: EventFilter) -> Stretch:
    """All as of one moment. The history of one task is looked through whole, it has an index."""
    await see_one_moment(db)
    last, first = await db.fetchrow(ENDS) or (0, 1)
    end = last if only.task_id else min(last, max(after, first - 1) + STRETCH_MAX)
    where, values = "", [after, end, STRETCH_BYTES_MAX, limit]
    for column, wanted in (("work_directory", only.work_directories), ("type", only.types)):
        if wanted:
            values.append([value for value in wanted if value != NO_DIRECTORY])
            where += f" and {column} = any(${len(values)}::text[])"
    if only.task_id:
        values.append(only.task_id)
        where += f" and task_id = ${len(values)}"
    rows = await db.fetch(STRETCH % where, *values)
    entries = tuple(map(entry, rows))
    is_cut = len(rows) == limit or (rows and rows[-1]["before"] + len(rows[-1]["details"].encode()) > STRETCH_BYTES_MAX)
    up_to = entries[-1].seq if is_cut else max(after, end)
    return Stretch(entries=entries, up_to=up_to, first=first, last=last)


async def waiting(db: Reader, work_directory: str | None) -> int:
    if work_directory is None:
        return int(await db.fetchval(WAITING))
    return int(await db.fetchval(f"{WAITING} where work_directory = $1", work_directory))


async def config_versions(db: Reader, limit: int, offset: int) -> tuple[list[ConfigVersion], int]:
    await see_one_moment(db)
    rows = await db.fetch(CONFIG_VERSIONS, limit, offset)
    total = await db.fetchval("select count(*) from config_versions")
    return list(map(CONFIG.value, rows)), total


async def config_version(db: Reader, version: int) -> ConfigVersion | None:
    return next(map(CONFIG.value, await db.fetch(f"{CONFIG.select} where version = $1", version)), None)


async def oldest_waiting(db: Reader) -> int | None:
    found: int | None = await db.fetchval(f"select min(at) from ({OLDEST_WAITING}) as lane")
    return found


async def working(db: Reader) -> int:
    return int(await db.fetchval(WORKING))


async def held(db: Reader) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for worker_id, task_id in await db.fetch(HELD):
        found.setdefault(worker_id, []).append(task_id)
    return found


async def presences(db: Reader, instance_id: str | None) -> list[Presence]:
    return [presence.read(row[0]) for row in await db.fetch(PRESENCES, instance_id, GONE_SECONDS * 1000)]
