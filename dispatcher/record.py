"""The durable record as everybody but the dispatcher reads it: what is committed, and nothing else."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from attrs import frozen

from dispatcher.caller import Reach
from dispatcher.configuration import ConfigVersion
from dispatcher.directory import Directory
from dispatcher.fields import Priority
from dispatcher.ports import Entry, LogLine
from dispatcher.presence import Presence
from dispatcher.statistics import Statistics
from dispatcher.task import Status, Task


@frozen(kw_only=True)
class Filter:
    """Which tasks: those of which everything given is true. Several values: any of them; `tags` as `tag_mode` says.

    Times are milliseconds since the epoch and lie outside. `text` stands in the prompt, in any case of letters.
    """

    statuses: tuple[Status, ...] = ()
    work_directories: tuple[str, ...] = ()
    priorities: tuple[Priority, ...] = ()
    tags: tuple[str, ...] = ()
    tag_mode: Literal["all", "any"] = "all"
    worker_ids: tuple[str, ...] = ()
    created_after: int | None = None
    created_before: int | None = None
    text: str | None = None

    def __bool__(self) -> bool:
        """It leaves anything out."""
        return self != Filter(tag_mode=self.tag_mode)


Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "priority", "-priority"]
"""Ascending, with `-` the other way round; `priority`: the most urgent first, of those the oldest."""


@frozen
class Spot:
    """Where a task stands in a list: what the list is sorted by, and its arrival, which settles ties."""

    key: int
    arrival: int


@frozen(kw_only=True)
class Page:
    """`total`: how many tasks there are in the whole list; not exact: at least so many. `end` is the spot behind which
    the next page begins, once `ahead` more tasks are passed over; None: there is none."""

    tasks: tuple[Task, ...]
    total: int
    total_is_exact: bool = True
    end: Spot | None = None
    ahead: int = 0


@frozen
class Outcome:
    status: Status
    result: object
    is_omitted: bool  # there is a result, which was left out


@frozen
class Place:
    """Of a ready task among those of its directory: how many are more urgent, and how many as urgent and older."""

    more_urgent: int
    older: int


@frozen(kw_only=True)
class DirectoryCount:
    """The rules of a work directory, how many tasks it has, and when the oldest one that waits was created. Not
    `is_known`: it has never had a task or rules."""

    rules: Directory
    tasks: Mapping[Status, int]
    oldest_waiting_at: int | None
    is_known: bool = True


@frozen
class Names:
    """Some of `total` names."""

    names: tuple[str, ...]
    total: int
    total_is_exact: bool = True  # else there are at least so many


@frozen(kw_only=True)
class EventFilter:
    """Which entries of the history: those that match everything given here."""

    work_directories: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    task_id: str | None = None
    reach: Reach | None = None

    def matches(self, entry: Entry) -> bool:
        return (
            (not self.work_directories or entry.work_directory in self.work_directories)
            and (not self.types or entry.type in self.types)
            and (self.task_id is None or entry.task_id == self.task_id)
            and (self.reach is None or _is_shown(entry, self.reach))
        )


def _is_shown(entry: Entry, reach: Reach) -> bool:
    """What is about the server concerns all, but for the settings, which tell of everything."""
    if entry.work_directory is None:
        return entry.type != "config.changed"
    return reach.covers(entry.work_directory)


@frozen(kw_only=True)
class Stretch:
    """A stretch of the history: what matched in it, oldest first, and up to which seq it has been looked through."""

    entries: tuple[Entry, ...]
    up_to: int
    first: int  # the seq of the oldest entry that the record still has; one more than the last, if it has none
    last: int  # the seq given out last


@frozen(kw_only=True)
class LogPage:
    """A stretch of a task's log, oldest line first, and how the task stands: whatever was printed up to then lies on
    this page or behind it."""

    status: Status
    attempt: int
    log_lines: int  # that the task has in all
    lines: tuple[LogLine, ...]


@frozen
class Sighting:
    """A worker was at work in a directory, for the last time at that moment as far as is known."""

    worker_id: str
    work_directory: str
    at: int


class Record(Protocol):
    """Every method raises RecordFailed, and TimeoutError."""

    async def task(self, task_id: str) -> Task | None: ...

    async def outcomes(self, task_ids: Collection[str], bytes_max: int) -> Mapping[str, Outcome]:
        """Of those tasks that exist, by their ids: how they stand. Results beyond so many bytes of JSON are omitted."""

    async def place(self, task: Task, aging_seconds: float) -> Place: ...

    async def history(self, task_id: str, limit: int) -> Sequence[Entry]:
        """The newest lines about the task, oldest first."""

    async def log(self, task_id: str, after: int, limit: int, attempt: int | None = None) -> LogPage | None:
        """At most `limit` lines with a number beyond `after`, of one attempt or of all; None if there is no task."""

    async def sightings(self, after: int) -> Sequence[Sighting]:
        """Who was at work later than `after`, as far as the end of the history and the leases tell; oldest first."""

    async def events(self, after: int, limit: int, only: EventFilter) -> Stretch:
        """At most `limit` entries with a seq beyond `after`. Where few match, the stretch ends sooner, perhaps with
        none, so that no single call takes long: go on from `up_to` until that is `last`."""

    async def page(
        self, only: Filter, sort: Sort, limit: int, *, offset: int = 0, after: Spot | None = None, counted: bool = True
    ) -> Page:
        """At most `limit` of these tasks, from `offset` on, counted from the beginning or, in a search, from a spot;
        fewer if they are large, or if a search finds few in as many as are looked through in one go. Not `counted`:
        the total is 0."""

    async def last_arrival(self) -> int:
        """That of the newest task there has ever been; 0 if there has been none."""

    async def matching(self, only: Filter, first: int, last: int) -> Sequence[str]:
        """The ids of those tasks among these arrivals, in order of arrival. As many rows are looked through, so ask for
        a stretch at a time."""

    async def directories(self) -> Sequence[DirectoryCount]:
        """Every work directory that has ever had a task or rules, by name."""

    async def directory(self, work_directory: str) -> DirectoryCount:
        """One of them, or what it would be."""

    async def directories_after(self, name: str, limit: int, reach: Reach | None = None) -> Sequence[str]:
        """The next work directories within the reach, by name."""

    async def directories_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        """Those work directories within the reach whose names hold the text, in whatever case its Latin letters are;
        first those that begin with it, then by name."""

    async def tags_like(self, text: str, limit: int, reach: Reach | None = None) -> Names:
        """The tags that begin with the text, in order. Of each only the newest tasks that bear it are looked at for one
        within the reach."""

    async def waiting(self, work_directory: str | None) -> int:
        """How many tasks wait in the directory (None: in all of them)."""

    async def working(self) -> int:
        """How many tasks are being worked on."""

    async def held(self) -> Mapping[str, Sequence[str]]:
        """The tasks that are being worked on, by the names of the workers that hold them."""

    async def others(self) -> Sequence[Presence]:
        """Who is connected to the other servers that share this record, as of a few seconds ago."""

    async def config_versions(self, limit: int, offset: int) -> tuple[Sequence[ConfigVersion], int]:
        """The changes of the settings, newest first, and how many there are in all."""

    async def config_version(self, version: int) -> ConfigVersion | None: ...

    async def statistics(
        self, work_directories: Collection[str] | None, start: int, end: int, bucket: int
    ) -> Statistics:
        """Of what happened in [start, end) in these directories (None: in all there are). In milliseconds; the
        range is of whole minutes, `bucket` a minute or whole hours, and buckets begin at its multiples."""

    async def oldest_waiting(self) -> int | None:
        """When the task that has waited longest was created."""
