"""The state that decisions are made on. No I/O, no clock, no await: a decision *is* the change of state.

    board.forget()                          a batch begins: what only visited goes
    needs = board.needs(messages, now)      what it must learn first
    board.learn(found)
    effects = board.apply(message, now)     for each message that needs nothing more

The board holds every working task and a bounded window of the waiting ones (agenda.py). Whatever else a message
speaks about is a visitor for one batch. What is decided about each message stands in decisions/.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic

from attrs import evolve, frozen

from dispatcher.agenda import WANTING_MAX, Agenda
from dispatcher.caller import ANYONE, Caller
from dispatcher.configuration import ConfigVersion
from dispatcher.decisions import DECISIONS
from dispatcher.decisions.claims import hand_out
from dispatcher.decisions.directories import note_drained
from dispatcher.directory import Directory
from dispatcher.errors import Refusal, TaskNotFound
from dispatcher.gates import Gates
from dispatcher.messages import Claim, Message, R, Ticket
from dispatcher.needs import comes_too_early, needs
from dispatcher.pace import Pace
from dispatcher.ports import (
    Change,
    Configured,
    Entry,
    Found,
    Lease,
    LogLine,
    Mint,
    Needs,
    Notice,
    Ruling,
    Run,
    Snapshot,
)
from dispatcher.rules import Rules
from dispatcher.task import Status, Task
from dispatcher.visitors import Visitors


@frozen
class Parked:
    """No reply yet: the claim waits under this ticket, until that moment at the latest (None: for ever)."""

    ticket: Ticket
    until: int | None


@frozen
class Effects(Generic[R]):
    """What a message led to: its reply, each change in order, and the parked claims it answered.

    A refusal is the reply where it leaves a trace in the history; all others are raised.
    """

    reply: R | Refusal | Parked
    changes: tuple[Change | Ruling | Notice, ...]
    served: tuple[tuple[Ticket, tuple[Task, ...]], ...]


class Board:
    def __init__(
        self, snapshot: Snapshot, mint: Mint, rules: Rules | None = None, agenda: Agenda | None = None
    ) -> None:
        self.mint, self.agenda = mint, agenda or Agenda()
        self.gates = Gates(snapshot.directories, snapshot.working)
        self.go_by(rules or Rules())
        self._committed_rules = self.rules  # those before the batch at hand
        self.config_version = snapshot.config_version
        self.pace = Pace()
        self.working = {task.task_id: task for task in snapshot.working}
        self._claims: dict[str, dict[str, Task]] = {}  # of those, the tasks of each claim that has a name
        for task in snapshot.working:
            self._index_claim(task)
        self.draining = False
        self._last_arrival, self._last_seq = snapshot.last_arrival, snapshot.last_seq
        self.due = snapshot.next_due  # nothing in the record falls due before; perhaps nothing at that very moment
        self.visitors = Visitors()
        self._changes: list[Change | Ruling | Notice] = []  # these two: of the message at hand
        self._served: list[tuple[Ticket, tuple[Task, ...]]] = []

    def rebuilt(self, snapshot: Snapshot) -> "Board":
        """A board on what the record says, where nobody waits; new rules that it does not know do not hold."""
        board = Board(snapshot, self.mint, self._committed_rules, self.agenda.emptied())
        board.draining, board.pace = self.draining, self.pace
        return board

    # A batch

    def forget(self) -> None:
        """A batch begins: what only visited goes."""
        for task in self.visitors.overdue or ():  # fetched for a Tick that was not decided with its batch
            self.note_due(task.due_at)
        self.visitors = Visitors()
        self.agenda.forget()
        self._committed_rules = self.rules

    def needs(self, messages: Iterable[Message[Any]], now: int) -> Needs:
        return needs(self, messages, now)

    def learn(self, found: Found) -> None:
        self.visitors.learn(found)
        for key, run in found.lanes.items():
            self.agenda.learn(key, run)
        self.agenda.look_again()
        if found.due is not None:
            self.due = found.next_due

    def apply(self, message: Message[R], now: int) -> Effects[R]:
        """Decide one message. A refusal is raised, and nothing has happened."""
        self._changes, self._served = [], []
        reply = self._decide(message, now)
        self.serve(now)
        return Effects(reply, tuple(self._changes), tuple(self._served))

    def _decide(self, message: Message[R], now: int) -> Any:
        return DECISIONS[type(message)](self, message, now)

    def next_due(self) -> int | None:
        """When it next wants a Tick."""
        if self.agenda.wanting:
            return 0
        moments = (self.due, self.agenda.next_deadline(), self.gates.next_end_of_pause())
        return min((at for at in moments if at is not None), default=None)

    def is_due(self, now: int) -> bool:
        due = self.next_due()
        return due is not None and due <= now

    def comes_too_early(self, message: Message[Any], now: int) -> bool:
        return comes_too_early(self, message, now)

    # What decisions are made of

    def next_arrival(self) -> int:
        self._last_arrival += 1
        return self._last_arrival

    def exists(self, task_id: str) -> bool:
        return self._newest(task_id) is not None

    def parent(self, task_id: str, by: Caller = ANYONE) -> Task | None:
        """A task that a new one is to depend on, or one of many; without its result if it is completed, so never to be
        changed then."""
        task = self._newest(task_id, self.visitors.parents.get(task_id))
        return task if task and by.sees(task.work_directory) else None

    def find(self, task_id: str, by: Caller) -> Task:
        task = self._newest(task_id)
        if task is None or not by.sees(task.work_directory):
            raise TaskNotFound(task_id)
        return task

    def _newest(self, task_id: str, otherwise: Task | None = None) -> Task | None:
        """A task as it is by now; a visitor that is None has been deleted."""
        return self.working.get(task_id) or self.visitors.tasks.get(task_id, otherwise)

    def claimed_as(self, claim: Claim) -> tuple[Task, ...]:
        """What a claim of this name, by this worker on these directories, still holds."""
        tasks = self._claims.get(claim.claim_id, {}).values() if claim.claim_id else ()
        return tuple(
            task
            for task in tasks
            if (task.claimed_by, task.worker_id) == (claim.by.name, claim.worker_id)
            and task.work_directory in claim.work_directories
        )

    def created_under(self, key: str | None) -> Task | None:
        """The task that an idempotency key stands for."""
        task_id = self.visitors.keys[key] if key else None
        return self.find(task_id, ANYONE) if task_id else None

    def lease(self, task_id: str, token: str) -> Lease | None:
        """What the history knows of a lease that is not the current one."""
        return self.visitors.leases[task_id, token]

    def dependants(self, task_id: str) -> Run | None:
        """A slice of those who wait for a task that has ended; None if it was not fetched with this batch."""
        return self.visitors.dependants.get(task_id)

    def best(self, claim: Claim) -> Task | None:
        return self.agenda.best(claim, self.gates.is_open)

    def take_due(self) -> Iterator[Task]:
        """The slice of tasks that has fallen due, each in the form that it has when its turn comes."""
        tasks, self.visitors.overdue = self.visitors.overdue or (), ()
        for task in tasks:
            if newest := self._newest(task.task_id, task):
                yield newest

    def park(self, claim: Claim, until: int | None) -> Parked:
        return Parked(self.agenda.park(claim, until), until)

    def put(
        self,
        before: Task | None,
        after: Task,
        now: int,
        type: str | None,
        log: tuple[LogLine, ...] = (),
        **details: Any,
    ) -> Task:
        """Record a task's new form and why. The only place where a task changes."""
        if before is not None:
            self._forget_form(before)
        if after.status is Status.WORKING:
            self.working[after.task_id] = after
            self._index_claim(after)
        self.visitors.tasks[after.task_id] = after
        if after.idempotency_key:
            self.visitors.keys[after.idempotency_key] = after.task_id
        if after.ready:
            self.agenda.add(after)
        self.note_due(after.due_at)
        entry = self._entry(before or after, after, now, type, details) if type else None
        self._changes.append(Change(before, after, entry, log=log))
        if self.gates.count(before, after):
            self.pace.note(after)
            self.agenda.reopen(after.work_directory)
            note_drained(self, after.work_directory, now)
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

    def remove(self, task: Task, now: int, type: str, **details: Any) -> None:
        """Forget a task that is over."""
        self.visitors.tasks[task.task_id] = None
        if task.idempotency_key:
            self.visitors.keys[task.idempotency_key] = None
        self._changes.append(Change(task, task, self._entry(task, task, now, type, details), gone=True))

    def note(self, task: Task, now: int, type: str, **details: Any) -> None:
        """Record a line about a task that stays as it is."""
        self._changes.append(Change(task, task, self._entry(task, task, now, type, details)))

    def note_late(self, task: Task, token: str, now: int, **details: Any) -> None:
        """Record what came too late under a lease; once is enough."""
        if lease := self.visitors.note_late_result(task.task_id, token):
            entry = self._entry(task, task, now, "task.late_result", details)
            late = evolve(entry, attempt=lease.attempt, worker_id=lease.worker_id)
            self._changes.append(Change(task, task, late))

    def rule(self, directory: Directory, now: int, type: str, **details: Any) -> None:
        """Record the rules of a work directory and why. The only place where they change."""
        self.gates.lay_down(directory)
        self.agenda.reopen(directory.work_directory)
        self._changes.append(Ruling(directory, self._taskless(directory.work_directory, now, type, details)))

    def configure(self, rules: Rules, after: ConfigVersion, now: int) -> None:
        """Go by new rules from now on, and record why. The only place where they change."""
        self.go_by(rules)
        self.config_version = after.version
        details = {"version": after.version, "who": after.who, "reason": after.reason, "changes": after.changes}
        self._changes.append(Configured(self._taskless(None, now, "config.changed", details), after))

    def notice(self, now: int, type: str, **details: Any) -> None:
        """Record a line about the server itself."""
        self._changes.append(Notice(self._taskless(None, now, type, details)))

    def go_by(self, rules: Rules) -> None:
        """From now on."""
        self.rules = rules
        self.gates.limit(rules.max_concurrent_tasks)
        self.agenda.age(rules.priority_aging_seconds)

    def note_due(self, at: int | None) -> None:
        """Something falls due then, if ever."""
        if at is not None:
            self.due = at if self.due is None else min(self.due, at)

    def dismiss(self, ticket: Ticket, tasks: tuple[Task, ...] = ()) -> None:
        """Answer a parked claim."""
        self.agenda.leave(ticket)
        self._served.append((ticket, tasks))

    def serve(self, now: int) -> None:
        """Hand what is ready to those who wait, each in turn, as far as it can be said what they get."""
        while (
            not self.gates.full and self.agenda.wanting < WANTING_MAX and (turn := self.agenda.next_turn()) is not None
        ):
            shelf, waiter = turn
            if not self.gates.is_open(shelf[0]):
                continue  # queued again when it opens
            if self.is_behind(waiter.claim) or self._lacks(waiter.claim, now):
                self.agenda.want(shelf)
            elif tasks := self.claimed_as(waiter.claim) or hand_out(self, waiter.claim, now):
                self.dismiss(waiter.ticket, tasks)

    def is_behind(self, claim: Claim) -> bool:
        """Others come first who might get what the claim asks for, or the last slot there is, once more is known."""
        return self.agenda.concerns_wanting(claim) or (self.gates.has_limit and self.agenda.wanting > 0)

    def _lacks(self, claim: Claim, now: int) -> bool:
        return next(self.agenda.lacks(claim, self.gates.is_open, now), None) is not None

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _taskless(self, work_directory: str | None, now: int, type: str, details: dict[str, Any]) -> Entry:
        return Entry(
            seq=self._next_seq(),
            type=type,
            task_id=None,
            work_directory=work_directory,
            priority=None,
            status=None,
            at=now,
            details=_given(details),
        )

    def _entry(self, before: Task, after: Task, now: int, type: str, details: dict[str, Any]) -> Entry:
        return Entry(
            seq=self._next_seq(),
            type=type,
            task_id=after.task_id,
            work_directory=after.work_directory,
            priority=after.priority,
            status=after.status,
            worker_id=after.worker_id or before.worker_id,
            attempt=after.attempt,
            at=now,
            details=_given(details),
            lease_token=after.lease_token if type == "task.claimed" else None,
        )


def _given(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if value is not None}
