"""The places of tasks in a list, in its order. A list by priority is three lists by age, one behind the other."""

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

from attrs import evolve, frozen

from dispatcher.fields import Priority
from dispatcher.record import Filter, Sort, Spot
from dispatcher.task import Status
from storage.postgres.conditions import Values, conditions, holds_text
from storage.postgres.reading import Reader

RANK = 2**48  # the key of a list by priority is so many times the rank, and when the task was created

# About how large a task is, without reading what is large of it.
SIZE = " + ".join(
    f"coalesce(octet_length(t.{column}), 0)"
    for column in ("prompt", "tags", "depends_on", "metadata", "unmet", "progress", "result", "error_message")
)
COUNT = "select count(*) from tasks as t where {}"
FOUND = f"""
    select t.{{by}} as key, t.arrival, t.work_directory, {SIZE} as size, {{is_hit}} as is_hit
    from tasks as t where {{where}}"""
FIRST = "select key, arrival, work_directory, size from ({found}) as found {order} limit {limit}"
SPOT = "select key, arrival from ({found}) as found {order} limit 1 offset {limit} - 1"
# Of so many tasks those that hold the text, and the last one.
HITS = """
    select key, arrival, work_directory, size, is_hit, place from (
        select chunk.*, row_number() over ({order}) as place, count(*) over () as every
        from (select * from ({found}) as found {order} limit {limit}) as chunk) as chunk
    where is_hit or place = every order by place"""


@frozen
class Find:
    """A task that was found; `size`: about how many bytes it has."""

    spot: Spot
    work_directory: str
    size: int


@frozen(kw_only=True)
class Section:
    """The tasks of a filter, sorted by one column. `rank`: all have this priority, and it is a part of their keys.
    `few`: they can all be gone through."""

    db: Reader
    only: Filter
    by: Literal["created_at", "updated_at"]
    descending: bool
    rank: int | None = None
    behind: Spot | None = None
    few: bool = False

    async def first(self, limit: int) -> list[Find]:
        """Whatever is said of text."""
        return [self._find(row) for row in await self._fetch(FIRST, limit)]

    async def spot(self, offset: int, total: int | None) -> Spot | None:
        """The one at that place; None if there are not so many. With the total, from the end if that is nearer."""
        if total is not None and offset > total // 2:
            return await evolve(self, descending=not self.descending).spot(total - 1 - offset, None)
        return next(map(self._spot, await self._fetch(SPOT, offset + 1)), None)

    async def size(self) -> int:
        values = Values()
        return int(await self.db.fetchval(COUNT.format(self._where(self.only, values)), *values))

    async def hits(self, limit: int) -> tuple[list[Find], int, Spot | None]:
        """Among the first so many tasks those that hold the text; how many tasks these were, and the last of them."""
        rows = await self._fetch(HITS, limit)
        found = [self._find(row) for row in rows if row["is_hit"]]
        return (found, rows[-1]["place"], self._spot(rows[-1])) if rows else ([], 0, None)

    async def _fetch(self, text: str, limit: int) -> list[Any]:
        values = Values([limit])
        to = "desc" if self.descending else "asc"
        order = f"order by key {to}, arrival {to}"
        return await self.db.fetch(text.format(found=self._found(values, order), order=order, limit="$1"), *values)

    def _found(self, values: Values, order: str) -> str:
        """What is few is found first, and sorted then. Otherwise an index is gone along that lies sorted, or of each
        lane a part of one."""
        is_hit, only = holds_text(self.only, values), self.only
        if self.few:
            return FOUND.format(by=self.by, is_hit=is_hit, where=self._where(only, values)) + " offset 0"
        if self.by == "updated_at" or not (only.statuses or only.priorities):
            return FOUND.format(by=self.by, is_hit=is_hit, where=self._where(only, values))
        lanes = product(only.statuses or Status, only.priorities or Priority)
        wheres = (self._where(evolve(only, statuses=(it,), priorities=(rank,)), values) for it, rank in lanes)
        arms = (FOUND.format(by=self.by, is_hit=is_hit, where=where) for where in wheres)
        return " union all ".join(f"({arm} {order} limit $1)" for arm in arms)

    def _where(self, only: Filter, values: Values) -> str:
        where = conditions(only, values)
        if self.behind is None:
            return where
        key, sign = self.behind.key - (self.rank or 0) * RANK, "<" if self.descending else ">"
        return f"{where} and (t.{self.by}, t.arrival) {sign} ({values.put(key)}, {values.put(self.behind.arrival)})"

    def _find(self, row: Any) -> Find:
        return Find(self._spot(row), row["work_directory"], row["size"])

    def _spot(self, row: Any) -> Spot:
        return Spot(row["key"] + (self.rank or 0) * RANK, row["arrival"])


def sections(db: Reader, only: Filter, sort: Sort, after: Spot | None, few: bool) -> Iterator[Section]:
    """Those that lie behind the spot, one after the other."""
    descending = sort.startswith("-")
    if not sort.endswith("priority"):
        by: Literal["created_at", "updated_at"] = "updated_at" if sort.endswith("updated_at") else "created_at"
        yield Section(db=db, only=only, by=by, descending=descending, behind=after, few=few)
        return
    last = after.key // RANK if after else None
    for priority in sorted(only.priorities or Priority, key=lambda it: it.rank, reverse=not descending):
        if last is None or (priority.rank >= last if descending else priority.rank <= last):
            behind = after if last == priority.rank else None
            lane = evolve(only, priorities=(priority,))
            yield Section(
                db=db, only=lane, by="created_at", descending=descending, rank=priority.rank, behind=behind, few=few
            )
