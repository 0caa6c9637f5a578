"""What the dispatcher needs from the outside world, and what it hands over."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

from attrs import field, frozen

from dispatcher.configuration import ConfigVersion
from dispatcher.directory import Directory
from dispatcher.fields import Priority
from dispatcher.task import Status, Task

Clock = Callable[[], int]
"""Milliseconds since the epoch; never runs backwards within a process."""


class Mint(Protocol):
    """Makes what must not be guessed or foreseen. Injected, so that decisions can be replayed."""

    def task_id(self, now: int) -> str:
        """A UUIDv7 that sorts after all earlier ones of this process."""

    def lease_token(self) -> str: ...

    def jitter(self) -> float:
        """Evenly spread over -1 to 1."""


@frozen(kw_only=True)
class Entry:
    """One line of the history, and one event of the feed; `seq` grows without gaps."""

    seq: int
    type: str  # one of events.EVENT_TYPES
    task_id: str | None  # None if it is about no task, as are priority and status
    work_directory: str | None  # None if it is about the server
    priority: Priority | None
    status: Status | None
    worker_id: str | None = None
    attempt: int = 0
    at: int
    details: Mapping[str, Any] = field(factory=dict)
    lease_token: str | None = None  # of a claim: never shown, it tells a late worker what became of its lease


@frozen
class LogLine:
    """One line of what the attempts at a task have printed, counted from 1 over all of them."""

    number: int
    attempt: int
    at: int
    line: str


@frozen
class Change:
    """A task in its new form, and the line that explains it. `before` is None for a new task.

    Logs have no line, and of heartbeats only those that tell of progress, one in a while; a late result has a line and
    leaves the task as it was. `gone`: it was deleted, and `after` is what it last was, perhaps without its result.
    `log`: what is new in its log.
    """

    before: Task | None
    after: Task
    entry: Entry | None
    gone: bool = False
    log: tuple[LogLine, ...] = ()


@frozen
class Ruling:
    """New rules for a work directory, and the line that explains them."""

    after: Directory
    entry: Entry


@frozen
class Notice:
    """Something happened to the server itself."""

    entry: Entry


@frozen
class Configured(Notice):
    """The settings were changed."""

    after: ConfigVersion


@frozen
class Told:
    """Another server on the same record has recorded this line."""

    entry: Entry


Changes = Sequence[Change | Ruling | Notice]


@frozen
class LaneKey:
    """Names the ready tasks of one directory and priority that bear all of `tags`."""

    work_directory: str
    priority: Priority
    tags: frozenset[str]


@frozen
class Slice:
    """Wanted: the first `limit` ready tasks of a lane whose arrival is not before `edge`, but none that has expired.

    Unless the more urgent lanes of the same directory and tags, asked for at the same time, have yielded `enough`.
    """

    edge: int
    limit: int
    enough: int


@frozen(kw_only=True)
class Needs:
    """What the board must learn from the record before it can decide a batch."""

    tasks: Set[str] = frozenset()
    parents: Set[str] = frozenset()  # that new ones depend on, or one of many; of those completed no result is needed
    leases: Set[tuple[str, str]] = frozenset()  # (task_id, lease_token)
    lanes: Mapping[LaneKey, Slice] = field(factory=dict)
    keys: Set[str] = frozenset()  # the tasks that idempotency keys stand for
    due: bool = False  # the tasks that fall due up to now
    shared: "SharedNeeds | None" = None  # what else, where others write to the same record
    now: int

    def __bool__(self) -> bool:
        return bool(self.tasks or self.parents or self.leases or self.lanes or self.keys or self.due or self.shared)


@frozen(kw_only=True)
class SharedNeeds:
    """What a board that shares its record must learn besides: nothing stays true behind its back but what it holds
    locked, from here until the batch is committed."""

    arrivals: int = 0  # so many numbers for new tasks
    claims: Set[str] = frozenset()  # the tasks that are worked on under claims of these names
    held: Set[tuple[str, str]] = frozenset()  # (worker_id, work_directory): those that a worker holds there
    ruled: Set[str] = frozenset()  # the work directories whose rules are about to change
    freeing: Set[str] = frozenset()  # of `tasks` and `parents` those that may free a slot
    slots: bool = False  # how many tasks are worked on in all, as there is a limit to it
    settings: bool = False  # the version of the settings, which are about to change
    leased_until: int | None = None  # the tasks whose leases end before

    def __bool__(self) -> bool:
        numbers = self.arrivals, self.leased_until
        return any((*numbers, self.claims, self.held, self.ruled, self.freeing, self.slots, self.settings))


@frozen
class Lease:
    """What the history knows of a lease: whose and which attempt it was, the name of the key that claimed it, the type
    of the entry that ended it, and whether a result came too late."""

    attempt: int
    worker_id: str | None
    claimed_by: str | None
    ended_by: str | None
    has_late_result: bool


@frozen
class Run:
    """Tasks in order of arrival, and the arrival of the next one behind them (None: there is none)."""

    tasks: tuple[Task, ...]
    edge: int | None


@frozen(kw_only=True)
class Found:
    """The answer to Needs: every key that was asked for and needed, None for what does not exist."""

    tasks: Mapping[str, Task | None] = field(factory=dict)
    parents: Mapping[str, Task | None] = field(factory=dict)
    leases: Mapping[tuple[str, str], Lease | None] = field(factory=dict)
    lanes: Mapping[LaneKey, Run] = field(factory=dict)
    keys: Mapping[str, Task | None] = field(factory=dict)
    due: tuple[Task, ...] | None = None  # a slice of them, in order of due_at
    dependants: Mapping[str, Run] = field(factory=dict)  # of those that must tell others of their end: who must hear
    next_due: int | None = None  # due_at of the first task behind that slice
    shared: "SharedFound | None" = None


@frozen(kw_only=True)
class SharedFound:
    """The answer to SharedNeeds. The directories are those of the lanes, of `ruled`, and of all that may free a slot,
    each with the number of its tasks that are worked on."""

    arrivals: Sequence[int] = ()
    tasks: tuple[Task, ...] = ()  # those of claims, of holders, of leases
    directories: Sequence[tuple[Directory, int]] = ()
    working: int = 0
    config_version: int | None = None


@frozen(kw_only=True)
class Snapshot:
    """What a board must know to go on where the last one stopped."""

    last_arrival: int = 0
    last_seq: int = 0
    last_at: int = 0  # no later moment has been recorded
    working: tuple[Task, ...] = ()
    directories: tuple[Directory, ...] = ()  # those that have rules
    next_due: int | None = None
    config_version: int = 0
    runtime: Mapping[str, Any] = field(factory=dict, repr=False)  # what is set at run time, as in ConfigVersion
    was_away: bool = True  # for a while nobody has written to the record, so that no lease could be renewed


class Journal(Protocol):
    """The durable record, as the dispatcher writes it."""

    async def load(self) -> Snapshot: ...

    async def fetch(self, needs: Needs) -> Found:
        """Raises Undone, or RecordFailed."""

    async def commit(self, changes: Changes) -> Changes:
        """Make every change durable, all or none, and end what the last fetch began; the changes as they are on record,
        with the numbers of their lines. Raises, if nothing was written and it may be tried again, NoRoom or
        Undone; if it never will be, RecordFailed."""

    async def release(self) -> None:
        """The same without changes."""

    def stop_waiting(self) -> None:
        """From now on whoever asks is not to wait for a record that is away: RecordFailed."""

    @property
    def short_of_room(self) -> bool:
        """There was NoRoom, and there is none yet."""

    @property
    def is_away(self) -> bool:
        """It has not been reached for so long that it is of no use to wait for it."""
