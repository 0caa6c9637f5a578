"""What is ready, and who is waiting for it.

A shelf (shelf.py) where somebody waits and something lies, or may lie behind an edge, is in the queue: it is looked at
when its first waiter's turn comes. If it cannot be said then what that waiter gets, it is wanting until that is learnt.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heappop, heappush
from sys import maxsize

from dispatcher.fields import Priority
from dispatcher.messages import Claim, Ticket
from dispatcher.ports import LaneKey, Run, Slice
from dispatcher.shelf import Shelf, Waiter
from dispatcher.task import Task

WINDOW = 128  # ready tasks a lane keeps in memory
RESIDENT_MAX = 8192  # ready tasks in memory over all lanes; beyond, the least recently used shelves are forgotten
SHELVES_MAX = 1024  # shelves in memory; beyond, the same
FORGET_MAX = 64  # shelves looked at in one go when some must be forgotten
WANTING_MAX = 16  # wanting shelves; beyond, nobody else is served until more is known

MOST_URGENT_FIRST = sorted(Priority, key=lambda priority: -priority.rank)

Filter = frozenset[str]
ShelfKey = tuple[str, Filter]
IsOpen = Callable[[str], bool]
Name = tuple[str | None, str | None, str | None]  # of a claim, of its worker, and of their key


class Agenda:
    def __init__(self, window: int = WINDOW, resident_max: int = RESIDENT_MAX, shelves_max: int = SHELVES_MAX) -> None:
        self._window, self._resident_max, self._shelves_max = window, resident_max, shelves_max
        self._aging_ms = 0
        self._directories: dict[str, dict[Filter, Shelf]] = {}
        self._recency: OrderedDict[ShelfKey, Shelf] = OrderedDict()  # the same shelves, least recent first
        self._resident = 0  # tasks over all lanes; one that lies in two lanes counts twice
        self._waiters: dict[Ticket, Waiter] = {}
        self._named: dict[Name, Ticket] = {}  # those whose claim has a name
        self._deadlines: list[tuple[int, Ticket]] = []  # heap; may name waiters that have left
        self._turns: list[tuple[Ticket, str, list[str]]] = []  # heap of the queue: directory and filter
        self._queued: set[ShelfKey] = set()
        self._wanting: dict[ShelfKey, None] = {}
        self._last_ticket = 0
        self.places = 0  # that waiters stand in: one for each directory of each
        self.places_in: Counter[str] = Counter()  # the same, by directory

    def emptied(self) -> "Agenda":
        """Another one with the same bounds, which gives out no ticket again."""
        agenda = Agenda(self._window, self._resident_max, self._shelves_max)
        agenda._last_ticket = self._last_ticket
        return agenda

    def age(self, aging_seconds: float) -> None:
        """From now on a task is after so long as urgent as a new one of the next priority; 0 for never.

        Nothing lies in this order: who comes next is found out when a claim's turn comes.
        """
        self._aging_ms = round(aging_seconds * 1000)

    # Ready tasks

    def add(self, task: Task) -> None:
        for filter, shelf in self._shelves_for(task):
            self._resident += shelf.lanes[task.priority].add(task, self._window)
            self._queue((task.work_directory, filter), shelf)

    def discard(self, task: Task) -> None:
        for _, shelf in self._shelves_for(task):
            self._resident -= shelf.lanes[task.priority].discard(task)

    def best(self, claim: Claim, is_open: IsOpen) -> Task | None:
        """The first of the ready tasks that this claim may have: most urgent, then oldest."""
        heads = (
            lane.tasks[0]
            for key, shelf in self._shelves_of(claim)
            if is_open(key[0])
            for lane in shelf.lanes.values()
            if lane.tasks
        )
        return min(heads, key=self._turn_of, default=None)

    def _turn_of(self, task: Task) -> tuple[int, int]:
        if self._aging_ms:
            return task.created_at - task.priority.rank * self._aging_ms, task.arrival
        return -task.priority.rank, task.arrival

    def lacks(self, claim: Claim, is_open: IsOpen, now: int) -> Iterator[tuple[LaneKey, Slice]]:
        """The slices without which it cannot be said what this claim gets, most urgent first."""
        share = min(self._window, self._resident_max // (len(self._recency) + 1))  # of the room, for each shelf
        for (work_directory, filter), shelf in self._shelves_of(claim):
            if not is_open(work_directory):
                continue
            wanted = claim.limit
            for priority in MOST_URGENT_FIRST:
                lane = shelf.lanes[priority]
                here = lane.count(wanted, now)
                if here < wanted and lane.edge is not None:
                    enough = maxsize if self._aging_ms else wanted
                    yield LaneKey(work_directory, priority, filter), Slice(lane.edge, max(share, wanted), enough)
                if not self._aging_ms:  # or a less urgent one may be older than its rank
                    wanted -= here
                if not wanted:
                    break

    def learn(self, key: LaneKey, run: Run) -> None:
        shelf = self._shelf(key.work_directory, key.tags)
        shelf.lanes[key.priority].extend(run)
        self._resident += len(run.tasks)
        self._queue((key.work_directory, key.tags), shelf)

    def doubt(self, key: ShelfKey) -> None:
        """What was learnt of it may no longer be so."""
        shelf = self._recency.get(key)
        if shelf is not None:
            self._resident -= len(shelf)
            shelf.empty()

    def demand(self, key: ShelfKey) -> int:
        """How many tasks those who wait there ask for."""
        shelf = self._recency.get(key)
        return sum(waiter.claim.limit for waiter in shelf.waiters.values()) if shelf is not None else 0

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
        for key, shelf in self._shelves_of(claim):
            shelf.waiters[waiter.ticket] = waiter
            self._queue(key, shelf)
        if claim.claim_id:
            self._named[_name(claim)] = waiter.ticket
        self.places += len(claim.work_directories)
        self.places_in.update(claim.work_directories)
        return waiter.ticket

    def leave(self, ticket: Ticket) -> None:
        if waiter := self._waiters.pop(ticket, None):
            for key, shelf in self._shelves_of(waiter.claim):
                del shelf.waiters[ticket]
                self._wanting.pop(key, None)
                self._queue(key, shelf)
            self._named.pop(_name(waiter.claim), None)
            self.places -= len(waiter.claim.work_directories)
            for work_directory in waiter.claim.work_directories:
                self.places_in[work_directory] -= 1
                if not self.places_in[work_directory]:
                    del self.places_in[work_directory]

    def reopen(self, work_directory: str) -> None:
        """What lies there may be handed out again."""
        for filter, shelf in self._directories.get(work_directory, {}).items():
            self._queue((work_directory, filter), shelf)

    def next_turn(self) -> tuple[ShelfKey, Waiter] | None:
        """Takes the shelf out of the queue whose first waiter has waited for longest."""
        while self._turns:
            ticket, work_directory, tags = heappop(self._turns)
            key = work_directory, frozenset(tags)
            self._queued.discard(key)
            waiter = self._recency[key].first_waiter if key in self._recency else None
            if waiter and waiter.ticket == ticket:
                return key, waiter
            if waiter:
                self._queue(key, self._recency[key])
        return None

    def _queue(self, key: ShelfKey, shelf: Shelf) -> None:
        waiter = shelf.first_waiter
        if waiter and key not in self._queued and not shelf.bare:
            self._queued.add(key)
            heappush(self._turns, (waiter.ticket, key[0], sorted(key[1])))

    def want(self, key: ShelfKey) -> None:
        self._wanting[key] = None

    def look_again(self) -> None:
        """More is known now, or directories have closed: the wanting shelves are queued again."""
        wanting, self._wanting = self._wanting, {}
        for key in wanting:
            self._queue(key, self._recency[key])

    @property
    def wanting(self) -> int:
        """How many shelves there are whose first waiter might be served if more were known."""
        return len(self._wanting)

    def wanted(self) -> Iterator[Claim]:
        """The claims of these waiters."""
        return self.first_waiters(self._wanting)

    def first_waiters(self, keys: Iterable[ShelfKey]) -> Iterator[Claim]:
        """Of those who wait at these shelves the claims of the first ones."""
        for key in keys:
            if key in self._recency and (waiter := self._recency[key].first_waiter):
                yield waiter.claim

    def concerns_wanting(self, claim: Claim) -> bool:
        """Somebody waits before this claim who might get what it asks for."""
        return any(work_directory in claim.work_directories for work_directory, _ in self._wanting)

    def parked_as(self, claim: Claim) -> Waiter | None:
        """The waiter whose claim bears the same name, by the same worker with the same key."""
        ticket = self._named.get(_name(claim)) if claim.claim_id else None
        return self._waiters[ticket] if ticket else None

    def overdue(self, now: int) -> Iterator[Waiter]:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, ticket = heappop(self._deadlines)
            if waiter := self._waiters.get(ticket):
                yield waiter

    def next_deadline(self) -> int | None:
        return self._deadlines[0][0] if self._deadlines else None

    def waiters(self) -> list[Waiter]:
        return list(self._waiters.values())

    def waiting(self, work_directory: str, tags: Collection[str] | None = None) -> int:
        """How many wait for a task of the directory; with tags, for one that bears them."""
        shelves = self._directories.get(work_directory, {}).items()
        return sum(len(shelf.waiters) for filter, shelf in shelves if tags is None or filter.issubset(tags))

    # Shelves

    def _shelves_for(self, task: Task) -> list[tuple[Filter, Shelf]]:
        """The shelves that a task belongs on, as far as they are here."""
        shelves = self._directories.get(task.work_directory, {})
        return [(filter, shelf) for filter, shelf in shelves.items() if filter.issubset(task.tags)]

    def _shelves_of(self, claim: Claim) -> Iterator[tuple[ShelfKey, Shelf]]:
        """The shelves that a claim takes from, one per directory; looking makes them recent."""
        filter = frozenset(claim.tags)
        for work_directory in claim.work_directories:
            yield (work_directory, filter), self._shelf(work_directory, filter)

    def _shelf(self, work_directory: str, filter: Filter) -> Shelf:
        if (work_directory, filter) not in self._recency:
            shelf = self._recency[work_directory, filter] = Shelf()
            self._directories.setdefault(work_directory, {})[filter] = shelf
            return shelf
        self._recency.move_to_end((work_directory, filter))
        return self._recency[work_directory, filter]


def _name(claim: Claim) -> Name:
    return claim.claim_id, claim.worker_id, claim.by.name
