"""One task as the contract tells of it, in the plainest words there are. Shares no code with the real one."""

from collections.abc import Iterable
from typing import Any

from attrs import define, evolve, field

from dispatcher.fields import UNSET, to_json
from dispatcher.messages import Complete, Create, Edit, Fail, Heartbeat, Log, Release

NEVER = float("inf")
ENDED = ("completed", "failed", "cancelled")
LOSSES = {"lost": "expired", "released": "released", "cancelled": "cancelled"}


@define(eq=False)
class Job:
    number: int
    create: Create  # as it was last edited
    parents: tuple[str, ...]
    created_at: int
    available_at: int
    available: bool  # its time has come
    unmet: list[str]
    status: str = "waiting"
    attempt: int = 0
    worker: str | None = None
    key: str | None = None  # the one it was claimed with
    claim_id: str | None = None
    lease: float | None = None
    lease_ends: int | None = None
    deadline: int | None = None
    started_at: int | None = None
    progress: dict[str, Any] | None = None
    steps: int = 0  # of progress that were told
    step_at: int | None = None  # the last one of this attempt
    ended_at: int | None = None
    retries: int = 0
    lost: int = 0
    error: str | None = None
    result: Any = None
    printed: list[tuple[int, int, str]] = field(factory=list)  # attempt, time and text of each line
    reason: str | None = None  # why it was cancelled
    has_children: bool = False  # others wait for it, or did so once
    tell: int | None = None  # it has ended, and its children from this number on have yet to hear of it
    touched: bool = False  # no longer what it was when it was created
    deleted: bool = False
    tokens: dict[str, tuple[int, str | None]] = field(factory=dict)  # as ID/ATTEMPT: attempt, and how it ended
    keys: dict[str, str | None] = field(factory=dict)  # with which each was claimed
    late: list[str] = field(factory=list)  # leases with a result that came too late

    @property
    def id(self) -> str:
        return f"task-{self.number}"

    @property
    def ready(self) -> bool:
        return self.status == "waiting" and self.available and not self.unmet

    @property
    def token(self) -> str | None:
        return next((token for token, (_, end) in self.tokens.items() if end is None), None)

    @property
    def retries_left(self) -> bool:
        return self.retries < self.create.max_retries

    def summary(self) -> dict[str, Any]:
        return {
            "arrival": self.number,
            "task_id": self.id,
            "status": self.status,
            "priority": self.create.priority,
            "tags": self.create.tags,
            "prompt": self.create.prompt,
            "depends_on": self.parents,
            "unmet": tuple(self.unmet),
            "ready": self.ready,
            "created_at": self.created_at,
            "available_at": self.available_at,
            "attempt": self.attempt,
            "claimed_by": self.key,
            "worker_id": self.worker,
            "lease_token": self.token,
            "lease_expires_at": self.lease_ends,
            "deadline_at": self.deadline,
            "started_at": self.started_at,
            "progress": self.progress,
            "metadata": to_json(self.create.metadata),
            "completed_at": self.ended_at,
            "retry_count": self.retries,
            "lost_leases": self.lost,
            "log_lines": len(self.printed),
            "log_bytes": _size(line for *_, line in self.printed),
            "error_message": self.error,
            "result": self.result,
        }

    # What happens to it

    def lend(self, claim: Any, now: int) -> None:
        self.touched = True
        self.attempt += 1
        self.tokens[f"{self.id}/{self.attempt}"] = (self.attempt, None)
        self.keys[f"{self.id}/{self.attempt}"] = claim.by.name
        self.status, self.key, self.worker, self.claim_id, self.lease = (
            "working",
            claim.by.name,
            claim.worker_id,
            claim.claim_id,
            claim.lease_seconds,
        )
        self.started_at, self.progress, self.step_at = now, None, None
        self.deadline = now + round(self.create.timeout_seconds * 1000)
        self.renew(now)

    def renew(self, now: int) -> None:
        assert self.deadline is not None
        self.lease_ends = self.deadline if self.lease is None else min(now + round(self.lease * 1000), self.deadline)

    def spare(self, until: int) -> None:
        """Its lease does not end before."""
        assert self.lease_ends is not None
        assert self.deadline is not None
        self.lease_ends, self.deadline = max(self.lease_ends, until), max(self.deadline, until)

    def end(self, status: str, now: int, how: str, error: str | None = None, result: Any = None) -> None:
        self._end_lease(how)
        self.status, self.error, self.result, self.ended_at = status, error, result, now
        self.tell = 0 if self.has_children else None

    def back(self, how: str, available_at: int, now: int, error: str | None = None) -> None:
        self._end_lease(how)
        self.status, self.available_at, self.worker, self.started_at = "waiting", available_at, None, None
        self.available, self.progress = available_at <= now, None
        self.error = error or self.error

    def retry(self, now: int) -> None:
        self.touched = True
        self.status, self.retries, self.worker, self.result = "waiting", self.retries + 1, None, None
        self.started_at = self.ended_at = self.tell = self.progress = None
        self.available_at = max(now, self.available_at)
        self.available = self.available_at <= now

    def edit(self, edit: Edit, now: int) -> None:
        for name in ("tags", "priority", "prompt", "max_retries", "metadata"):
            if (said := getattr(edit, name)) is not UNSET:
                self.create, self.touched = evolve(self.create, **{name: said}), True
        if edit.run_at is not UNSET:
            self.touched = True
            self.available_at = max(now, edit.run_at or 0)
            self.available = self.available_at <= now

    def hear_of(self, parent: "Job", now: int) -> None:
        """One that it waits for has ended, and perhaps it need not wait for it any more."""
        policy = self.create.on_dependency_failure
        if self.status != "waiting" or parent.id not in self.unmet:
            return
        if parent.status == "completed" or (parent.status in ENDED and policy == "run"):
            self.touched = True
            self.unmet.remove(parent.id)
            self.available = self.available_at <= now
        elif parent.status in ENDED and policy == "cancel":
            self.end("cancelled", now, "cancelled", self.error)
            self.reason = "dependency_failed"

    def _end_lease(self, how: str) -> None:
        self.touched = True
        self.tokens = {token: (attempt, was or how) for token, (attempt, was) in self.tokens.items()}
        self.lease = self.lease_ends = self.deadline = self.claim_id = self.key = None

    # What falls due

    def due(self) -> float:
        if self.status == "working":
            return self.lease_ends or NEVER
        if self.status != "waiting":
            return NEVER if self.tell is None or self.ended_at is None else self.ended_at
        opens = NEVER if self.available or self.unmet else self.available_at
        return min(opens, NEVER if self.create.expires_at is None else self.create.expires_at)

    def expired(self, now: int) -> bool:
        return self.create.expires_at is not None and self.create.expires_at <= now

    def fall_due(self, now: int) -> None:
        if self.status == "working":
            self._lose(now)
        elif self.expired(now):
            self.end("cancelled", now, "cancelled", self.error)
            self.reason = "expired"
        else:
            self.available = self.touched = True

    def _lose(self, now: int) -> None:
        over = "ran longer than timeout_seconds" if self.lease_ends == self.deadline else "stopped renewing its lease"
        self.lost += 1
        if self.retries_left:
            self.retries += 1
            self.back("lost", now, now, f"attempt {self.attempt}: the worker {over}")
        else:
            times = f"{self.lost} time{'s' * (self.lost > 1)}"
            self.end("failed", now, "lost", f"the worker was lost {times}; in the last attempt it {over}")

    # What its holder says

    def hear(self, message: Any, now: int, token_required: bool, log_max: tuple[int, int]) -> Any:
        """None if it was accepted, else the answer."""
        if refusal := self._refusal(message, token_required):
            return refusal
        if isinstance(message, Log):
            lines = [*(line for *_, line in self.printed), *message.lines]
            if len(lines) > log_max[0] or _size(lines) > log_max[1]:
                return "LogFull"
        if isinstance(message, Complete) and message.original_prompt not in (None, self.create.prompt):
            return "PromptMismatch"
        match message:
            case Heartbeat():
                self.touched = True
                for name, value in (message.metadata or {}).items():
                    others = {other: its for other, its in self.create.metadata.items() if other != name}
                    self.create = evolve(self.create, metadata=others | ({name: value} if value is not None else {}))
                self.lease = message.lease_seconds or self.lease
                self.renew(now)
                if said := message.progress:
                    before, self.progress = self.progress, {"percent": said.percent, "message": said.message}
                    if self.progress != before and (self.step_at is None or now - self.step_at >= 1000):
                        self.steps, self.step_at = self.steps + 1, now
            case Complete(status="completed"):
                self.end("completed", now, "completed", message.error_message, message.result)
            case Complete():
                self._fail(message, self.create.auto_retry, now)
            case Fail():
                self._fail(message, self.create.auto_retry if message.retryable is None else message.retryable, now)
            case Log():
                self.printed += [(self.attempt, now, line) for line in message.lines]
            case Release():
                self.back("released", now + round((message.delay_seconds or 0) * 1000), now)
        return None

    def _fail(self, message: Any, again: bool, now: int) -> None:
        if not again or not self.retries_left:
            self.end("failed", now, "failed", message.error_message, getattr(message, "result", None))
            return
        delay = min(self.create.retry_delay_seconds * 2**self.retries, 3600)
        if getattr(message, "retry_after_seconds", None) is not None:
            delay = message.retry_after_seconds
        self.back("retried", now + round(delay * 1000), now, message.error_message)
        self.retries += 1

    def _refusal(self, message: Any, token_required: bool) -> Any:
        """None if the message's sender holds the task."""
        if message.lease_token is None:
            if token_required:
                return "LeaseTokenRequired"
            if self.status != "working":
                return "InvalidState"
            worker = getattr(message, "worker_id", None)
            return "LeaseLost reassigned" if worker and worker != self.worker else _foreign(message, self.key)
        if message.lease_token not in self.tokens:
            return "LeaseLost unknown_token"
        attempt, end = self.tokens[message.lease_token]
        if end is None or _foreign(message, self.keys[message.lease_token]):
            return _foreign(message, self.keys[message.lease_token])
        verb = message.status if isinstance(message, Complete) else "failed" if isinstance(message, Fail) else None
        again = end == verb == self.status or (end == "retried" and verb == "failed")
        if again and attempt == self.attempt:
            return self.summary()
        if verb and message.lease_token not in self.late:
            self.late.append(message.lease_token)
        return "LeaseLost " + ("reassigned" if attempt < self.attempt else LOSSES.get(end, "finished"))


def _foreign(message: Any, key: str | None) -> Any:
    is_mine = key is None or message.by.name == key
    return None if is_mine or "admin" in message.by.scopes else "NotTheHolder"


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) for line in lines)
