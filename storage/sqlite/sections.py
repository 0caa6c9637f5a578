"""The places of tasks in a list, in its order and without reading the tasks. A list by priority is three lists by age,
one behind the other."""

import sqlite3
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Literal

import orjson
from attrs import evolve, frozen

from dispatcher.fields import Priority
from dispatcher.record import Filter, Sort, Spot
from dispatcher.task import Status
from storage.sqlite.sources import (
    SIZED_MAX,
    Arm,
    Pick,
    Source,
    Span,
    Values,
    all_of_them,
    conditions,
    is_all,
    narrowed,
    one_of,
    pick,
    span,
    tag_conditions,
)

COMMON = 30_000  # what has more tasks is not sorted: the index that lies sorted is gone along instead
COUNT_SECONDS = 0.08  # so long it may take to count what no number is kept of; afterwards at least
COUNTED_MIN = 2_000  # tasks are looked at
WINDOW = 16_384  # arrivals among which tasks are counted in one go
CHUNK, CHUNK_MAX = 256, 4096  # candidates that are drawn at once: few at first, for often they are enough
COUNTERS = {"status", "work_directory"}  # of these there are counts in the record
OLDEST_AND_NEWEST = (
    "select coalesce((select min(arrival) from tasks), 1), coalesce((select max(arrival) from tasks), 0)"
)

Picks = dict[Filter, Pick | None]
"""What was picked for which filter, within one reading of the record."""


@frozen(kw_only=True)
class Section:
    """The tasks of a filter, sorted by one column. `rank`: all have this priority, and it is the key of their spots."""

    db: sqlite3.Connection
    only: Filter
    span: Span
    picked: Pick | None
    by: Literal["arrival", "updated_at"]
    descending: bool
    rank: int | None = None
    behind: Spot | None = None

    def spots(self, limit: int, offset: int = 0) -> list[Spot]:
        """Of text only as much is minded as its index knows: they are candidates."""
        queries = [self._query(arm) for arm in self._source(limit + offset).arms]
        direction = " desc" if self.descending else ""
        order = f"1{direction}" if self.by == "arrival" else f"1{direction}, 2{direction}"
        rows = f"{' union all '.join(sql for sql, _ in queries)} order by {order} limit ? offset ?"
        values = [value for _, values in queries for value in values]
        column = "updated_at" if self.by == "updated_at" else "arrival"
        keys, arrivals = self.db.execute(
            f"select json_group_array({column}), json_group_array(arrival) from ({rows})", (*values, limit, offset)
        ).fetchone()  # as one row: each costs a turn at the interpreter's lock
        found = zip(orjson.loads(keys), orjson.loads(arrivals), strict=True)
        return [Spot(key if self.rank is None else self.rank, arrival) for key, arrival in found]

    def from_the_end(self, limit: int, offset: int, total: int) -> list[Spot]:
        """The same as `spots` where the end of the section is nearer than its beginning."""
        limit = min(limit, total - offset)
        found = evolve(self, descending=not self.descending).spots(limit, total - offset - limit)
        return found[::-1]

    def after(self, spot: Spot) -> "Section":
        """What of it lies behind the spot."""
        if self.by == "updated_at":
            return evolve(self, behind=spot)
        first, last = self.span.first, self.span.last
        rest = Span(first, min(last, spot.arrival - 1)) if self.descending else Span(max(first, spot.arrival + 1), last)
        return evolve(self, span=rest, picked=self.picked and narrowed(self.db, self.picked, self.only, rest))

    def _source(self, depth: int) -> Source:
        """What is picked, unless it is large and would have to be sorted; then all tasks, which lie sorted."""
        if self.picked:
            source = self.picked.source
            merges = 0 < source.lanes * depth <= COMMON and is_all(source.arms[0], self.only)
            in_order = self.by == "arrival" and (source.lanes == 1 or merges)
            if self.picked.size < COMMON or in_order:
                return source
        return all_of_them("tasks_by_arrival" if self.by == "arrival" else "tasks_by_update", self.span)

    def _query(self, arm: Arm) -> tuple[str, Values]:
        by_update = self.by == "updated_at"
        further: list[tuple[str, Values]] = []
        if self.behind:
            sign = "<" if self.descending else ">"
            further = [(f"(%supdated_at, {arm.arrival}) {sign} (?, ?)", (self.behind.key, self.behind.arrival))]
        table, where, values, home = _checked(arm, self.only, further, needs={"updated_at"} if by_update else set())
        key = f"{home['updated_at']}updated_at, " if by_update else ""
        return f"select {key}{arm.arrival} as arrival from {table} where {where}", values


