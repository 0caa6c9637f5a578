"""Where the tasks of a list may be looked up: each condition of a filter has an index that begins with it.

A list is drawn from one source, the one with the fewest tasks, and the other conditions are checked in an index over
the arrivals. The tasks themselves are not read.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from attrs import evolve, frozen

from dispatcher.fields import Priority
from dispatcher.record import Filter
from dispatcher.task import Status
from storage.sqlite import search
from storage.sqlite.queries import first_arrival_since
from storage.texts import fold

SIZED_MAX = 100_000  # of a source with more it is not known how many
SIZED_FIRST, SIZED_FACTOR = 1_000, 10  # at first it is seen which are smaller than that, then so many times
SIZED_TOGETHER_MAX = 200_000  # index entries that are counted to tell all the sources of a filter apart
PROMPT_COST = 10  # to read a prompt costs so much more than to look up an arrival in the indexes

Values = tuple[Any, ...]


@frozen
class Span:
    """Arrivals from the first to the last."""

    first: int
    last: int


@frozen(kw_only=True)
class Arm:
    """A part of a source: an SQL table called `s`. `covers`: the columns of tasks it has; `meets`: the conditions that
    its own ones fulfil."""

    table: str
    where: str
    values: Values
    arrival: str = "s.arrival"
    covers: frozenset[str] = frozenset()
    meets: frozenset[str] = frozenset()


@frozen(kw_only=True)
class Source:
    """Its arms have no task in common. `lanes` is how many runs in order of arrival it consists of (0: it has no such
    order)."""

    arms: tuple[Arm, ...]
    lanes: int
    is_text: bool = False


@frozen
class Pick:
    """A source that was picked among those of a filter, by its place; `size`: its tasks, or SIZED_MAX if more."""

    place: int
    source: Source
    size: int


def conditions(only: Filter) -> Mapping[str, Values]:
    """By column: the values of which a task must have one."""
    wanted: dict[str, Values] = {
        "status": tuple(only.statuses),
        "work_directory": only.work_directories,
        "priority": tuple(priority.rank for priority in only.priorities),
        "worker_id": only.worker_ids,
    }
    return {column: values for column, values in wanted.items() if values}


def tag_conditions(only: Filter) -> Sequence[Values]:
    """Of each of these a task must bear one."""
    if only.tag_mode == "any":
        return [only.tags] if only.tags else []
    return [(tag,) for tag in only.tags]


def span(db: sqlite3.Connection, only: Filter) -> Span:
    """The arrivals of what was created in the time asked for."""
    first = 0 if only.created_after is None else first_arrival_since(db, only.created_after + 1)
    last = 2**63 - 1 if only.created_before is None else first_arrival_since(db, only.created_before) - 1
    return Span(first, last)


def all_of_them(index: str, span: Span) -> Source:
    covers = frozenset({"status", "work_directory", "priority", "worker_id", "updated_at"})
    return Source(arms=(_indexed(index, {}, span, covers),), lanes=1)


def pick(db: sqlite3.Connection, only: Filter, span: Span) -> Pick | None:
    """The source with the fewest tasks; None if there is no condition that has one. Where text is asked for, the
    prompts of what another source yields would all have to be read."""

    def cost(picked: Pick) -> tuple[int, int]:
        dear = PROMPT_COST if only.text is not None and not picked.source.is_text else 1
        return picked.size * dear, picked.source.lanes or SIZED_MAX

    found = list(_sources(db, only, span))
    picks = [Pick(place, *sized) for place, sized in enumerate(zip(found, _sizes(db, found), strict=True))]
    return min(picks, key=cost, default=None)


def is_all(arm: Arm, only: Filter) -> bool:
    """Its own conditions are those of the filter; whatever is said of text."""
    return conditions(only).keys() <= arm.meets and all(repr(tags) in arm.meets for tags in tag_conditions(only))


def narrowed(db: sqlite3.Connection, picked: Pick, only: Filter, span: Span) -> Pick:
    """The same within other bounds."""
    return evolve(picked, source=next(islice(_sources(db, only, span), picked.place, None)))


def _sources(db: sqlite3.Connection, only: Filter, span: Span) -> Iterable[Source]:
    wanted = conditions(only)
    every = {"status": tuple(Status), "priority": tuple(priority.rank for priority in Priority)}
    columns = {column: wanted.get(column, values) for column, values in every.items()}
    if "work_directory" in wanted:
        columns = {"work_directory": wanted["work_directory"]} | columns
        yield _lanes("tasks_by_directory", columns, span)
    elif wanted.keys() & every:
        yield _lanes("tasks_by_status", columns, span)
    if "worker_id" in wanted:
        yield _lanes("tasks_by_worker", {"worker_id": wanted["worker_id"]}, span)
    for tags in tag_conditions(only):
        yield _tagged(tags, span)
    if only.text is not None and (asked := search.wanted(fold(only.text))):
        yield _text(asked, search.indexed(db), span)


def _lanes(index: str, columns: Mapping[str, Values], span: Span) -> Source:
    lanes = 1
    for values in columns.values():
        lanes *= len(values)
    return Source(arms=(_indexed(index, columns, span, frozenset(columns)),), lanes=lanes)


def _indexed(index: str, columns: Mapping[str, Values], span: Span, covers: frozenset[str]) -> Arm:
    where = [*(one_of(f"s.{column}", values) for column, values in columns.items()), "s.arrival between ? and ?"]
    return Arm(
        table=f"tasks s indexed by {index}",
        where=" and ".join(where),
        values=(*(value for values in columns.values() for value in values), span.first, span.last),
        covers=covers,
        meets=frozenset(columns),
    )


def _tagged(tags: Values, span: Span) -> Source:
    where, values = f"{one_of('s.tag', tags)} and s.arrival between ? and ?", (*tags, span.first, span.last)
    table, lanes = "task_tags s", 1
    if len(tags) > 1:
        table, where, lanes = f"(select distinct s.arrival from task_tags s where {where}) s", "true", 0
    return Source(arms=(Arm(table=table, where=where, values=values, meets=frozenset({repr(tags)})),), lanes=lanes)


def _text(asked: str, indexed: int, span: Span) -> Source:
    index = Arm(
        table="prompts s",
        where="s.prompts match ? and s.rowid between ? and ?",
        values=(asked, span.first, min(span.last, indexed)),
        arrival="s.rowid",
    )
    tail = all_of_them("tasks_by_arrival", Span(max(span.first, indexed + 1), span.last)).arms[0]
    return Source(arms=(index, tail), lanes=1, is_text=True)


def _sizes(db: sqlite3.Connection, found: Sequence[Source]) -> Sequence[int]:
    """Of each how many tasks it has. Once one turns out to be small it does not matter how large the others are, and
    they count as SIZED_MAX."""
    sizes, most, left = [SIZED_MAX] * len(found), min(SIZED_FIRST, SIZED_MAX), SIZED_TOGETHER_MAX
    while found and most * len(found) <= left:
        counted = [_size(db, source, most) for source in found]
        sizes = [size if size < most else SIZED_MAX for size in counted]
        left -= sum(counted)
        if min(sizes) < most or most == SIZED_MAX:
            break
        most = max(most + 1, min(most * SIZED_FACTOR, SIZED_MAX, left // len(found)))
    return sizes


def _size(db: sqlite3.Connection, source: Source, most: int) -> int:
    rows = " union all ".join(f"select 1 from {arm.table} where {arm.where}" for arm in source.arms)
    values = [value for arm in source.arms for value in arm.values]
    (size,) = db.execute(f"select count(*) from ({rows} limit ?)", (*values, most)).fetchone()
    return int(size)


def one_of(column: str, values: Values) -> str:
    return f"{column} = ?" if len(values) == 1 else f"{column} in ({', '.join('?' * len(values))})"
