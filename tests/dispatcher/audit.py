"""What must be true of a server at any moment, whatever it was asked: of the changes it made, of its record, of its
memory. Knows nothing of the oracle."""

from collections import Counter, defaultdict
from typing import Any

from attrs import define, evolve, field

from dispatcher.directory import Directory
from dispatcher.events import EVENT_TYPES
from dispatcher.ports import Change, Configured, Entry, Notice, Ruling
from dispatcher.rules import Rules
from dispatcher.task import MOVES, Status, Task
from storage.rows import DIRECTORIES, HISTORY, TASKS
from tests.dispatcher.world import World

MOVING = {f"task.{move}" for move in ("claimed", "completed", "failed", "cancelled", "retried", "released")}
UNSEEN = {
    "version",
    "updated_at",
    "has_dependants",
    "tell_from",
    "idempotency_key",
    "request_digest",
    "claim_id",
    "log_lines",
    "log_bytes",
}


@define
class Life:
    """What the history of a task tells about it."""

    status: Status | None = None
    attempt: int = 0
    retries: int = 0
    lost: int = 0
    holder: str | None = None  # the token of the lease that has not ended
    deleted: bool = False

    def read(self, line: Entry) -> None:
        assert not self.deleted, "a line after the last one"
        assert (line.type == "task.created") == (self.status is None)
        assert line.status is not None
        stays = line.status is self.status and line.type not in MOVING
        assert self.status is None or stays or line.status in MOVES[self.status], line
        if line.type == "task.claimed":
            assert self.holder is None, "two hold it"
            assert self.status is Status.WAITING
            self.attempt, self.holder = self.attempt + 1, line.lease_token
        self.retries += line.type == "task.retried"
        self.retries += line.type == "task.lease_expired" and line.status is Status.WAITING
        self.lost += line.type == "task.lease_expired"
        self.status, self.deleted = line.status, line.type == "task.deleted"
        if self.status is not Status.WORKING:
            self.holder = None
        late = line.type == "task.late_result"
        assert line.attempt == self.attempt or late, line


