"""The state that decisions are made on. No I/O, no clock, no await: a decision *is* the change of state.

    board.forget()                          a batch begins: what only visited goes
    needs = board.needs(messages, now)      what it must learn first
    board.learn(found)
    effects = board.apply(message, now)     for each message that needs nothing more

The board holds every working task and a bounded window of the waiting ones (agenda.py). Whatever else a message
speaks about is a visitor for one batch. What is decided about each message stands in decisions/.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Generic

from attrs import evolve, frozen

from dispatcher.agenda import Agenda
from dispatcher.decisions import DECISIONS
from dispatcher.decisions.claims import hand_out
from dispatcher.errors import Refusal, TaskNotFound
from dispatcher.messages import Claim, Create, LeaseMessage, Message, R, TaskMessage, Tick, Ticket
from dispatcher.ports import Change, Entry, Found, LaneKey, Lease, Mint, Needs, Slice, Snapshot
from dispatcher.task import Status, Task

LANES_PER_BATCH = 64  # slices fetched for one batch; claims beyond them are decided in the next


@frozen(kw_only=True)
class Rules:
    """The settings that decisions depend on."""

    default_timeout_seconds: float = 3600
    default_max_retries: int = 3
    prompt_match_threshold: float = 0.8
    require_lease_token: bool = False


@frozen
class Parked:
    """No reply yet: the claim waits under this ticket."""

    ticket: Ticket


@frozen
class Effects(Generic[R]):
    """What a message led to: its reply, each change in order, and the parked claims it answered.

    A refusal is the reply where it leaves a trace in the history; all others are raised.
    """

    reply: R | Refusal | Parked
    changes: tuple[Change, ...]
    served: tuple[tuple[Ticket, tuple[Task, ...]], ...]


class Board:
    def __init__(
        self, snapshot: Snapshot, mint: Mint, rules: Rules | None = None, agenda: Agenda | None = None
    ) -> None:
        self.mint, self.rules, self.agenda = mint, rules or Rules(), agenda or Agenda()
        self.working = {task.task_id: task for task in snapshot.working}
        self._claims: dict[str, dict[str, Task]] = {}  # of those, the tasks of each claim that has a name
        for task in snapshot.working:
            self._index_claim(task)
        self.draining = False
        self._last_arrival, self._last_seq = snapshot.last_arrival, snapshot.last_seq
        self._due = snapshot.next_due  # nothing in the record falls due before; perhaps nothing at that very moment
        self._overdue: tuple[Task, ...] | None = None  # these four visit for one batch
        self._leases: dict[tuple[str, str], Lease | None] = {}
        self._keys: dict[str, str | None] = {}  # idempotency keys: the id of the task each stands for
        self._visitors: dict[str, Task | None] = {}  # in their newest form; None: no such task
        self._changes: list[Change] = []  # these three: of the message at hand
        self._readied: list[Task] = []
        self._served: list[tuple[Ticket, tuple[Task, ...]]] = []

    # A batch

    def forget(self) -> None:
        for task in self._overdue or ():  # fetched for a Tick that was not decided with its batch
            self.note_due(task)
        self._overdue = None
        self._visitors.clear()
        self._leases.clear()
        self._keys.clear()
        self.agenda.forget()

    def needs(self, messages: Iterable[Message[Any]], now: int) -> Needs:
        tasks: set[str] = set()
        leases: set[tuple[str, str]] = set()
        lanes: dict[LaneKey, Slice] = {}
        keys: set[str] = set()
        due = False
        for message in messages:
            if isinstance(message, Claim):
                for key, slice in self.agenda.lacks(message, now):
                    lanes[key] = max(slice, lanes.get(key, slice), key=lambda slice: slice.enough)
            elif isinstance(message, TaskMessage):
                tasks.update(self._unknown_task(message))
                if isinstance(message, LeaseMessage):
                    leases.update(self._unknown_lease(message))
            elif isinstance(message, Create):
                if message.idempotency_key and message.idempotency_key not in self._keys:
                    keys.add(message.idempotency_key)
            elif isinstance(message, Tick) and self._overdue is None and self._due is not None and self._due <= now:
                due = True
            if len(lanes) >= LANES_PER_BATCH:
                break
        return Needs(tasks=tasks, leases=leases, keys=keys, lanes=lanes, due=due, now=now)

    def _unknown_task(self, message: TaskMessage) -> Iterator[str]:
        if message.task_id not in self.working and message.task_id not in self._visitors:
            yield message.task_id

    def _unknown_lease(self, message: LeaseMessage) -> Iterator[tuple[str, str]]:
        """A token that is not the current one: only the history can tell what became of it."""
        task, token = self.working.get(message.task_id), message.lease_token
        if token and not (task and task.leased_by(token)) and (message.task_id, token) not in self._leases:
            yield message.task_id, token

    def learn(self, found: Found) -> None:
        self._visitors.update(found.tasks)
        self._leases.update(found.leases)
        for name, task in found.keys.items():
            self._keys[name] = task.task_id if task else None
            if task and task.task_id not in self.working:
                self._visitors[task.task_id] = task
        for key, run in found.lanes.items():
            self.agenda.learn(key, run)
        if found.due is not None:
            self._overdue, self._due = found.due, found.next_due

    def apply(self, message: Message[R], now: int) -> Effects[R]:
        """Decide one message. A refusal is raised, and nothing has happened."""
        self._changes, self._readied, self._served = [], [], []
        reply = DECISIONS[type(message)](self, message, now)
        self.serve(now)
        return Effects(reply, tuple(self._changes), tuple(self._served))

    def next_due(self) -> int | None:
        """When it next wants a Tick."""
        moments = (self._due, self.agenda.next_deadline())
        return min((at for at in moments if at is not None), default=None)

    # What decisions are made of

    def next_arrival(self) -> int:
        self._last_arrival += 1
        return self._last_arrival

    def find(self, task_id: str) -> Task:
        task = self._newest(task_id)
        if task is None:
            raise TaskNotFound(task_id)
        return task

    def _newest(self, task_id: str, otherwise: Task | None = None) -> Task | None:
        """A task as it is by now; a visitor that is None has been deleted."""
        return self.working.get(task_id) or self._visitors.get(task_id, otherwise)

    def claimed_as(self, claim: Claim) -> tuple[Task, ...]:
        """What a claim of this name, by this worker on these directories, still holds."""
        tasks = self._claims.get(claim.claim_id, {}).values() if claim.claim_id else ()
        return tuple(
            task
            for task in tasks
            if task.worker_id == claim.worker_id and task.work_directory in claim.work_directories
        )

    def created_under(self, key: str | None) -> Task | None:
        """The task that an idempotency key stands for."""
        task_id = self._keys[key] if key else None
        return self.find(task_id) if task_id else None

    def lease(self, task_id: str, token: str) -> Lease | None:
        """What the history knows of a lease that is not the current one."""
        return self._leases[task_id, token]

    def take_due(self) -> list[Task]:
        """The slice of tasks that has fallen due, each in its newest form."""
        tasks, self._overdue = self._overdue or (), ()
        newest = (self._newest(task.task_id, task) for task in tasks)
        return [task for task in newest if task is not None]

    def park(self, claim: Claim, until: int | None) -> Parked:
        return Parked(self.agenda.park(claim, until))

    def put(self, before: Task | None, after: Task, now: int, type: str | None, **details: Any) -> Task:
        """Record a task's new form and why. The only place where a task changes."""
        if before is not None:
            self._forget_form(before)
        if after.status is Status.WORKING:
            self.working[after.task_id] = after
            self._index_claim(after)
        self._visitors[after.task_id] = after
        if after.idempotency_key:
            self._keys[after.idempotency_key] = after.task_id
        if after.ready:
            self.agenda.add(after)
            self._readied.append(after)
        self.note_due(after)
        entry = self._entry(before or after, after, now, type, details) if type else None
        self._changes.append(Change(before, after, entry))
        return after

    def _forget_form(self, before: Task) -> None:
        if before.ready:
            self.agenda.discard(before)
        self.working.pop(before.task_id, None)
        if before.claim_id:
            claimed = self._claims[before.claim_id]
            del claimed[before.task_id]
            if not claimed:
                del self._claims[before.claim_id]

    def _index_claim(self, task: Task) -> None:
        if task.claim_id:
            self._claims.setdefault(task.claim_id, {})[task.task_id] = task

    def remove(self, task: Task, now: int, type: str) -> None:
        """Forget a task that is over."""
        self._visitors[task.task_id] = None
        if task.idempotency_key:
            self._keys[task.idempotency_key] = None
        self._changes.append(Change(task, task, self._entry(task, task, now, type, {}), gone=True))

    def note(self, task: Task, now: int, type: str, **details: Any) -> None:
        """Record a line about a task that stays as it is."""
        self._changes.append(Change(task, task, self._entry(task, task, now, type, details)))

    def note_late(self, task: Task, token: str, now: int, **details: Any) -> None:
        """Record what came too late under a lease; once is enough."""
        lease = self._leases[task.task_id, token]
        if lease and not lease.has_late_result:
            self._leases[task.task_id, token] = evolve(lease, has_late_result=True)
            entry = self._entry(task, task, now, "task.late_result", details)
            late = evolve(entry, attempt=lease.attempt, worker_id=lease.worker_id)
            self._changes.append(Change(task, task, late))

    def note_due(self, task: Task) -> None:
        if task.due_at is not None:
            self._due = task.due_at if self._due is None else min(self._due, task.due_at)

    def dismiss(self, ticket: Ticket, tasks: tuple[Task, ...] = ()) -> None:
        """Answer a parked claim."""
        self.agenda.leave(ticket)
        self._served.append((ticket, tasks))

    def serve(self, now: int) -> None:
        """Hand what the message at hand made ready to those who wait, each in turn."""
        turns: list[tuple[Ticket, int]] = []  # heap: whose turn it is to have which of them
        for place in range(len(self._readied)):
            self._take_turn(turns, place)
        while turns:
            ticket, place = heappop(turns)
            waiter = self.agenda.next_waiter(self._readied[place])
            if waiter and waiter.ticket == ticket and (tasks := hand_out(self, waiter.claim, now)):
                self.dismiss(ticket, tasks)
            elif waiter and waiter.ticket == ticket:
                continue
            self._take_turn(turns, place)

    def _take_turn(self, turns: list[tuple[Ticket, int]], place: int) -> None:
        task = self._readied[place]
        if self._visitors[task.task_id] is task and (waiter := self.agenda.next_waiter(task)):
            heappush(turns, (waiter.ticket, place))

    def _entry(self, before: Task, after: Task, now: int, type: str, details: dict[str, Any]) -> Entry:
        self._last_seq += 1
        return Entry(
            seq=self._last_seq,
            type=type,
            task_id=after.task_id,
            work_directory=after.work_directory,
            priority=after.priority,
            status=after.status,
            worker_id=after.worker_id or before.worker_id,
            attempt=after.attempt,
            at=now,
            details={name: value for name, value in details.items() if value is not None},
            lease_token=after.lease_token if type == "task.claimed" else None,
        )
