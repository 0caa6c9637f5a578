"""The history played again in the order of its numbers, and held against the rules, entry by entry.

A small model of every task: each entry must be a legal move of it, no task has two holders, none is completed twice,
and whoever claimed was given the most urgent and oldest task that was ready and that it had asked for.
"""

import json
from collections import Counter
from collections.abc import Callable

from attrs import define, field

from dispatcher.task import MOVES, Status

from .database import Entry, View, entries
from .ledger import Claim, Effect, Kind, Ledger
from .turns import Turns

CREATED = """
    select arrival, tasks.task_id, prompt, tasks.work_directory, tags
    from history join tasks on tasks.task_id = history.task_id where type = 'task.created' and seq > ?"""
HEARD_OF_MS = 2000  # by then all servers know of new settings


@define(eq=False)
class Tenure:
    """What the record says of a lease."""

    claimed: Entry
    end: Entry | None = None


@define(eq=False)
class Course:
    """A task, as its history has led it up to here. `ready`: certainly waiting for nothing but a worker."""

    task_id: str
    arrival: int
    prompt: str
    work_directory: str
    tags: frozenset[str]
    created: Entry | None = None
    status: str = "waiting"
    priority: int = 0
    ready: bool = False
    tenures: list[Tenure] = field(factory=list)
    expired: bool = False  # the last attempt has just been lost for good, and the failure is to follow
    completions: int = 0
    cancelled: Entry | None = None
    since: int = 0  # the entry from which on it has been as ready and as urgent as it is
    passes: int = 0  # how often it was passed over, for a good reason


