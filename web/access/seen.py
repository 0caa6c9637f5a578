"""The record as those see it who may not see everything."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from attrs import evolve, frozen

from dispatcher.caller import Reach
from dispatcher.configuration import ConfigVersion
from dispatcher.ports import Entry
from dispatcher.presence import Presence
from dispatcher.record import (
    DirectoryCount,
    EventFilter,
    Filter,
    LogPage,
    Names,
    Outcome,
    Page,
    Place,
    Record,
    Sighting,
    Sort,
    Spot,
    Stretch,
)
from dispatcher.statistics import Statistics
from dispatcher.task import Status, Task

PAGE_TASKS = 1000
NOWHERE = "-"  # no directory has such a name


@frozen
class Seen(Record):
    """What lies outside of the reach is as if it were not there. The results that a task was given of those it depends
    on are its own, wherever they come from."""

    whole: Record
    reach: Reach

    async def task(self, task_id: str) -> Task | None:
        task = await self.whole.task(task_id)
        return task if task and self.reach.covers(task.work_directory) else None

    async def outcomes(self, task_ids: Collection[str], bytes_max: int) -> Mapping[str, Outcome]:
        return await self.whole.outcomes(task_ids, bytes_max)

    async def place(self, task: Task, aging_seconds: float) -> Place:
        return await self.whole.place(task, aging_seconds)

    async def history(self, task_id: str, limit: int) -> Sequence[Entry]:
        lines = await self.whole.history(task_id, limit)
        return [line for line in lines if EventFilter(reach=self.reach).matches(line)]

    async def log(self, task_id: str, after: int, limit: int, attempt: int | None = None) -> LogPage | None:
        if await self.task(task_id) is None:
            return None
        return await self.whole.log(task_id, after, limit, attempt)

    async def sightings(self, after: int) -> Sequence[Sighting]:
        return [it for it in await self.whole.sightings(after) if self.reach.covers(it.work_directory)]

    async def events(self, after: int, limit: int, only: EventFilter) -> Stretch:
        stretch = await self.whole.events(after, limit, only)
        visible = evolve(only, reach=self.reach)
        return evolve(stretch, entries=tuple(entry for entry in stretch.entries if visible.matches(entry)))

    async def page(
        self, only: Filter, sort: Sort, limit: int, *, offset: int = 0, after: Spot | None = None, counted: bool = True
    ) -> Page:
        within = await self._within(only)
        return await self.whole.page(within, sort, limit, offset=offset, after=after, counted=counted)

    async def last_arrival(self) -> int:
        return await self.whole.last_arrival()

    async def matching(self, only: Filter, first: int, last: int) -> Sequence[str]:
        return await self.whole.matching(await self._within(only), first, last)

    async def directories(self) -> Sequence[DirectoryCount]:
        return [it for it in await self.whole.directories() if self.reach.covers(it.rules.work_directory)]

    async def directory(self, work_directory: str) -> DirectoryCount:
        return await self.whole.directory(work_directory)

    async def directories_after(self, name: str, limit: int, reach: Reach | None = None) -> Sequence[str]:
        return await self.whole.directories_after(name, limit, self.reach)

    async def directories_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        return await self.whole.directories_like(text, limit, self.reach)

    async def tags_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        return await self.whole.tags_like(text, limit, self.reach)

    async def waiting(self, work_directory: str | None) -> int:
        if work_directory is not None:
            return await self.whole.waiting(work_directory)
        return sum(it.tasks[Status.WAITING] for it in await self.directories())

    async def working(self) -> int:
        """Of all, for they are what the limit of all is about."""
        return await self.whole.working()

    async def held(self) -> Mapping[str, Sequence[str]]:
        held: dict[str, list[str]] = defaultdict(list)
        page = await self.page(Filter(statuses=(Status.WORKING,)), "created_at", PAGE_TASKS)
        while True:
            for task in page.tasks:
                if task.worker_id:
                    held[task.worker_id].append(task.task_id)
            if page.end is None:
                return held
            only = Filter(statuses=(Status.WORKING,))
            page = await self.page(only, "created_at", PAGE_TASKS, offset=page.ahead, after=page.end, counted=False)

    async def others(self) -> Sequence[Presence]:
        return await self.whole.others()

    async def config_versions(self, limit: int, offset: int) -> tuple[Sequence[ConfigVersion], int]:
        return await self.whole.config_versions(limit, offset)

    async def config_version(self, version: int) -> ConfigVersion | None:
        return await self.whole.config_version(version)

    async def statistics(
        self, work_directories: Collection[str] | None, start: int, end: int, bucket: int
    ) -> Statistics:
        wanted = await self._visible() if work_directories is None else work_directories
        return await self.whole.statistics([path for path in wanted if self.reach.covers(path)], start, end, bucket)

    async def oldest_waiting(self) -> int | None:
        waiting = (it.oldest_waiting_at for it in await self.directories())
        return min((at for at in waiting if at is not None), default=None)

    async def _visible(self) -> list[str]:
        return [it.rules.work_directory for it in await self.directories()]

    async def _within(self, only: Filter) -> Filter:
        wanted = only.work_directories or await self._visible()
        return evolve(only, work_directories=tuple(filter(self.reach.covers, wanted)) or (NOWHERE,))
