"""What happened, counted by the minute: what a batch adds, whatever record it is added to.

Everything is counted from lines of the history, and from the forms of tasks that they tell of, so that it can be
counted again from the history alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import add
from typing import Any

from attrs import define, field

from dispatcher.fields import Priority
from dispatcher.ports import Change, Entry
from dispatcher.statistics import HOUR, MINUTE
from dispatcher.task import Status
from storage.durations import Durations

EVERYWHERE = ""  # stands for all work directories

EVENTS = ("created", "claimed", "completed", "failed", "cancelled", "retried", "released", "lease_expired", "deleted")
NUMBERS = (*EVENTS, *(f"now_{name}" for name in (*Status, *Priority)))
PLACES = {f"task.{name}" if name in EVENTS else name.removeprefix("now_"): place for place, name in enumerate(NUMBERS)}
COLUMNS = ("work_directory", "span", "at", *NUMBERS, "waiting", "processing")

Key = tuple[str, int]  # a work directory and the begin of a minute
RowKey = tuple[str, int, int]  # a work directory, a span and the begin of it


@define
class Tally:
    """What is counted of a minute. The durations are in milliseconds."""

    numbers: list[int] = field(factory=lambda: [0] * len(NUMBERS))
    waiting: list[int] = field(factory=list)
    processing: list[int] = field(factory=list)

    def count_task(self, status: str, priority: str, number: int) -> None:
        self.numbers[PLACES[status]] += number
        self.numbers[PLACES[priority]] += number

    def count_line(self, type: str, details: Mapping[str, Any]) -> None:
        if (place := PLACES.get(type)) is not None:
            self.numbers[place] += 1
        if (seconds := details.get("waiting_seconds")) is not None:
            self.waiting.append(round(seconds * 1000))
        if (seconds := details.get("processing_seconds")) is not None:
            self.processing.append(round(seconds * 1000))


@define
class Total:
    """The sum of tallies and of rows."""

    numbers: list[int] = field(factory=lambda: [0] * len(NUMBERS))
    waiting: Durations = field(factory=Durations)
    processing: Durations = field(factory=Durations)

    def add(self, tally: Tally) -> None:
        self.numbers = list(map(add, self.numbers, tally.numbers))
        self.waiting.note(tally.waiting)
        self.processing.note(tally.processing)

    def add_total(self, other: "Total") -> None:
        self.numbers = list(map(add, self.numbers, other.numbers))
        self.waiting.add(other.waiting)
        self.processing.add(other.processing)

    def add_row(self, numbers: Iterable[int], waiting: str | None, processing: str | None) -> None:
        self.numbers = list(map(add, self.numbers, numbers))
        self.add_durations(waiting, processing)

    def add_durations(self, waiting: str | None, processing: str | None) -> None:
        self.waiting.add_json(waiting)
        self.processing.add_json(processing)


Tallies = Mapping[Key, Tally]


def floor(at: int, span: int) -> int:
    return at - at % span


def tallies(net: Iterable[Change], entries: Iterable[Entry]) -> Tallies:
    """What a batch adds to the minutes of each directory."""
    found: defaultdict[Key, Tally] = defaultdict(Tally)
    for entry in entries:
        if entry.task_id is not None and entry.work_directory is not None:
            found[entry.work_directory, floor(entry.at, MINUTE)].count_line(entry.type, entry.details)
    for change in net:
        before, after = change.before, change.after
        if before is None or before.status is not after.status or before.priority is not after.priority:
            tally = found[after.work_directory, floor(after.created_at, MINUTE)]
            tally.count_task(after.status, after.priority, 1)
            if before is not None:
                tally.count_task(before.status, before.priority, -1)
    return found


def minutes(tallies: Iterable[tuple[Key, Tally]]) -> Mapping[RowKey, Total]:
    """What they add to the rows of the minutes and hours they belong to."""
    found: defaultdict[Key, Total] = defaultdict(Total)
    for minute, tally in tallies:
        found[minute].add(tally)
    rows: defaultdict[RowKey, Total] = defaultdict(Total)
    for (directory, at), total in found.items():
        for path in (directory, EVERYWHERE):
            rows[path, MINUTE, at].add_total(total)
            rows[path, HOUR, floor(at, HOUR)].add_total(total)
    return rows
