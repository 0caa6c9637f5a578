"""Pages of the list of tasks. First the spots of the page are found, in the indexes alone; then those tasks are read.
Text is looked for in the prompts of the candidates that the index of the text yields."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import repeat
from time import monotonic

import orjson
from attrs import field, frozen

from dispatcher.fields import to_json
from dispatcher.record import Filter, Page, Sort, Spot
from dispatcher.task import Task
from storage.rows import TASKS
from storage.sqlite.sections import COUNT_SECONDS, COUNTED_MIN, Picks, candidates, count, sections
from storage.texts import fold

PAGE_BYTES_MAX = 16 * 1024 * 1024  # about how much text a page may hold
SEARCHED_PROMPTS_MAX = 2_000  # prompts that are looked through for one page, from where it begins
SEARCH_SECONDS = 0.5  # and so long it may take, with what lies before the page
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
        reading, ahead = _Reading(db, only, sort), 0
        if only.text is None:
            total, is_exact = reading.count(only) if counted else (0, True)
            spots, end = reading.spots(limit, offset, after)
        else:
            first, is_exact = reading.first_hits() if counted else ([], True)
            total = len(first)
            if counted and sort == FIRST and after is None and (is_exact or total > offset + limit):
                spots, end = _cut(first, limit, offset)
            else:
                spots, end, ahead = reading.hits(limit, offset, after)
        if not is_exact and spots:
            total = max(total, offset + len(spots))
        tasks = _tasks(db, spots)
        if len(tasks) < len(spots):
            end = spots[len(tasks) - 1]
        return Page(tasks=tuple(tasks), total=total, total_is_exact=is_exact, end=end, ahead=ahead)
    finally:
        db.rollback()


@frozen
class _Reading:
    db: sqlite3.Connection
    only: Filter
    sort: Sort
    picks: Picks = field(factory=dict)
    counts: dict[Filter, tuple[int, bool]] = field(factory=dict)
    began: float = field(factory=monotonic)

    def count(self, only: Filter) -> tuple[int, bool]:
        if only not in self.counts:
            self.counts[only] = count(self.db, only, self.picks, self.began + COUNT_SECONDS)
        return self.counts[only]

    def spots(self, limit: int, offset: int, after: Spot | None) -> tuple[list[Spot], Spot | None]:
        """Those of the page, and the one behind which the next page begins."""
        spots: list[Spot] = []
        for section in sections(self.db, self.only, self.sort, after, self.picks):
            wanted = limit + 1 - len(spots)
            total, is_exact = self.count(section.only) if offset else (0, False)
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

    def hits(self, limit: int, offset: int, after: Spot | None) -> tuple[list[Spot], Spot | None, int]:
        """The same with text. Where hits are rare, and no index tells where they are, the page is cut short; it may
        not even have begun: so many hits are still to be passed over."""
        hits: list[Spot] = []
        looked = 0
        for place, (spot, is_hit) in enumerate(self._looked_through(self.sort, offset + limit + 1, after), start=1):
            looked += len(hits) >= offset
            if is_hit:
                hits.append(spot)
                if len(hits) > offset + limit:
                    return *_cut(hits, limit, offset), 0
            is_late = place % PROMPTS_AT_ONCE == 0 and monotonic() >= self.began + SEARCH_SECONDS
            if looked >= SEARCHED_PROMPTS_MAX or is_late:
                return hits[offset:], spot, max(0, offset - len(hits))
        return hits[offset:], None, 0

    def first_hits(self) -> tuple[list[Spot], bool]:
        """Those among the candidates that there is time for, and whether these are all."""
        hits: list[Spot] = []
        every = self._looked_through(FIRST, COUNTED_MIN + 1, None)
        for looked, (spot, is_hit) in enumerate(every):
            if looked >= COUNTED_MIN and looked % PROMPTS_AT_ONCE == 0 and monotonic() >= self.began + COUNT_SECONDS:
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
