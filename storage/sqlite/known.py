"""The names that a record on SQLite knows: of work directories, and of tags."""

import sqlite3

from dispatcher.caller import Reach
from dispatcher.fields import to_json
from dispatcher.record import Names
from storage.texts import is_keepable

TAGS_MAX = 1_000  # that are counted
BEARERS_MAX = 100  # of a tag's newest tasks are looked at for one within the reach

AFTER = "select work_directory from work_directories where work_directory > ? and {} order by work_directory limit ?"
PLACE = "instr(lower(work_directory), lower(?))"
LIKE = f"""
    select work_directory from (select work_directory, {PLACE} as place from work_directories where place > 0 and {{}})
    order by place > 1, work_directory limit ?"""
COUNT = f"select count(*) from work_directories where {PLACE} > 0 and {{}}"
COUNT_ALL = "select count(*) from work_directories where {}"

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
        ) as bearer cross join tasks indexed by tasks_by_arrival on tasks.arrival = bearer.arrival where {{}}
    ) order by wanted.key"""


def directories_after(db: sqlite3.Connection, name: str, limit: int, reach: Reach | None) -> list[str]:
    within, globs = _within(reach)
    return [path for (path,) in db.execute(AFTER.format(within), (name, *globs, limit))]


def directories_like(db: sqlite3.Connection, text: str, limit: int, reach: Reach | None) -> Names:
    within, globs = _within(reach)
    if not text:  # all of them begin with it
        (total,) = db.execute(COUNT_ALL.format(within), globs).fetchone()
        return Names(tuple(directories_after(db, "", limit, reach)), total)
    (total,) = db.execute(COUNT.format(within), (text, *globs)).fetchone()
    return Names(tuple(path for (path,) in db.execute(LIKE.format(within), (text, *globs, limit))), total)


def tags_like(db: sqlite3.Connection, text: str, limit: int, reach: Reach | None) -> Names:
    tags = [tag for (tag,) in db.execute(TAGS, (text, TAGS_MAX + 1))]
    is_exact = len(tags) <= TAGS_MAX
    if reach is not None:
        within, globs = _within(reach)
        tags = [tag for (tag,) in db.execute(TAGS_WITHIN.format(within), (to_json(tags), *globs))]
    return Names(tuple(tags[:limit]), len(tags), is_exact)


def _within(reach: Reach | None) -> tuple[str, list[str]]:
    """A condition, and its values: the patterns as GLOB has them, where a bracket does not stand for itself."""
    if reach is None:
        return "true", []
    globs = [pattern.replace("[", "[[]") for pattern in reach.patterns if is_keepable(pattern)]
    return f"({' or '.join(['work_directory glob ?'] * len(globs)) or 'false'})", globs
