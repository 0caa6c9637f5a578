"""What a task is, and the moves its life allows. Times are milliseconds since the epoch."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from attrs import evolve, frozen

from dispatcher.fields import OnDependencyFailure, Priority


class Status(StrEnum):
    WAITING = "waiting"
    WORKING = "working"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES = {
    Status.WAITING: frozenset({Status.WORKING, Status.CANCELLED}),
    Status.WORKING: frozenset({Status.COMPLETED, Status.FAILED, Status.WAITING, Status.CANCELLED}),
    Status.FAILED: frozenset({Status.WAITING, Status.CANCELLED}),
    Status.COMPLETED: frozenset[Status](),
    Status.CANCELLED: frozenset[Status](),
}


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
"""Nobody works on it any more; a failed task may yet be retried."""


def allowed_from(status: Status) -> list[Status]:
    """The statuses from which a task may move to `status`."""
    return [before for before, after in MOVES.items() if status in after]


@frozen(kw_only=True)
class Task:
    # Who it is: set once, at creation.
    arrival: int  # grows by one per task: the key in memory and on disk, and the order of equals
    task_id: str
    created_at: int
    created_by: str | None = None
    idempotency_key: str | None = None  # while it still stands for this task
    request_digest: str | None = None  # of the request that bore the key

    # What was asked for.
    work_directory: str
    prompt: str
    priority: Priority = Priority.MEDIUM
    tags: tuple[str, ...] = ()
    max_retries: int
    auto_retry: bool = False
    retry_delay_seconds: float = 10
    timeout_seconds: float
    expires_at: int | None = None
    depends_on: tuple[str, ...] = ()
    on_dependency_failure: OnDependencyFailure = "wait"
    metadata: str = "{}"  # JSON, of which only the names of its members mean something here

    # Where it stands.
    status: Status = Status.WAITING
    ready: bool = True  # waiting, and nothing but a worker is missing
    available_at: int
    unmet: tuple[str, ...] = ()  # those of depends_on that it still waits for
    has_dependants: bool = False  # others wait for it, or did so once
    tell_from: int | None = None  # it has ended, and of those that wait for it the ones from this arrival on must hear
    retry_count: int = 0
    lost_leases: int = 0
    version: int = 1
    updated_at: int

    # The current attempt, or the latest one.
    attempt: int = 0
    claimed_by: str | None = None  # the name of the key
    worker_id: str | None = None
    claim_id: str | None = None  # its claim's name for itself
    lease_token: str | None = None
    lease_seconds: float | None = None  # None: the lease lasts as long as the attempt may
    lease_expires_at: int | None = None
    deadline_at: int | None = None
    started_at: int | None = None
    progress: Mapping[str, object] | None = None
    progress_told_at: int | None = None  # when the history was last told of it

    log_lines: int = 0  # of all attempts; the version does not tell of them
    log_bytes: int = 0  # in these lines, as UTF-8

    # How it ended.
    completed_at: int | None = None
    result: object = None
    error_message: str | None = None

    def move(self, to: Status, now: int, *, ready: bool = False, **changes: Any) -> "Task":
        """The task after a legal move; an illegal one raises, and nothing happens."""
        assert to in MOVES[self.status], f"{self.status} -> {to}"
        return self.change(now, status=to, ready=ready, **changes)

    def change(self, now: int, **changes: Any) -> "Task":
        return evolve(self, version=self.version + 1, updated_at=now, **changes)

    def leased_by(self, token: str) -> bool:
        return self.status is Status.WORKING and self.lease_token == token

    @property
    def due_at(self) -> int | None:
        """When something happens to it by itself; None if never."""
        if self.status is Status.WORKING:
            return self.lease_expires_at
        if self.status is not Status.WAITING:
            return None if self.tell_from is None else self.completed_at
        moments = [self.expires_at, None if self.ready or self.unmet else self.available_at]
        return min((at for at in moments if at is not None), default=None)
