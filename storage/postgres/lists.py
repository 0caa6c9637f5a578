"""Pages of the list of tasks. First the spots of the page are found, in the order of an index; then those tasks are
read. Text is looked for in the prompts themselves, as many as there is time for."""

from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

from asyncpg import QueryCanceledError
from attrs import evolve, field, frozen

from dispatcher.record import Filter, Page, Sort, Spot
from dispatcher.task import Status, Task
from storage.postgres.conditions import Values, conditions, holds_text
from storage.postgres.reading import Reader, see_one_moment
from storage.postgres.sections import COUNT, Find, Section, sections
from storage.rows import TASKS

PAGE_BYTES_MAX = 16 * 1024 * 1024  # about how much text a page may hold
COUNT_SECONDS = 0.08  # so long it may take to count what no number is kept of; afterwards
COUNTED_MIN = 2_000  # of the newest tasks are looked at
FEW = 5_000  # so many tasks may be sorted
SEARCH_SECONDS = 0.5  # so long prompts are looked through for one page
CHUNK, CHUNK_MAX = 1_000, 16_000  # prompts that are looked through at once
CHUNK_SECONDS = 0.1  # as many as that takes about

TASKS_AT = f"""
    select {TASKS.names}
    from unnest($1::text[], $2::bigint[]) with ordinality as place (work_directory, arrival, number)
    cross join lateral (
        select * from tasks as it where it.work_directory = place.work_directory and it.arrival = place.arrival offset 0
    ) as tasks order by place.number"""
KEPT = "select coalesce(sum({}), 0)::bigint from work_directories as t where {}"
COUNTING = """
    savepoint counting;
    set local statement_timeout = {};
    set local enable_hashjoin = on;
    set local enable_mergejoin = on"""
COUNT_NEWEST = """
    select count(*) from (select * from tasks order by created_at desc, arrival desc limit {}) as t where {}"""


async def page(
    db: Reader,
    only: Filter,
    sort: Sort,
    limit: int,
    *,
    offset: int = 0,
    after: Spot | None = None,
    counted: bool = True,
) -> Page:
    """All of it as the record was at one moment."""
    await see_one_moment(db)
    reading, ahead = _Reading(db, only, sort, counted), 0
    total, is_exact = await reading.count(only) if counted else (0, True)
    if only.text is None:
        found, end = await reading.found(limit, offset, after)
    else:
        found, end, ahead = await reading.hits(limit, offset, after)
    if not is_exact and found:
        total = max(total, offset + len(found))
    if len(fitting := _fitting(found)) < len(found):
        found, end = fitting, fitting[-1].spot
    return Page(tasks=await _tasks(db, found), total=total, total_is_exact=is_exact, end=end, ahead=ahead)


@frozen
class _Reading:
    db: Reader
    only: Filter
    sort: Sort
    counted: bool
    counts: dict[Filter, tuple[int, bool]] = field(factory=dict)
    began: float = field(factory=monotonic)

    async def count(self, only: Filter) -> tuple[int, bool]:
        if only not in self.counts:
            self.counts[only] = await count(self.db, only)
        return self.counts[only]

    async def found(self, limit: int, offset: int, after: Spot | None) -> tuple[list[Find], Spot | None]:
        """Those of the page, and the spot behind which the next page begins."""
        found: list[Find] = []
        for section in await self._sections(after):
            rest = section
            if offset:
                total = await self._total(section)
                if total is None or offset < total:
                    if last := await section.spot(offset - 1, total):
                        rest, offset = evolve(section, behind=last), 0
                    else:
                        total = await section.size()
                if offset:
                    offset -= total or 0
                    continue
            found += await rest.first(limit + 1 - len(found))
            if len(found) > limit:
                return found[:limit], found[limit - 1].spot
        return found, None

    async def hits(self, limit: int, offset: int, after: Spot | None) -> tuple[list[Find], Spot | None, int]:
        """The same with text. Where hits are rare the page is cut short; it may not even have begun: so many hits are
        still to be passed over."""
        hits: list[Find] = []
        size, end = CHUNK, offset + limit
        for section in await self._sections(after):
            rest = section
            while True:
                began = monotonic()
                some, looked, last = await rest.hits(size)
                hits += some
                if len(hits) > end:
                    return hits[offset:end], hits[end - 1].spot, 0
                if looked < size or last is None:
                    break
                now = monotonic()
                if now >= self.began + SEARCH_SECONDS:
                    return hits[offset:], last, max(0, offset - len(hits))
                rest = evolve(rest, behind=last)
                size = max(1, min(2 * size, CHUNK_MAX, int(size * CHUNK_SECONDS / (now - began))))
        return hits[offset:], None, 0

    async def _sections(self, after: Spot | None) -> Iterator[Section]:
        """Whether all their tasks together are few can be seen from the count; whatever is said of text."""
        every, few = evolve(self.only, text=None), False
        if self.counted and every:
            total, is_exact = await self.count(every)
            few = is_exact and total <= FEW
        return sections(self.db, self.only, self.sort, after, few)

    async def _total(self, section: Section) -> int | None:
        """How many tasks it has, if that is known."""
        if not self.counted or section.behind:
            return None
        total, is_exact = await self.count(section.only)
        return total if is_exact else None


async def count(db: Reader, only: Filter) -> tuple[int, bool]:
    """How many tasks there are; or, when there is no time to count all, how many among the newest; and whether that is
    all."""
    values = Values()
    if only == Filter(statuses=only.statuses, work_directories=only.work_directories, tag_mode=only.tag_mode):
        where = conditions(Filter(work_directories=only.work_directories), values)
        return int(await db.fetchval(KEPT.format(" + ".join(only.statuses or Status), where), *values)), True
    where = f"{conditions(only, values)} and {holds_text(only, values)}"
    await db.execute(COUNTING.format(max(1, round(COUNT_SECONDS * 1000))))
    total: int | None = None
    with suppress(QueryCanceledError):
        total = await db.fetchval(COUNT.format(where), *values)
    while not await _go_back(db):
        pass
    if total is not None:
        return total, True
    return int(await db.fetchval(COUNT_NEWEST.format(values.put(COUNTED_MIN), where), *values)), False


async def _go_back(db: Reader) -> bool:
    """To before the counting. This is under its limit, too."""
    with suppress(QueryCanceledError):
        await db.execute("rollback to savepoint counting")
        return True
    return False


def _fitting(found: list[Find]) -> list[Find]:
    """All of them, or the first when they are large."""
    size = 0
    for number, find in enumerate(found, start=1):
        size += find.size
        if size > PAGE_BYTES_MAX:
            return found[:number]
    return found


async def _tasks(db: Reader, found: list[Find]) -> tuple[Task, ...]:
    if not found:
        return ()
    places = [find.work_directory for find in found], [find.spot.arrival for find in found]
    return tuple(map(TASKS.value, await db.fetch(TASKS_AT, *places)))
