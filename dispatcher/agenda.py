"""What is ready, and who is waiting for it.

Memory does not grow with the backlog. A shelf holds what claims on one directory with one tag filter may get:
a lane per priority. A lane keeps the *oldest* ready tasks, in order of arrival, at most `window` of them. Its
edge is the arrival number from which on the rest lies on disk; no edge means that everything is here. A shelf
nobody has asked for is not here at all, which is the same as three empty lanes with their edge at 0.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice
from math import inf

from attrs import define, field, frozen

from dispatcher.fields import Priority
from dispatcher.messages import Claim, Ticket
from dispatcher.ports import LaneKey, Run, Slice
from dispatcher.task import Task

WINDOW = 128  # ready tasks a lane keeps in memory
RESIDENT_MAX = 8192  # ready tasks in memory over all lanes; beyond, the least recently used shelves are forgotten
SHELVES_MAX = 1024  # shelves in memory; beyond, the same
FORGET_MAX = 64  # shelves looked at in one go when some must be forgotten

MOST_URGENT_FIRST = sorted(Priority, key=lambda priority: -priority.rank)

Filter = frozenset[str]


@define
class Lane:
    tasks: list[Task] = field(factory=list)
    edge: int | None = 0

    def add(self, task: Task, window: float) -> int:
        """How many more tasks are here than before."""
        if self.edge is not None and task.arrival >= self.edge:
            return 0  # it lies behind the edge, where a later slice will find it
        before = len(self.tasks)
        self.tasks.insert(self._place(task), task)
        while len(self.tasks) > window:
            self.edge = self.tasks.pop().arrival
        return len(self.tasks) - before

    def discard(self, task: Task) -> int:
        """How many fewer tasks are here than before."""
        place = self._place(task)
        if place == len(self.tasks) or self.tasks[place].arrival != task.arrival:
            return 0
        del self.tasks[place]
        return 1

    def count(self, most: int, now: int) -> int:
        """How many tasks here can be handed out, up to `most`."""
        live = (1 for task in self.tasks if task.expires_at is None or task.expires_at > now)
        return sum(islice(live, most))

    def extend(self, run: Run) -> None:
        self.tasks.extend(run.tasks)
        self.edge = run.edge

    def _place(self, task: Task) -> int:
        return bisect_left(self.tasks, task.arrival, key=lambda other: other.arrival)


@frozen(eq=False)
class Waiter:
    """A parked claim. `until` is when its caller wants an answer at the latest, None for never."""

    ticket: Ticket
    claim: Claim
    until: int | None


@define
class Shelf:
    lanes: dict[Priority, Lane] = field(factory=lambda: {priority: Lane() for priority in Priority})
    waiters: dict[Ticket, Waiter] = field(factory=dict)  # in turn

    def __len__(self) -> int:
        return sum(len(lane.tasks) for lane in self.lanes.values())


class Agenda:
    def __init__(self, window: int = WINDOW, resident_max: int = RESIDENT_MAX, shelves_max: int = SHELVES_MAX) -> None:
        self._window, self._resident_max, self._shelves_max = window, resident_max, shelves_max
        self._directories: dict[str, dict[Filter, Shelf]] = {}
        self._recency: OrderedDict[tuple[str, Filter], Shelf] = OrderedDict()  # the same shelves, least recent first
        self._resident = 0  # tasks over all lanes; one that lies in two lanes counts twice
        self._waiters: dict[Ticket, Waiter] = {}
        self._deadlines: list[tuple[int, Ticket]] = []  # heap; may name waiters that have left
        self._last_ticket = 0
        self.places = 0  # that waiters stand in: one for each directory of each

    # Ready tasks

    def add(self, task: Task) -> None:
        for shelf in self._shelves_for(task):
            window = inf if shelf.waiters else self._window  # who waits may take many, and all of them are wanted now
            self._resident += shelf.lanes[task.priority].add(task, window)

    def discard(self, task: Task) -> None:
        for shelf in self._shelves_for(task):
            self._resident -= shelf.lanes[task.priority].discard(task)

    def best(self, claim: Claim) -> Task | None:
        """The first of the ready tasks that this claim may have: most urgent, then oldest."""
        shelves = list(self._shelves_of(claim))
        for priority in MOST_URGENT_FIRST:
            heads = [shelf.lanes[priority].tasks[0] for shelf in shelves if shelf.lanes[priority].tasks]
            if heads:
                return min(heads, key=lambda task: task.arrival)
        return None

    def lacks(self, claim: Claim, now: int) -> Iterator[tuple[LaneKey, Slice]]:
        """The slices without which it cannot be said what this claim gets, most urgent first."""
        filter = frozenset(claim.tags)
        share = min(self._window, self._resident_max // (len(self._recency) + 1))  # of the room, for each shelf
        for work_directory, shelf in zip(claim.work_directories, self._shelves_of(claim), strict=True):
            wanted = claim.limit
            for priority in MOST_URGENT_FIRST:
                lane = shelf.lanes[priority]
                wanted -= lane.count(wanted, now)
                if not wanted:
                    break
                if lane.edge is not None:
                    yield LaneKey(work_directory, priority, filter), Slice(lane.edge, max(share, wanted), wanted)

    def learn(self, key: LaneKey, run: Run) -> None:
        self._shelf(key.work_directory, key.tags).lanes[key.priority].extend(run)
        self._resident += len(run.tasks)

    def forget(self) -> None:
        """Keep to the bounds: drop the shelves that were not used for longest and have nobody waiting.

        Never between learning and deciding, or what a claim has just asked for could go again.
        """
        for _ in range(min(FORGET_MAX, len(self._recency))):
            if self._resident <= self._resident_max and len(self._recency) <= self._shelves_max:
                return
            (work_directory, filter), shelf = self._recency.popitem(last=False)
            if shelf.waiters:
                self._recency[work_directory, filter] = shelf
                continue
            self._resident -= len(shelf)
            del self._directories[work_directory][filter]
            if not self._directories[work_directory]:
                del self._directories[work_directory]

    # Parked claims

    def park(self, claim: Claim, until: int | None) -> Ticket:
        self._last_ticket += 1
        waiter = Waiter(Ticket(self._last_ticket), claim, until)
        self._waiters[waiter.ticket] = waiter
        if until is not None:
            heappush(self._deadlines, (until, waiter.ticket))
        for shelf in self._shelves_of(claim):
            shelf.waiters[waiter.ticket] = waiter
        self.places += len(claim.work_directories)
        return waiter.ticket

    def leave(self, ticket: Ticket) -> None:
        if waiter := self._waiters.pop(ticket, None):
            for shelf in self._shelves_of(waiter.claim):
                del shelf.waiters[ticket]
            self.places -= len(waiter.claim.work_directories)

    def next_waiter(self, task: Task) -> Waiter | None:
        """Whose turn it is among those who would take this task."""
        turns = [next(iter(shelf.waiters.values())) for shelf in self._shelves_for(task) if shelf.waiters]
        return min(turns, key=lambda waiter: waiter.ticket, default=None)

    def overdue(self, now: int) -> Iterator[Waiter]:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, ticket = heappop(self._deadlines)
            if waiter := self._waiters.get(ticket):
                yield waiter

    def next_deadline(self) -> int | None:
        return self._deadlines[0][0] if self._deadlines else None

    def waiters(self) -> list[Waiter]:
        return list(self._waiters.values())

    # Shelves

    def _shelves_for(self, task: Task) -> list[Shelf]:
        """The shelves that a task belongs on, as far as they are here."""
        shelves = self._directories.get(task.work_directory, {})
        return [shelf for filter, shelf in shelves.items() if filter.issubset(task.tags)]

    def _shelves_of(self, claim: Claim) -> Iterator[Shelf]:
        """The shelves that a claim takes from, one per directory; looking makes them recent."""
        filter = frozenset(claim.tags)
        for work_directory in claim.work_directories:
            yield self._shelf(work_directory, filter)

    def _shelf(self, work_directory: str, filter: Filter) -> Shelf:
        if (work_directory, filter) not in self._recency:
            shelf = self._recency[work_directory, filter] = Shelf()
            self._directories.setdefault(work_directory, {})[filter] = shelf
            return shelf
        self._recency.move_to_end((work_directory, filter))
        return self._recency[work_directory, filter]
