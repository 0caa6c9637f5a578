"""Pages of the list of tasks. First the spots of the page are found, in the indexes alone; then those tasks are read.
Text is looked for in the prompts of the candidates that the index of the text yields."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import repeat

import orjson
from attrs import field, frozen

from dispatcher.fields import to_json
from dispatcher.record import Filter, Page, Sort, Spot
from dispatcher.task import Task
from storage.rows import TASKS
from storage.search import fold
from storage.sections import Picks, candidates, count, sections

PAGE_BYTES_MAX = 16 * 1024 * 1024  # about how much text a page may hold
COUNTED_PROMPTS_MAX = 1_000  # of a search with more candidates the hits among so many are counted
SEARCHED_PROMPTS_MAX = 2_000  # prompts that are looked through for one page
PROMPTS_AT_ONCE = 256
FIRST: Sort = "-created_at"  # the order in which the hits of a search are counted
PLAIN = re.compile(r'[^\x00-\x1f"\\]*')  # JSON has it as it is

PLACES = "json_each(?) as place cross join tasks on tasks.arrival = place.value"
TASKS_AT = f"select {TASKS.names} from {PLACES} order by place.key"
PROMPTS_AT = f"select json_group_array(prompt) from (select prompt from {PLACES} order by place.key)"


def page(
    db: sqlite3.Connection,
    only: Filter,
    sort: Sort,
    limit: int,
    *,
    offset: int = 0,
    after: Spot | None = None,
    counted: bool = True,
) -> Page:
    """All of it as the record was at one moment."""
    db.execute("begin")
    try:
        reading = _Reading(db, only, sort)
        if only.text is None:
            spots, end = reading.spots(limit, offset, after)
            total, is_exact = reading.count() if counted else (0, True)
        else:
            first, is_exact = reading.first_hits() if counted else ([], True)
            total = len(first)
            if counted and sort == FIRST and after is None and (is_exact or total > offset + limit):
                spots, end = _cut(first, limit, offset)
            else:
                spots, end = reading.hits(limit, offset, after)
        if not is_exact and spots:
            total = max(total, offset + len(spots))
        tasks = _tasks(db, spots)
        if len(tasks) < len(spots):
            end = spots[len(tasks) - 1]
        return Page(tasks=tuple(tasks), total=total, total_is_exact=is_exact, end=end)
    finally:
        db.rollback()


@frozen
class _Reading:
    db: sqlite3.Connection
    only: Filter
    sort: Sort
    picks: Picks = field(factory=dict)

    def count(self) -> tuple[int, bool]:
        return count(self.db, self.only, self.picks)

    def spots(self, limit: int, offset: int, after: Spot | None) -> tuple[list[Spot], Spot | None]:
        """Those of the page, and the one behind which the next page begins."""
        spots: list[Spot] = []
        for section in sections(self.db, self.only, self.sort, after, self.picks):
            wanted = limit + 1 - len(spots)
            total, is_exact = count(self.db, section.only, self.picks) if offset else (0, False)
            if is_exact and offset >= total:
                offset -= total
                continue
            if is_exact and offset > total // 2:
                spots += section.from_the_end(wanted, offset, total)
            else:
                spots += section.spots(wanted, offset)
            if len(spots) > limit:
                return spots[:limit], spots[limit - 1]
            offset = 0 if spots else offset
        return spots, None

    def hits(self, limit: int, offset: int, after: Spot | None) -> tuple[list[Spot], Spot | None]:
        """The same with text. Where hits are rare, and no index tells where they are, the page is cut short."""
        hits: list[Spot] = []
        for looked, (spot, is_hit) in enumerate(self._looked_through(self.sort, offset + limit + 1, after), start=1):
            if is_hit:
                hits.append(spot)
                if len(hits) > offset + limit:
                    return _cut(hits, limit, offset)
            if looked >= SEARCHED_PROMPTS_MAX and len(hits) >= offset:
                return hits[offset:], spot
        return hits[offset:], None

    def first_hits(self) -> tuple[list[Spot], bool]:
        """Those among the first candidates, and whether these are all."""
        hits: list[Spot] = []
        every = self._looked_through(FIRST, COUNTED_PROMPTS_MAX + 1, None)
        for looked, (spot, is_hit) in enumerate(every, start=1):
            if looked > COUNTED_PROMPTS_MAX:
                return hits, False
            if is_hit:
                hits.append(spot)
        return hits, True

    def _looked_through(self, sort: Sort, wanted: int, after: Spot | None) -> Iterator[tuple[Spot, bool]]:
        """Every candidate, in order, and whether the text stands in its prompt."""
        text = fold(self.only.text or "")
        for chunk in candidates(sections(self.db, self.only, sort, after, self.picks), wanted):
            for first in range(0, len(chunk), PROMPTS_AT_ONCE):
                spots = chunk[first : first + PROMPTS_AT_ONCE]
                yield from zip(spots, _hold(self.db, spots, text), strict=True)


def _cut(hits: list[Spot], limit: int, offset: int) -> tuple[list[Spot], Spot | None]:
    end = offset + limit
    return hits[offset:end], hits[end - 1] if len(hits) > end else None


def _hold(db: sqlite3.Connection, spots: list[Spot], text: str) -> Iterable[bool]:
    """Of each whether the text stands in its prompt. What is not in all the prompts together is in none of them."""
    (prompts,) = db.execute(PROMPTS_AT, (to_json([spot.arrival for spot in spots]),)).fetchone()
    folded = fold(prompts)  # what JSON escapes is the same in this form
    if PLAIN.fullmatch(text) and text not in folded:
        return repeat(False, len(spots))
    return [text in prompt for prompt in orjson.loads(folded)]


def _tasks(db: sqlite3.Connection, spots: list[Spot]) -> list[Task]:
    """Those at the spots, or the first of them when they are large."""
    tasks, size = [], 0
    for row in db.execute(TASKS_AT, (to_json([spot.arrival for spot in spots]),)):
        tasks.append(TASKS.value(row))
        size += sum(len(value) for value in row if isinstance(value, str))
        if size > PAGE_BYTES_MAX:
            break
    return tasks
