"""Everything that can be asked of the dispatcher. A message is a value: it can be logged, compared, replayed.

Names, units and bounds are those of the wire contract; durations are seconds, `Instant`s milliseconds
since the epoch. Fields marked INTERNAL come from the server, never from a body.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, Final, Generic, Literal, NewType, TypeVar

from attrs import field, frozen

from dispatcher.caller import ANYONE, Caller
from dispatcher.directory import Directory
from dispatcher.errors import Refusal
from dispatcher.fields import (
    UNSET,
    DelaySeconds,
    DependsOn,
    DependsOnInBatch,
    ErrorMessage,
    Instant,
    Json,
    JsonObject,
    LeaseSeconds,
    LeaseToken,
    LogLines,
    MaxRetries,
    MaxWorking,
    OnDependencyFailure,
    Percent,
    Priority,
    ProgressMessage,
    Prompt,
    Reason,
    Ref,
    RetryDelaySeconds,
    Seconds,
    Tags,
    Unset,
    WorkDirectory,
    WorkerId,
)
from dispatcher.record import Filter
from dispatcher.rules import Rules
from dispatcher.task import Task

R = TypeVar("R", covariant=True)

INTERNAL: Final = {"internal": True}
FOREVER: Final = inf

Ticket = NewType("Ticket", int)
"""The number of a parked claim: its place in the turn."""


@frozen(kw_only=True)
class Message(Generic[R]):
    """A request to the dispatcher; R is the type of its reply. What `by` may not see is as if it were not there."""

    by: Caller = field(default=ANYONE, metadata=INTERNAL)


@frozen
class Created:
    """`replayed`: it was there already."""

    task: Task
    replayed: bool = False


@frozen(kw_only=True)
class Create(Message["Created"]):
    """A new task. Without `max_retries` or `timeout_seconds` the server's settings apply.

    Said again with the same `idempotency_key` within IDEMPOTENCY_HOURS, or while its task lives, it gets that task.
    """

    work_directory: WorkDirectory
    prompt: Prompt
    priority: Priority = Priority.MEDIUM
    tags: Tags = ()
    max_retries: MaxRetries | None = None
    auto_retry: bool = False
    retry_delay_seconds: RetryDelaySeconds = 10
    timeout_seconds: Seconds | None = None
    run_at: Instant | None = None
    delay_seconds: DelaySeconds | None = None
    expires_at: Instant | None = None
    depends_on: DependsOn = ()
    on_dependency_failure: OnDependencyFailure = "wait"
    metadata: JsonObject = field(factory=dict)
    idempotency_key: str | None = field(default=None, metadata=INTERNAL)
    request_digest: str | None = field(default=None, metadata=INTERNAL)

    def idempotency_keys(self) -> Iterable[str]:
        """Under which its task may be kept."""
        return (self.idempotency_key,) if self.idempotency_key else ()

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.run_at is not None and self.delay_seconds is not None:
            yield "delay_seconds", "cannot be given together with run_at"


@frozen(kw_only=True)
class Draft(Create):
    """One of many: others of the batch may depend on it as `ref:NAME`."""

    ref: Ref | None = None
    depends_on: DependsOnInBatch = ()


@frozen
class CreateMany(Message[tuple[Created | Refusal | None, ...]]):
    """New tasks, in this order; None stands for one that was refused before. If `atomic`, all or none.

    Said again with the same `idempotency_key`, it gets the tasks that were made; what was refused is tried again.
    """

    drafts: tuple[Draft | None, ...]
    atomic: bool = True
    idempotency_key: str | None = None
    request_digest: str | None = None

    def idempotency_keys(self) -> Iterable[str]:
        """Under which its tasks may be kept: the first one that was made under the key, the others by their places."""
        if self.idempotency_key:
            yield self.idempotency_key
            yield from (f"{self.idempotency_key}\n{place}" for place in range(len(self.drafts)))


@frozen(kw_only=True)
class Claim(Message[tuple[Task, ...]]):
    """Up to `limit` ready tasks: highest priority first, then oldest.

    With nothing ready it is parked for `wait_seconds` (FOREVER: until the caller leaves) and answered with
    what comes first, or with () when the time is over. Only tasks that bear all `tags` count.
    Said again with the same `claim_id` while its leases live, it gets the same tasks.
    """

    work_directories: tuple[str, ...]
    worker_id: str | None = None
    limit: int = 1
    wait_seconds: float = 0
    lease_seconds: float | None = None
    tags: tuple[str, ...] = ()
    claim_id: str | None = None


@frozen(kw_only=True)
class Progress:
    percent: Percent | None = None
    message: ProgressMessage | None = None


@frozen(kw_only=True)
class Heartbeat(Message[Task]):
    """I am alive: renew my lease, by its first length or by `lease_seconds` from now on.

    `metadata` is merged into the task's: each member given takes the place of the one of its name, null takes it away,
    and the others stay.
    """

    task_id: str = field(metadata=INTERNAL)
    lease_token: LeaseToken
    lease_seconds: LeaseSeconds | None = None
    progress: Progress | None = None
    metadata: JsonObject | None = None


@frozen(kw_only=True)
class Complete(Message[Task]):
    """The outcome of an attempt. Said again with the same token, it gets the stored outcome."""

    task_id: str = field(metadata=INTERNAL)
    original_prompt: Prompt | None = None
    result: Json = None
    status: Literal["completed", "failed"] = "completed"
    error_message: ErrorMessage | None = None
    worker_id: WorkerId | None = None
    lease_token: LeaseToken | None = None


@frozen(kw_only=True)
class Fail(Message[Task]):
    """The attempt failed. `retryable` overrules the task's `auto_retry`."""

    task_id: str = field(metadata=INTERNAL)
    error_message: ErrorMessage
    retryable: bool | None = None
    retry_after_seconds: DelaySeconds | None = None
    lease_token: LeaseToken | None = None


