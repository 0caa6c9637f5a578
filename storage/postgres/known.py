"""The names that a record on PostgreSQL knows: of work directories, and of tags."""

import re

from dispatcher.caller import Reach
from dispatcher.record import Names
from storage.postgres.reading import Reader, see_one_moment
from storage.texts import is_keepable

TAGS_MAX = 1_000  # that are counted
BEARERS_MAX = 100  # of a tag's newest tasks are looked at for one within the reach

WITHIN = "($1::text[] is null or work_directory like any($1::text[]))"
AFTER = f"""
    select work_directory from work_directories where {WITHIN} and work_directory > $2
    order by work_directory limit $3"""
PLACE = "strpos(lower(work_directory), lower($2))"
LIKE = f"""
    select work_directory from work_directories where {WITHIN} and {PLACE} > 0
    order by {PLACE} > 1, work_directory limit $3"""
COUNT = f"select count(*) from work_directories where {WITHIN} and {PLACE} > 0"

# From one tag to the next by the index, however many tasks bear it.
TAGS = """
    with recursive next(tag) as (
        select min(tag) from task_tags where tag >= $1
        union all
        select (select min(tag) from task_tags where tag > next.tag) from next where starts_with(tag, $1)
    )
    select tag from next where starts_with(tag, $1) limit $2"""
TAGS_WITHIN = f"""
    select tag from unnest($1::text[]) with ordinality as wanted (tag, place) where exists (
        select 1 from (
            select work_directory from task_tags where task_tags.tag = wanted.tag
            order by arrival desc limit {BEARERS_MAX}
        ) as bearer where work_directory like any($2::text[])
    ) order by place"""

_SPECIAL = re.compile(r"[\\%_]")


async def directories_after(db: Reader, name: str, limit: int, reach: Reach | None) -> list[str]:
    return [row[0] for row in await db.fetch(AFTER, _patterns(reach), name, limit)]


async def directories_like(db: Reader, text: str, limit: int, reach: Reach | None) -> Names:
    await see_one_moment(db)
    rows = await db.fetch(LIKE if text else AFTER, _patterns(reach), text, limit)  # all of them begin with nothing
    return Names(tuple(row[0] for row in rows), await db.fetchval(COUNT, _patterns(reach), text))


async def tags_like(db: Reader, text: str, limit: int, reach: Reach | None) -> Names:
    await see_one_moment(db)
    tags = [row[0] for row in await db.fetch(TAGS, text, TAGS_MAX + 1)]
    is_exact = len(tags) <= TAGS_MAX
    if reach is not None:
        tags = [row[0] for row in await db.fetch(TAGS_WITHIN, tags, _patterns(reach))]
    return Names(tuple(tags[:limit]), len(tags), is_exact)


def _patterns(reach: Reach | None) -> list[str] | None:
    """Those of the reach as LIKE has them."""
    if reach is None:
        return None
    patterns = filter(is_keepable, reach.patterns)
    return [_SPECIAL.sub(r"\\\g<0>", it).replace("*", "%").replace("?", "_") for it in patterns]