def sections(db: sqlite3.Connection, only: Filter, sort: Sort, after: Spot | None, picks: Picks) -> Iterator[Section]:
    """Those that lie behind the spot, one after the other."""
    bounds, descending = span(db, only), sort.startswith("-")
    if not sort.endswith("priority"):
        by: Literal["arrival", "updated_at"] = "updated_at" if sort.endswith("updated_at") else "arrival"
        yield _section(db, only, bounds, by, descending, None, after, picks)
        return
    for priority in sorted(only.priorities or Priority, key=lambda it: it.rank, reverse=not descending):
        if after is None or (priority.rank >= after.key if descending else priority.rank <= after.key):
            behind = after if after and after.key == priority.rank else None
            yield _section(
                db, evolve(only, priorities=(priority,)), bounds, "arrival", descending, priority.rank, behind, picks
            )


def _section(
    db: sqlite3.Connection,
    only: Filter,
    bounds: Span,
    by: Literal["arrival", "updated_at"],
    descending: bool,
    rank: int | None,
    after: Spot | None,
    picks: Picks,
) -> Section:
    picked = _pick(db, only, bounds, picks)
    section = Section(db=db, only=only, span=bounds, picked=picked, by=by, descending=descending, rank=rank)
    return section.after(after) if after else section


def candidates(parts: Iterable[Section], wanted: int) -> Iterator[list[Spot]]:
    """All of them, in order, a chunk at a time: the first is hoped to have all that are wanted."""
    for part in parts:
        size, rest = min(max(CHUNK, wanted), CHUNK_MAX), part
        while chunk := rest.spots(size):
            yield chunk
            if len(chunk) < size:
                break
            size, rest = min(2 * size, CHUNK_MAX), rest.after(chunk[-1])


def _pick(db: sqlite3.Connection, only: Filter, bounds: Span, picks: Picks) -> Pick | None:
    if only not in picks:
        picks[only] = pick(db, only, bounds)
    return picks[only]


def count(db: sqlite3.Connection, only: Filter, picks: Picks, until: float) -> tuple[int, bool]:
    """How many tasks there are, whatever is said of text; or, when that time (of the monotonic clock) comes before all
    are counted, how many among the newest; and whether that is all."""
    wanted, bounds = conditions(only), span(db, only)
    if wanted.keys() <= COUNTERS and not only.tags and only.created_after is None and only.created_before is None:
        where = one_of("work_directory", only.work_directories) if only.work_directories else "true"
        number = " + ".join(wanted.get("status", tuple(Status)))
        query = f"select coalesce(sum({number}), 0) from work_directories where {where}"
        (total,) = db.execute(query, only.work_directories).fetchone()
        return int(total), True
    picked, total = _pick(db, only, bounds, picks), 0
    windows = _windows(db, bounds, picked.size if picked else SIZED_MAX)
    for window in windows:
        source = narrowed(db, picked, only, window).source if picked else all_of_them("tasks_by_arrival", window)
        table, where, values, _ = _checked(source.arms[0], only, [], needs=set())
        (some,) = db.execute(f"select count(*) from {table} where {where}", values).fetchone()
        total += int(some)
        if monotonic() >= until:
            return total, next(windows, None) is None
    return total, True


def _windows(db: sqlite3.Connection, bounds: Span, size: int) -> Iterator[Span]:
    """The bounds in pieces, the newest first; each has about COUNTED_MIN of so many tasks, or more."""
    (oldest, newest) = db.execute(OLDEST_AND_NEWEST).fetchone()
    first, last = max(bounds.first, oldest), min(bounds.last, newest)
    arrivals = max(WINDOW, COUNTED_MIN * (last - first + 1) // max(size, 1) + 1)
    while last >= first:
        yield Span(max(first, last - arrivals + 1), last)
        last -= arrivals


def _checked(
    arm: Arm, only: Filter, further: Iterable[tuple[str, Values]], needs: set[str]
) -> tuple[str, str, Values, dict[str, str]]:
    """The arm with all conditions: FROM, WHERE, its values, and where the columns are to be found."""
    rest = {column: values for column, values in conditions(only).items() if column not in arm.meets}
    absent = (rest.keys() | needs) - arm.covers
    home = {column: "s." if column in arm.covers else "t." for column in rest.keys() | needs}
    table, where, values = arm.table, [arm.where], list(arm.values)
    if absent:
        table += f" cross join tasks t indexed by tasks_by_arrival on t.arrival = {arm.arrival}"
    terms = [(one_of(f"{home[column]}{column}", values), values) for column, values in rest.items()]
    terms += [(term % home["updated_at"], values) for term, values in further]
    for tags in tag_conditions(only):
        if repr(tags) not in arm.meets:
            bears = f"select 1 from task_tags g where {one_of('g.tag', tags)} and g.arrival = {arm.arrival}"
            terms.append((f"exists ({bears})", tags))
    for term, more in terms:
        where.append(term)
        values += more
    return table, " and ".join(where), tuple(values), home