@frozen(kw_only=True)
class Release(Message[Task]):
    """Give the task back unfinished; no retry is burnt."""

    task_id: str = field(metadata=INTERNAL)
    lease_token: LeaseToken
    delay_seconds: DelaySeconds | None = None
    reason: Reason | None = None


@frozen(kw_only=True)
class Log(Message[Task]):
    """More of what the attempt prints. It renews no lease, and what is said twice is kept twice."""

    task_id: str = field(metadata=INTERNAL)
    lines: LogLines
    lease_token: LeaseToken | None = None


@frozen(kw_only=True)
class Cancel(Message[Task]):
    """Nobody is to work on it. A task that is being worked on needs `force`: its lease is void at once."""

    task_id: str = field(metadata=INTERNAL)
    reason: Reason | None = None
    force: bool = False


@frozen(kw_only=True)
class Retry(Message[Task]):
    """A failed task is to be tried once more."""

    task_id: str = field(metadata=INTERNAL)


@frozen(kw_only=True)
class Edit(Message[Task]):
    """Say it differently: tags and metadata at any time, the rest while nobody works on it and it may still be run.

    What is not given stays. `run_at` null means at once. With `if_version`, only if that is the task's version.
    """

    task_id: str = field(metadata=INTERNAL)
    if_version: int | None = field(default=None, metadata=INTERNAL)
    tags: Tags | Unset = UNSET
    metadata: JsonObject | Unset = UNSET
    priority: Priority | Unset = UNSET
    prompt: Prompt | Unset = UNSET
    max_retries: MaxRetries | Unset = UNSET
    run_at: Instant | Unset | None = UNSET


@frozen(kw_only=True)
class Delete(Message[None]):
    """Forget a task that is over; its history stays."""

    task_id: str = field(metadata=INTERNAL)
    if_version: int | None = field(default=None, metadata=INTERNAL)


Action = Literal["cancel", "retry", "delete", "priority"]


@frozen
class Steered:
    """What came of it: `matched` is `changed` and the number of those skipped, each with what refused it."""

    matched: int
    changed: int
    skipped: tuple[tuple[str, Refusal], ...]


@frozen(kw_only=True)
class SteerMany(Message[Steered]):
    """To each of these tasks, in this order, what Cancel, Retry, Delete, or Edit of the `priority` would do to it.

    Those to which it may not be done are skipped, and leave the others alone. With `only`, a task counts if in its turn
    it is what that means; if not, it is passed over. A `dry_run` tells the same, and changes nothing.
    """

    task_ids: tuple[str, ...]
    action: Action
    only: Filter | None = None
    priority: Priority | None = None
    reason: str | None = None
    dry_run: bool = False


@frozen(kw_only=True)
class Regulate(Message[Directory]):
    """New rules for a work directory; what is not given stays. Draining: whoever holds a task there finishes it, nobody
    gets another."""

    work_directory: WorkDirectory = field(metadata=INTERNAL)
    max_working: MaxWorking | Unset | None = UNSET
    paused: bool | Unset = UNSET
    paused_reason: Reason | Unset | None = UNSET
    paused_until: Instant | Unset | None = UNSET
    draining: bool | Unset = field(default=UNSET, metadata=INTERNAL)


@frozen(kw_only=True)
class Reconfigure(Message[int]):
    """The server is to go by these rules from now on; the reply is the number of the new version of the settings. With
    `if_version`, only if that is their version until then. The rest is as in ConfigVersion."""

    rules: Rules
    if_version: int | None = None
    who: str
    reason: str | None = None
    changes: Mapping[str, Any]
    runtime: Mapping[str, Any] = field(repr=False)


@frozen
class Held(Message[tuple[Task, ...]]):
    """The tasks that this worker holds now in one directory."""

    worker_id: str
    work_directory: str


@frozen
class Tick(Message[None]):
    """Time has passed: act on whatever has fallen due."""


@frozen
class Heed(Message[None]):
    """Others who share the record have done something there that may concern those who wait in these directories; until
    when others are paused; when the next of all tasks falls due."""

    work_directories: tuple[str, ...] = ()
    pauses: tuple[tuple[int, str], ...] = ()
    due: int | None = None


@frozen
class Adopt(Message[None]):
    """Another server has changed the settings: these rules hold from now on, under that version."""

    rules: Rules
    version: int


@frozen
class Leave(Message[None]):
    """The caller behind a parked claim has gone."""

    ticket: Ticket


@frozen
class Resume(Message[None]):
    """The server was away: no lease ends within the restart grace, for nobody could renew it."""


@frozen
class Drain(Message[None]):
    """Answer every parked claim now, and park no more."""


LeaseMessage = Heartbeat | Complete | Fail | Release | Log
"""What the holder of a lease says about its task."""

TaskMessage = LeaseMessage | Cancel | Retry | Edit | Delete
"""The messages that speak about one task by its id."""
