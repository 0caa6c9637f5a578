"""A board beside others, each in a process of its own, on one record that they share.

It holds nothing from one batch to the next but who waits here. Whatever a batch is about is fetched, and locked, in the
transaction that writes it back, so that it is true for as long as it is decided on; the decisions are those of Board.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from sys import maxsize
from typing import Any

from attrs import define, evolve, field

from dispatcher.agenda import Agenda, ShelfKey
from dispatcher.board import Board
from dispatcher.decisions.moments import later
from dispatcher.fields import Priority
from dispatcher.messages import (
    Adopt,
    Cancel,
    Claim,
    Complete,
    Create,
    CreateMany,
    Fail,
    Held,
    Message,
    R,
    Reconfigure,
    Regulate,
    Release,
    Resume,
    SteerMany,
    Tick,
)
from dispatcher.ports import Found, LaneKey, Mint, Needs, SharedFound, SharedNeeds, Slice, Snapshot
from dispatcher.rules import Rules
from dispatcher.task import Status, Task

SHELVES_PER_BATCH = 100  # that tasks are fetched of for one batch; claims beyond them are decided in the next
DEMAND_MAX = 512  # tasks fetched, and locked, for those who want some of one shelf
DEMAND_PER_BATCH = 10_000  # and for the claims of one batch; those beyond are decided in the next, too
ENDS = Complete | Fail | Release | Cancel


@define
class _Known:
    """What has been asked for with the batch at hand, and is true until it is committed."""

    arrivals: deque[int] = field(factory=deque)
    claims: set[str] = field(factory=set)
    held: set[tuple[str, str]] = field(factory=set)
    ruled: set[str] = field(factory=set)
    freeing: set[str] = field(factory=set)
    shelves: set[ShelfKey] = field(factory=set)
    slots: bool = False
    settings: bool = False
    leased_until: int | None = None


class SharedBoard(Board):
    def __init__(
        self, snapshot: Snapshot, mint: Mint, rules: Rules | None = None, agenda: Agenda | None = None
    ) -> None:
        # However much is fetched for a batch, all of it stays until that is over, when all of it goes.
        super().__init__(snapshot, mint, rules, agenda or Agenda(window=maxsize))
        self._known = _Known()
        self._asked = Needs(now=0)  # last

    def rebuilt(self, snapshot: Snapshot) -> "SharedBoard":
        board = SharedBoard(snapshot, self.mint, self._committed_rules, self.agenda.emptied())
        board.draining, board.pace = self.draining, self.pace
        return board

    def forget(self) -> None:
        super().forget()
        self.working.clear()
        self._claims.clear()
        self.gates.forget()
        for key in self._known.shelves:
            self.agenda.doubt(key)
        self._known = _Known()

    def needs(self, messages: Iterable[Message[Any]], now: int) -> Needs:
        messages = list(messages)
        plain = super().needs((message for message in messages if not isinstance(message, Claim)), now)
        shelves = self._shelves(messages, now)
        rules_change = any(isinstance(message, Reconfigure | Adopt) for message in messages)
        shared = self._shared_needs(messages, shelves, now, rules_change)
        self._asked = plain
        if shelves or shared:
            self._asked = evolve(plain, lanes=dict(self._lanes(shelves, rules_change)), shared=shared or None)
        return self._asked

    def learn(self, found: Found) -> None:
        shared = found.shared or SharedFound()
        asked, known = self._asked.shared or SharedNeeds(), self._known
        known.arrivals.extend(shared.arrivals)
        known.claims |= asked.claims
        known.held |= asked.held
        known.ruled |= asked.ruled
        known.freeing |= asked.freeing
        known.shelves |= {(key.work_directory, key.tags) for key in self._asked.lanes}
        known.slots |= asked.slots
        known.settings |= asked.settings
        known.leased_until = asked.leased_until
        self.gates.learn(shared.directories, shared.working)
        if shared.config_version is not None:
            self.config_version = shared.config_version
        super().learn(found)
        self._hold(shared.tasks)
        self._hold(task for task in self.visitors.tasks.values() if task)
        self._hold(task for task in self.visitors.parents.values() if task)
        self._hold(self.visitors.overdue or ())
        for task in (*self.visitors.tasks.values(), *self.visitors.parents.values()):
            if task is not None and task.tell_from is not None:  # it has ended at another server
                self.note_due(task.due_at)

    def _decide(self, message: Message[R], now: int) -> Any:
        """Here something may be ready though somebody waits for it: then those who came before are served first."""
        if isinstance(message, Claim):
            self.serve(now)
        return super()._decide(message, now)

    def next_arrival(self) -> int:
        return self._known.arrivals.popleft()

    def _lacks(self, claim: Claim, now: int) -> bool:
        """One that has a name may have been said again to another server, and have got its tasks there."""
        is_unknown = claim.claim_id is not None and claim.claim_id not in self._known.claims
        return is_unknown or super()._lacks(claim, now)

    def _hold(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.status is Status.WORKING and task.task_id not in self.working:
                self.working[task.task_id] = task
                self._index_claim(task)

    # What it must learn

    def _shelves(self, messages: list[Message[Any]], now: int) -> Counter[ShelfKey]:
        """Of which shelves how many tasks are wanted: for the claims, and for those who wait and may be served."""
        wanted: Counter[ShelfKey] = Counter()
        demand = 0
        for message in messages:
            if isinstance(message, Claim) and not self.draining:
                for work_directory in message.work_directories:
                    wanted[work_directory, frozenset(message.tags)] += message.limit
                    demand += message.limit
                if len(wanted) >= SHELVES_PER_BATCH or demand >= DEMAND_PER_BATCH:
                    break
        if any(isinstance(message, Claim | Tick) for message in messages):
            for claim in self.agenda.wanted():
                for work_directory in claim.work_directories:  # it gets the best of them all
                    wanted[work_directory, frozenset(claim.tags)] += 0
                if len(wanted) >= SHELVES_PER_BATCH:
                    break
        if known := wanted.keys() & self._known.shelves:
            for key in known - self._depleted(messages, now):
                del wanted[key]
        for key in wanted:
            wanted[key] = min(wanted[key] + self.agenda.demand(key), DEMAND_MAX)
        return wanted

    def _depleted(self, messages: list[Message[Any]], now: int) -> set[ShelfKey]:
        """The shelves of claims that have come too late in the batch: others, by way of other shelves, have taken what
        was fetched for them, and what lies behind it is not known."""
        late = [it for it in messages if isinstance(it, Claim) and super(SharedBoard, self)._lacks(it, now)]
        return {(path, frozenset(claim.tags)) for claim in late for path in claim.work_directories}

    def _lanes(self, shelves: Counter[ShelfKey], rules_change: bool) -> Iterator[tuple[LaneKey, Slice]]:
        for (work_directory, tags), wanted in shelves.items():
            enough = maxsize if self.rules.priority_aging_seconds or rules_change else wanted
            for priority in Priority:
                yield LaneKey(work_directory, priority, tags), Slice(0, wanted, enough)

    def _shared_needs(
        self, messages: list[Message[Any]], shelves: Counter[ShelfKey], now: int, rules_change: bool
    ) -> SharedNeeds:
        """Called for each message once more, before it is decided: so it goes through them once."""
        known = self._known
        asking: list[Claim] = []
        arrivals, grace, settings = -len(known.arrivals), False, False
        freeing, held, ruled = set[str](), set[tuple[str, str]](), set[str]()
        for message in messages:
            if isinstance(message, Claim):
                asking.append(message)
            elif isinstance(message, ENDS):
                freeing.add(message.task_id)
            elif isinstance(message, Create):
                arrivals += 1
            elif isinstance(message, CreateMany):
                arrivals += len(message.drafts)
            elif isinstance(message, SteerMany):
                freeing.update(message.task_ids if message.action == "cancel" else ())
            elif isinstance(message, Held):
                held.add((message.worker_id, message.work_directory))
            elif isinstance(message, Regulate):
                ruled.add(message.work_directory)
            elif isinstance(message, Tick):
                ruled.update(self.gates.ending_pauses(now))
            else:
                grace = grace or isinstance(message, Resume)
                settings = settings or isinstance(message, Reconfigure)
        if shelves:
            asking += self.agenda.first_waiters(shelves)
        return SharedNeeds(
            arrivals=max(0, arrivals),
            claims={claim.claim_id for claim in asking if claim.claim_id} - known.claims,
            held=held - known.held,
            ruled=ruled - known.ruled,
            freeing=freeing - known.freeing,
            slots=bool(shelves) and (self.gates.has_limit or rules_change) and not known.slots,
            settings=settings and not known.settings,
            leased_until=(
                later(now, self.rules.restart_grace_seconds) if grace and known.leased_until is None else None
            ),
        )