@define(eq=False)
class Replay:
    """`shared`: several servers have written it."""

    ledger: Ledger
    shared: bool = False
    courses: dict[str, Course] = field(factory=dict)  # by task_id
    tenures: dict[str, Tenure] = field(factory=dict)  # by token
    last_seq: int = 0
    told: list[tuple[str, str | None]] = field(factory=list)  # of each entry: its type and its task_id
    most_seen: int = 0  # so many tasks were worked on at once
    turns: Turns = field(init=False)
    _working: Counter[str] = field(factory=Counter)  # by work directory
    _max_working: dict[str, int] = field(factory=dict)  # by work directory; '' for all of them; 0 for any number
    _limited_from: int = 0  # all servers have heard by then of the limit for all directories
    _paused: set[str] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.turns = Turns(self.ledger, self.seq_of, self.shared)

    def advance(self, db: View) -> None:
        """Take in what has come since the last time."""
        for arrival, task_id, prompt, work_directory, tags in db.execute(CREATED, (self.last_seq,)):
            self.courses[task_id] = Course(task_id, arrival, prompt, work_directory, frozenset(json.loads(tags)))
        for row in entries(db, self.last_seq):
            self._take(row)

    @property
    def open_tasks(self) -> list[Course]:
        return [course for course in self.courses.values() if course.status in ("waiting", "working")]

    def seq_of(self, effect: Effect) -> int | None:
        course, tenure = self.courses.get(effect.key), self.tenures.get(effect.key)
        found = {
            "created": course and course.created,
            "cancelled": course and course.cancelled,
            "claimed": tenure and tenure.claimed,
            "ended": tenure and tenure.end,
        }[effect.kind]
        return found.seq if found else None

    def _take(self, row: Entry) -> None:
        if row.seq != self.last_seq + 1:
            self._find("record", f"after event {self.last_seq} comes {row.seq}", row.task_id)
        self.last_seq = row.seq
        self.told.append((row.type, row.task_id))
        if row.task_id is None:
            self._rule(row)
            return
        course = self.courses.get(row.task_id)
        if course is None or row.type not in READERS:
            self._find("record", f"an entry about an unknown task, or of a type not known here: {row}", row.task_id)
        elif course.created is None and row.type != "task.created":
            self._find("record", f"a history that does not begin with the creation: {row}", row.task_id)
        else:
            self._move(course, row)

    def _rule(self, row: Entry) -> None:
        """About a directory, or about the server."""
        directory = row.work_directory or ""
        if row.type == "directory.updated":
            self._max_working[directory] = json.loads(row.details)["max_working"] or 0
        elif row.type == "config.changed":
            change = json.loads(row.details)["changes"].get("task.max_concurrent_tasks")
            self._max_working[""] = (change and change["to"]) or 0
            self._limited_from = row.at + HEARD_OF_MS
        elif row.type == "directory.paused":
            self._paused.add(directory)
        elif row.type == "directory.resumed":
            self._paused.discard(directory)

    def _move(self, course: Course, row: Entry) -> None:
        before, after = Status(course.status), Status(row.status)
        if after is not before and after not in MOVES[before]:
            self._find("record", f"an illegal move from {before}: {row}", course.task_id)
        was_ready, was_priority = course.ready, course.priority
        if course.ready:
            self.turns.shelf(course.work_directory, course.priority).discard(course)
        READERS[row.type](self, course, row)
        course.status, course.priority = row.status, row.priority
        self._working[course.work_directory] += (after == "working") - (before == "working")
        self.most_seen = max(self.most_seen, self._working.total())
        if (course.ready, course.priority) != (was_ready, was_priority):
            course.since, course.passes = row.seq, 0
        if course.ready:
            self.turns.shelf(course.work_directory, course.priority).add(course)

    # One method for each type of entry; each sees the course as it was before

    def _created(self, course: Course, row: Entry) -> None:
        if course.created:
            self._find("double", f"created twice: {row}", course.task_id)
        course.created = row
        creation = self.ledger.creations.get(course.prompt)
        if creation is None:
            self._find("record", f"nobody has asked for the task {course.prompt!r}", course.task_id)
        course.ready = creation is not None and not creation.body["delay_seconds"]

    def _claimed(self, course: Course, row: Entry) -> None:
        if course.status != "waiting" or (course.tenures and not course.tenures[-1].end):
            self._find("double", f"claimed while it is {course.status}: {row}", course.task_id)
        if row.attempt != len(course.tenures) + 1:
            self._find("record", f"attempt {len(course.tenures) + 1} is called {row.attempt}: {row}", course.task_id)
        claim = self.ledger.claims.get(row.worker_id)
        if claim is None:
            self._find("record", f"nobody has claimed as {row.worker_id!r}", course.task_id)
        else:
            self._check_turn(course, claim, row)
        self._check_limits(course, row)
        tenure = Tenure(row)
        course.tenures.append(tenure)
        self.tenures[row.lease_token] = tenure
        course.ready, course.expired = False, False

    def _check_turn(self, course: Course, claim: Claim, row: Entry) -> None:
        """It asked for this task, and no task that it asked for was before it in turn."""
        if course.work_directory not in claim.directories or not claim.tags <= course.tags:
            self._find("order", f"{claim} got what it has not asked for: {row}", course.task_id)
        if first := self.turns.unfair(course, claim):
            turn = f"{first.task_id} (priority {first.priority}, arrival {first.arrival}, since {first.since})"
            self._find("order", f"{claim} passed over {turn}: {row}, arrival {course.arrival}", course.task_id)

    def _check_limits(self, course: Course, row: Entry) -> None:
        """It is the task itself that comes on top of those."""
        directory = course.work_directory
        most, here = self._max_working.get(directory, 0), self._working[directory]
        if 0 < most <= here:
            self._find("limit", f"{here} were working in {directory}, of at most {most}: {row}", course.task_id)
        most, everywhere = self._max_working.get("", 0), self._working.total()
        if 0 < most <= everywhere and row.at > self._limited_from:
            self._find("limit", f"{everywhere} were working, of at most {most}: {row}", course.task_id)
        if directory in self._paused:
            self._find("limit", f"{directory} was paused: {row}", course.task_id)

    def _ended(self, course: Course, row: Entry) -> None:
        tenure = course.tenures[-1] if course.tenures else None
        if course.status == "working" and not course.expired:
            assert tenure is not None
            tenure.end = row
        elif row.type == "task.failed" and not course.expired:
            self._find("record", f"failed while nobody had it: {row}", course.task_id)
        course.completions += row.type == "task.completed"
        if course.completions > 1:
            self._find("double", f"completed twice: {row}", course.task_id)
        course.expired = row.type == "task.lease_expired" and row.status == "working"
        course.ready = row.status == "waiting" and self._comes_back_at_once(course, row)

    def _comes_back_at_once(self, course: Course, row: Entry) -> bool:
        """Not where somebody asked for a delay."""
        lease = self.ledger.leases.get(course.tenures[-1].claimed.lease_token or "") if course.tenures else None
        details = json.loads(row.details)
        if row.type == "task.lease_expired" or details.get("reason") == "undelivered":
            return True
        body = lease.end[1] if lease and lease.end else {}
        return body.get("retry_after_seconds" if row.type == "task.retried" else "delay_seconds") == 0

    def _retried(self, course: Course, row: Entry) -> None:
        if "automatic" in json.loads(row.details):
            self._ended(course, row)
            return
        if course.task_id not in self.ledger.asked["retry"]:
            self._find("record", f"nobody has asked for this: {row}", course.task_id)
        course.ready = True

    def _cancelled(self, course: Course, row: Entry) -> None:
        if course.task_id not in self.ledger.asked["cancel"]:
            self._find("record", f"nobody has asked for this: {row}", course.task_id)
        course.cancelled = row
        self._ended(course, row)

    def _available(self, course: Course, row: Entry) -> None:
        course.ready = True

    def _unchanged(self, course: Course, row: Entry) -> None:
        """Progress, a late result, or an edit."""

    def _find(self, kind: Kind, text: str, task_id: str) -> None:
        self.ledger.find(kind, text, task_id)


READERS: dict[str, Callable[[Replay, Course, Entry], None]] = {
    "task.created": Replay._created,
    "task.claimed": Replay._claimed,
    "task.completed": Replay._ended,
    "task.failed": Replay._ended,
    "task.released": Replay._ended,
    "task.lease_expired": Replay._ended,
    "task.retried": Replay._retried,
    "task.cancelled": Replay._cancelled,
    "task.available": Replay._available,
    "task.progress": Replay._unchanged,
    "task.updated": Replay._unchanged,
    "task.late_result": Replay._unchanged,
}