@define
class Audit:
    """To be done after every step; it remembers what it has seen before."""

    world: World
    lives: dict[str, Life] = field(factory=lambda: defaultdict(Life))
    last_seq: int = 0
    last_at: int = 0
    tokens: dict[str, str | None] = field(factory=dict)  # of the leases, by ID/ATTEMPT
    seen: dict[str, Task] = field(factory=dict)
    commits: int = 0
    read_at: int = -1
    recorded: list[Task] = field(factory=list)
    tasks: dict[str, Task] = field(factory=dict)  # by the changes committed so far
    rules: dict[str, Directory] = field(factory=dict)
    in_force: Rules = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.in_force = self.world.rules

    # The changes, one by one

    def changes(self) -> None:
        for batch in self.world.commits[self.commits :]:
            for change in batch:
                if isinstance(change, Ruling):
                    self.rules[change.after.work_directory] = change.after
                elif isinstance(change, Configured):
                    self.in_force = Rules(**change.after.runtime)
                elif not isinstance(change, Notice):
                    self._change(change)
        self.commits = len(self.world.commits)

    def _change(self, change: Change) -> None:
        task = change.after
        newest = self.tasks.get(task.task_id)
        if newest and change.before and change.before.status is Status.COMPLETED and change.before.result is None:
            # It was fetched without its result, which stays on record.
            task, newest = evolve(task, result=newest.result), evolve(newest, result=None)
        assert change.before == newest or _is_gone(change, newest), (
            "it was decided on an old form of the task",
            change.before,
            newest,
        )
        if change.entry and change.entry.type == "task.claimed":
            self._claimed(self.tasks[task.task_id])
        if task.deadline_at is not None:
            assert task.lease_expires_at is not None
            assert task.lease_expires_at <= task.deadline_at
        if change.gone:
            del self.tasks[task.task_id]
        elif change.before is not task:
            self.tasks[task.task_id] = task

    def _claimed(self, task: Task) -> None:
        """It was the turn of this task, and there was a slot for it."""
        assert task.ready
        here = self.rules.get(task.work_directory, Directory(work_directory=task.work_directory))
        assert not here.paused
        assert not here.draining
        working = [other.work_directory for other in self.tasks.values() if other.status is Status.WORKING]
        assert here.max_working is None or working.count(task.work_directory) < here.max_working
        limit = self.in_force.max_concurrent_tasks
        assert not limit or len(working) < limit
        before = [other for other in self.tasks.values() if other.ready and self._goes_before(other, task)]
        assert not before, "an equal one was there before"

    def _goes_before(self, other: Task, task: Task) -> bool:
        """Whatever the claim asked for, it would have got the other one."""
        fits = other.work_directory == task.work_directory and set(other.tags) >= set(task.tags)
        aging = self.in_force.priority_aging_seconds * 1000
        ahead = other.priority.rank - task.priority.rank
        if aging:
            sooner = other.created_at - other.priority.rank * aging <= task.created_at - task.priority.rank * aging
        else:
            sooner = ahead >= 0
        alive = other.expires_at is None or other.expires_at > self.world.now
        return fits and alive and sooner and ahead >= 0 and other.arrival < task.arrival

    # The record

    def read(self) -> list[Task]:
        """The tasks of the record, in order of arrival."""
        if self.read_at != len(self.world.commits):
            self.recorded = [TASKS.value(row) for row in self._rows(f"{TASKS.select} order by arrival")]
            self.read_at = len(self.world.commits)
        return self.recorded

    def record(self) -> None:
        tasks = self.read()
        self._history(tasks)
        self._versions(tasks)
        self._leases(tasks)
        self._side_tables(tasks)

    def _rows(self, sql: str, *values: object) -> list[Any]:
        return self.world.db.execute(sql, values).fetchall()

    def _history(self, tasks: list[Task]) -> None:
        """Its numbers have no gap, its times do not fall, and it explains how each task came to be what it is."""
        for line in map(HISTORY.value, self._rows(f"{HISTORY.select} where seq > ? order by seq", self.last_seq)):
            assert line.seq == self.last_seq + 1
            assert line.at >= self.last_at
            assert line.type in EVENT_TYPES
            self.last_seq, self.last_at = line.seq, line.at
            if line.task_id is not None:
                self.lives[line.task_id].read(line)
            if line.type == "task.claimed":
                assert line.lease_token not in self.tokens.values(), "a token was given out twice"
                self.tokens[f"{line.task_id}/{line.attempt}"] = line.lease_token
        assert {task.task_id for task in tasks} == {name for name, life in self.lives.items() if not life.deleted}
        for task in tasks:
            told = self.lives[task.task_id]
            assert (told.status, told.attempt, told.holder) == (task.status, task.attempt, task.lease_token)
            assert (told.retries, told.lost) == (task.retry_count, task.lost_leases)

    def _versions(self, tasks: list[Task]) -> None:
        """They never fall, and a task that looks different has a higher one."""
        for task in tasks:
            before = self.seen.get(task.task_id, task)
            assert task.version >= before.version
            assert task.version > before.version or task == before or _visible(task) == _visible(before)
            self.seen[task.task_id] = task

    def _leases(self, tasks: list[Task]) -> None:
        """One holder per task, and one task per token."""
        held = [task.lease_token for task in tasks if task.lease_token]
        assert len(held) == len(set(held))
        assert all((task.lease_token is not None) == (task.status is Status.WORKING) for task in tasks)

    def _side_tables(self, tasks: list[Task]) -> None:
        """What is also written elsewhere is the same there."""
        ready = {
            (task.work_directory, tag, task.priority.rank, task.arrival)
            for task in tasks
            if task.ready
            for tag in task.tags
        }
        assert set(self._rows("select * from ready_tags")) == ready
        waiting = [task for task in tasks if task.status is Status.WAITING]
        unmet = {(parent, task.arrival) for task in waiting for parent in task.unmet}
        assert set(self._rows("select * from dependencies")) == unmet
        assert self._rows("select arrival, due_at from tasks") == [(task.arrival, task.due_at) for task in tasks]
        counts = Counter((task.work_directory, task.status) for task in tasks)
        names = ", ".join(Status)
        for path, *numbers in self._rows(f"select work_directory, {names} from work_directories"):
            assert numbers == [counts.pop((path, status), 0) for status in Status]
        assert not counts
        ruled = {rules.work_directory: rules for rules in map(DIRECTORIES.value, self._rows(DIRECTORIES.select))}
        assert all(ruled[path] == rules for path, rules in self.rules.items())
        (seq,) = self._rows("select coalesce(max(seq), 0) from history")[0]
        assert self._rows("select seq from last_numbers") == [(seq,)]

    # The memory

    def memory(self, most: int) -> None:
        """A lane holds its window, or what one claim wanted, and the count of what is here is right."""
        agenda, board = self.world.board.agenda, self.world.board
        lanes = [lane for shelf in agenda._recency.values() for lane in shelf.lanes.values()]
        assert all(len(lane.tasks) < 2 * max(self.world.window, most) for lane in lanes)
        assert agenda._resident == sum(len(lane.tasks) for lane in lanes)
        assert all(lane.tasks == sorted(lane.tasks, key=lambda task: task.arrival) for lane in lanes)
        now_here = [task for lane in lanes for task in lane.tasks] + list(board.working.values())
        assert all(task == self.tasks[task.task_id] for task in now_here)
        assert {name for name, task in self.tasks.items() if task.status is Status.WORKING} == board.working.keys()
        self._alarm()

    def is_all_known(self) -> bool:
        """Where somebody waits, all that lies there is in memory. It need not be: who has waited since before there was
        a limit, or behind a door that was shut, is not served at once then by what comes, but after a lookup, together
        with what the same batch adds: perhaps something more urgent."""
        shelves = self.world.board.agenda._recency.values()
        return all(lane.edge is None for shelf in shelves if shelf.waiters for lane in shelf.lanes.values())

    def _alarm(self) -> None:
        """It wakes up in time for whatever the record says is due."""
        (first,) = self._rows("select min(due_at) from tasks")[0]
        due = self.world.board.next_due()
        assert first is None or (due is not None and due <= first)


def _is_gone(change: Change, newest: Task | None) -> bool:
    """The result of what is deleted need not have been looked at."""
    return change.gone and newest is not None and change.before == evolve(newest, result=None)


def _visible(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in TASKS.columns if name not in UNSEEN}
