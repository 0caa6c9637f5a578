"""The record in a few dicts and lists, and every question answered by looking through all of it.

Nobody has to lock anything here: nothing else happens between a fetch and its commit.
"""

from collections.abc import Iterable
from typing import Any

from attrs import define, evolve, field

from dispatcher.configuration import ConfigVersion
from dispatcher.directory import Directory
from dispatcher.errors import RecordFailed
from dispatcher.ports import (
    Change,
    Changes,
    Configured,
    Entry,
    Found,
    LaneKey,
    Lease,
    Needs,
    Ruling,
    Run,
    SharedFound,
    SharedNeeds,
    Slice,
    Snapshot,
)
from dispatcher.task import Status, Task

ENDS = ("completed", "failed", "cancelled", "retried", "released", "lease_expired")


@define
class MemoryJournal:
    """For a board of its own, or for several that share it."""

    due_slice: int = 256
    dependants_slice: int = 256
    tasks: dict[int, Task] = field(factory=dict)  # by arrival
    history: list[Entry] = field(factory=list)
    directories: dict[str, Directory] = field(factory=dict)
    versions: list[ConfigVersion] = field(factory=list)
    last_arrival: int = 0
    short_of_room: bool = False
    is_away: bool = False

    def stop_waiting(self) -> None:
        pass

    async def release(self) -> None:
        pass

    async def load(self) -> Snapshot:
        ruled = [it for it in self.directories.values() if it.max_working is not None or it.paused or it.draining]
        return Snapshot(
            last_arrival=max(self.last_arrival, *self.tasks, 0),
            last_seq=len(self.history),
            last_at=self.history[-1].at if self.history else 0,
            working=tuple(task for task in self._in_order() if task.status is Status.WORKING),
            directories=tuple(ruled),
            next_due=min((task.due_at for task in self.tasks.values() if task.due_at is not None), default=None),
            config_version=len(self.versions),
            runtime=self.versions[-1].runtime if self.versions else {},
        )

    # Writing

    async def commit(self, changes: Changes) -> Changes:
        tasks = dict(self.tasks)
        for change in changes:
            if isinstance(change, Change):
                _write(tasks, change)
        keys = [task.idempotency_key for task in tasks.values() if task.idempotency_key]
        names = [task.task_id for task in tasks.values()]
        if len(keys) != len(set(keys)) or len(names) != len(set(names)):
            raise RecordFailed("two tasks bear the same name")
        self.last_arrival = max(self.last_arrival, *tasks, 0)
        self.tasks = tasks
        return [self._tell(change) for change in changes]

    def _tell(self, change: Any) -> Any:
        if isinstance(change, Ruling):
            self.directories[change.after.work_directory] = change.after
        if isinstance(change, Configured):
            self.versions.append(change.after)
        if change.entry is None:
            return change
        self.history.append(evolve(change.entry, seq=len(self.history) + 1))
        return evolve(change, entry=self.history[-1])

    # Reading

    async def fetch(self, needs: Needs) -> Found:
        due, dependants, next_due = self._due(needs.now) if needs.due else (None, {}, None)
        return Found(
            tasks={name: self.find(name) for name in needs.tasks},
            parents={name: without_result(self.find(name)) for name in needs.parents},
            leases={(name, token): self._lease(name, token) for name, token in needs.leases},
            lanes=self._lanes(needs),
            keys={key: next((it for it in self._in_order() if it.idempotency_key == key), None) for key in needs.keys},
            due=due,
            dependants=dependants,
            next_due=next_due,
            shared=self._shared(needs, needs.shared or SharedNeeds()),
        )

    def find(self, task_id: str) -> Task | None:
        return next((task for task in self.tasks.values() if task.task_id == task_id), None)

    def ready(self, key: LaneKey, now: int) -> list[Task]:
        """All of a lane that has not expired."""
        lane = (it for it in self._in_order() if (it.work_directory, it.priority) == (key.work_directory, key.priority))
        return [
            it
            for it in lane
            if it.ready and key.tags <= set(it.tags) and (it.expires_at is None or it.expires_at > now)
        ]

    def overdue(self, now: int) -> list[Task]:
        """In order of their time."""
        due = [(task.due_at, task) for task in self._in_order() if task.due_at is not None and task.due_at <= now]
        return [task for _, task in sorted(due, key=lambda pair: pair[0])]

    def dependants(self, task: Task) -> list[Task]:
        """Those who are yet to hear of its end."""
        waiting = (it for it in self._in_order() if it.status is Status.WAITING and task.task_id in it.unmet)
        return [it for it in waiting if task.tell_from is not None and it.arrival >= task.tell_from]

    def working_in(self, path: str) -> int:
        return sum(it.work_directory == path for it in self.tasks.values() if it.status is Status.WORKING)

    def _in_order(self) -> Iterable[Task]:
        return (self.tasks[arrival] for arrival in sorted(self.tasks))

    def _lease(self, task_id: str, token: str) -> Lease | None:
        lines = [line for line in self.history if line.task_id == task_id]
        claim = next((line for line in lines if line.type == "task.claimed" and line.lease_token == token), None)
        if claim is None:
            return None
        same = [line for line in lines if line.attempt == claim.attempt]
        ends = (line.type for line in same if line.seq > claim.seq and line.type.removeprefix("task.") in ENDS)
        is_late = any(line.type == "task.late_result" for line in same)
        return Lease(claim.attempt, claim.worker_id, claim.details.get("claimed_by"), next(ends, None), is_late)

    def _lanes(self, needs: Needs) -> dict[LaneKey, Run]:
        runs: dict[LaneKey, Run] = {}
        for key, slice in sorted(needs.lanes.items(), key=lambda lane: -lane[0].priority.rank):
            more_urgent = [run for other, run in runs.items() if _shelf(other) == _shelf(key)]
            if sum(len(run.tasks) for run in more_urgent) < slice.enough:
                runs[key] = self._run(key, slice, needs.now)
        return runs

    def _run(self, key: LaneKey, slice: Slice, now: int) -> Run:
        lane = [task for task in self.ready(key, now) if task.arrival >= slice.edge]
        return _cut(lane, slice.limit)

    def _due(self, now: int) -> tuple[tuple[Task, ...], dict[str, Run], int | None]:
        due, room = [], self.dependants_slice
        dependants: dict[str, Run] = {}
        for task in self.overdue(now)[: self.due_slice]:
            if task.tell_from is not None:
                if not room:
                    break
                dependants[task.task_id] = _cut(self.dependants(task), room)
                room -= len(dependants[task.task_id].tasks)
            due.append(task)
        behind = [it.due_at for it in self.tasks.values() if it.due_at is not None and it not in due]
        return tuple(due), dependants, min(behind, default=None)

    def _shared(self, needs: Needs, shared: SharedNeeds) -> SharedFound:
        arrivals = range(self.last_arrival + 1, self.last_arrival + 1 + shared.arrivals)
        self.last_arrival += shared.arrivals
        working = [task for task in self._in_order() if task.status is Status.WORKING]
        soonest = shared.leased_until or 0
        wanted = [
            it
            for it in working
            if it.claim_id in shared.claims
            or (it.worker_id, it.work_directory) in shared.held
            or (it.due_at or 0) < soonest
        ]
        due = self._due(needs.now)[0] if needs.due else ()
        freeing = [it for it in working if it.task_id in shared.freeing or it in due]
        paths = {key.work_directory for key in needs.lanes} | shared.ruled | {it.work_directory for it in freeing}
        rules = [self.directories.get(path, Directory(work_directory=path)) for path in sorted(paths)]
        return SharedFound(
            arrivals=tuple(arrivals),
            tasks=tuple(wanted),
            directories=[(it, self.working_in(it.work_directory)) for it in rules],
            working=len(working) if shared.slots else 0,
            config_version=len(self.versions) if shared.settings else None,
        )


def _write(tasks: dict[int, Task], change: Change) -> None:
    if change.after is change.before and not change.gone:
        return  # only its line, or its log
    recorded = tasks.get(change.after.arrival)
    if (recorded and recorded.version) != (change.before and change.before.version):
        raise RecordFailed("the record and the board disagree about a task's version")
    if change.gone:
        del tasks[change.after.arrival]
    else:
        tasks[change.after.arrival] = change.after


def without_result(task: Task | None) -> Task | None:
    return evolve(task, result=None) if task and task.status is Status.COMPLETED else task


def _shelf(key: LaneKey) -> tuple[str, frozenset[str]]:
    return key.work_directory, key.tags


def _cut(tasks: list[Task], limit: int) -> Run:
    return Run(tuple(tasks[:limit]), tasks[limit].arrival if len(tasks) > limit else None)
