"""The names that a record on SQLite knows: of work directories, and of tags."""

import sqlite3

from dispatcher.caller import Reach
from dispatcher.fields import to_json
from dispatcher.record import Names

TAGS_MAX = 1_000  # that are counted
BEARERS_MAX = 100  # of a tag's newest tasks are looked at for one within the reach

WITHIN = "exists (select 1 from json_each(?) as pattern where work_directory glob pattern.value)"
AFTER = f"""
    select work_directory from work_directories where work_directory > ? and {WITHIN} order by work_directory limit ?"""
LIKE = f"""
    select work_directory, count(*) over () from (
        select work_directory, instr(lower(work_directory), lower(?)) as place from work_directories
        where place > 0 and {WITHIN}
    ) order by place > 1, work_directory limit ?"""

# From one tag to the next by the index, however many tasks bear it.
TAGS = """
    with recursive next(tag) as (
        select min(tag) from task_tags where tag >= ?1
        union all
        select (select min(tag) from task_tags where tag > next.tag) from next where substr(tag, 1, length(?1)) = ?1
    )
    select tag from next where substr(tag, 1, length(?1)) = ?1 limit ?2"""
TAGS_WITHIN = f"""
    select wanted.value from json_each(?) as wanted where exists (
        select 1 from (
            select arrival from task_tags where tag = wanted.value order by arrival desc limit {BEARERS_MAX}
        ) as bearer cross join tasks indexed by tasks_by_arrival on tasks.arrival = bearer.arrival where {WITHIN}
    ) order by wanted.key"""


def directories_after(db: sqlite3.Connection, name: str, limit: int, reach: Reach | None) -> list[str]:
    return [path for (path,) in db.execute(AFTER, (name, _globs(reach), limit))]


def directories_like(db: sqlite3.Connection, text: str, limit: int, reach: Reach | None) -> Names:
    rows = db.execute(LIKE, (text, _globs(reach), limit)).fetchall()
    return Names(tuple(path for path, _ in rows), rows[0][1] if rows else 0)


def tags_like(db: sqlite3.Connection, text: str, limit: int, reach: Reach | None) -> Names:
    tags = [tag for (tag,) in db.execute(TAGS, (text, TAGS_MAX + 1))]
    is_exact = len(tags) <= TAGS_MAX
    if reach is not None:
        tags = [tag for (tag,) in db.execute(TAGS_WITHIN, (to_json(tags), _globs(reach)))]
    return Names(tuple(tags[:limit]), len(tags), is_exact)


def _globs(reach: Reach | None) -> str:
    """The patterns of the reach as GLOB has them, where a bracket does not stand for itself."""
    return to_json(["*"] if reach is None else [pattern.replace("[", "[[]") for pattern in reach.patterns])
