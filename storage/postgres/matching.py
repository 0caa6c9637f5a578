"""Which tasks a filter means, a stretch of them at a time."""

from dispatcher.record import Filter
from storage.postgres.conditions import Values, conditions, holds_text
from storage.postgres.reading import Reader, see_one_moment

LAST_ARRIVAL = "select coalesce(pg_sequence_last_value('arrivals'), 0)"


async def last_arrival(db: Reader) -> int:
    """Or a later one, which was taken and perhaps never used."""
    return int(await db.fetchval(LAST_ARRIVAL))


async def matching(db: Reader, only: Filter, first: int, last: int) -> list[str]:
    """The ids of the tasks whose arrival is one of `first` to `last`, in that order."""
    await see_one_moment(db)  # for its plans
    values = Values([first, last])
    where = f"t.arrival between $1 and $2 and {conditions(only, values)} and {holds_text(only, values)}"
    rows = await db.fetch(f"select t.task_id from tasks as t where {where} order by t.arrival", *values)
    return [row["task_id"] for row in rows]
