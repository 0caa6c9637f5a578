"""A naive board: every task in one list, every question answered by looking through all of it.

It says what the contract says in the plainest words there are, and shares no code with the real board.
"""

from typing import Any

from attrs import define, evolve, field

from dispatcher.fields import UNSET
from dispatcher.messages import (
    FOREVER,
    Cancel,
    Claim,
    Complete,
    Create,
    Delete,
    Edit,
    Fail,
    Heartbeat,
    Message,
    Release,
    Retry,
    Tick,
)

RANK = {"low": 0, "medium": 1, "high": 2}


@define
class Job:
    number: int
    create: Create
    available_at: int
    status: str = "waiting"
    available: bool = True
    attempt: int = 0
    worker: str | None = None
    claim_id: str | None = None
    lease: float | None = None
    lease_ends: int | None = None
    deadline: int | None = None
    retries: int = 0
    lost: int = 0
    error: str | None = None
    result: Any = None
    tokens: dict[str, tuple[int, str | None]] = field(factory=dict)  # token: attempt, and how it ended

    @property
    def token(self) -> str | None:
        return next((token for token, (_, end) in self.tokens.items() if end is None), None)

    def summary(self) -> dict[str, Any]:
        return {
            "arrival": self.number,
            "status": self.status,
            "priority": self.create.priority,
            "tags": self.create.tags,
            "ready": self.status == "waiting" and self.available,
            "available_at": self.available_at,
            "attempt": self.attempt,
            "lease_token": self.token,
            "lease_expires_at": self.lease_ends,
            "deadline_at": self.deadline,
            "retry_count": self.retries,
            "lost_leases": self.lost,
            "error_message": self.error,
            "result": self.result,
        }


@define
class Parked:
    claim: Claim
    until: float
    key: object


@define
class Oracle:
    jobs: list[Job] = field(factory=list)
    parked: list[Parked] = field(factory=list)
    answers: dict[object, Any] = field(factory=dict)  # of parked claims, by their key
    deleted: list[int] = field(factory=list)
    late: set[str] = field(factory=set)  # leases with a result that came too late
    minted: int = 0

    def say(self, key: object, message: Message[Any], now: int) -> Any:
        """The answer, or None if the claim is parked."""
        match message:
            case Create():
                answer: Any = self._create(message, now)
            case Claim():
                self._replace(message)
                answer = self._held_as(message) or self._take(message, now)
                if not answer and message.wait_seconds:
                    until = (
                        message.wait_seconds if message.wait_seconds == FOREVER else now + message.wait_seconds * 1000
                    )
                    self.parked.append(Parked(message, until, key))
                    answer = None
            case Tick():
                self.tick(now)
                answer = "ticked"
            case _:
                answer = self._report(message, now)
        self._serve(now)
        return answer

    def leave(self, key: object) -> None:
        self.parked = [parked for parked in self.parked if parked.key != key]

    def tick(self, now: int) -> None:
        for job in sorted(
            (job for job in self.jobs if self._due(job) <= now), key=lambda job: (self._due(job), job.number)
        ):
            self._fall_due(job, now)
        self._serve(now)
        for parked in list(self.parked):
            if parked.until <= now:
                self.parked.remove(parked)
                self.answers[parked.key] = []

    def _create(self, create: Create, now: int) -> Any:
        available_at = now + round((create.delay_seconds or 0) * 1000)
        job = Job(len(self.jobs) + 1, create, available_at, available=available_at <= now)
        self.jobs.append(job)
        return job.summary()

    def _replace(self, claim: Claim) -> None:
        """A claim said again takes the place of the one that still waits."""
        for parked in list(self.parked):
            same = (parked.claim.claim_id, parked.claim.worker_id) == (claim.claim_id, claim.worker_id)
            if same and claim.claim_id:
                self.parked.remove(parked)
                self.answers[parked.key] = []

    def _held_as(self, claim: Claim) -> list[Any]:
        held = [
            job.summary()
            for job in self.jobs
            if job.status == "working"
            and claim.claim_id
            and (job.claim_id, job.worker) == (claim.claim_id, claim.worker_id)
            and job.create.work_directory in claim.work_directories
        ]
        return sorted(held, key=lambda summary: summary["arrival"])

    def _take(self, claim: Claim, now: int) -> list[Any]:
        taken = []
        while len(taken) < claim.limit:
            fitting = [
                job
                for job in self.jobs
                if job.status == "waiting"
                and job.available
                and job.create.work_directory in claim.work_directories
                and set(claim.tags) <= set(job.create.tags)
            ]
            if not fitting:
                break
            job = min(fitting, key=lambda job: (-RANK[job.create.priority], job.number))
            if job.create.expires_at is not None and job.create.expires_at <= now:
                job.status = "cancelled"
                continue
            self.minted += 1
            job.attempt += 1
            job.tokens[f"token-{self.minted}"] = (job.attempt, None)
            job.status, job.worker, job.lease = "working", claim.worker_id, claim.lease_seconds
            job.claim_id = claim.claim_id
            job.deadline = now + round((job.create.timeout_seconds or 3600) * 1000)
            self._renew(job, now)
            taken.append(job.summary())
        return taken

    def _serve(self, now: int) -> None:
        for parked in list(self.parked):
            if tasks := self._take(parked.claim, now):
                self.parked.remove(parked)
                self.answers[parked.key] = tasks

    def _steer(self, job: Job, message: Any, now: int) -> Any:
        match message:
            case Cancel():
                if job.status not in ("waiting", "failed") and not (job.status == "working" and message.force):
                    return "InvalidState"
                self._end(job, "cancelled", "cancelled", job.error, None)
            case Retry():
                if job.status != "failed":
                    return "InvalidState"
                if job.retries >= (3 if job.create.max_retries is None else job.create.max_retries):
                    return "RetryLimitReached"
                job.status, job.retries, job.worker, job.result = "waiting", job.retries + 1, None, None
                job.available_at = max(now, job.available_at)
                job.available = job.available_at <= now
            case Edit():
                if (message.priority, message.run_at) != (UNSET, UNSET) and job.status not in ("waiting", "failed"):
                    return "InvalidState"
                said = {"tags": message.tags, "priority": message.priority}
                job.create = evolve(job.create, **{name: value for name, value in said.items() if value is not UNSET})
                if message.run_at is not UNSET:
                    job.available_at = max(now, message.run_at or 0)
                    job.available = job.available_at <= now
            case Delete():
                if job.status in ("waiting", "working"):
                    return "InvalidState"
                self.deleted.append(job.number)
                return "ticked"
        return job.summary()

    def _report(self, message: Any, now: int) -> Any:
        job = next((job for job in self.jobs if f"task-{job.number}" == message.task_id), None)
        if job is None or job.number in self.deleted:
            return "TaskNotFound"
        if isinstance(message, Cancel | Retry | Edit | Delete):
            return self._steer(job, message, now)
        if refusal := self._refusal(job, message, now):
            return refusal
        match message:
            case Heartbeat():
                job.lease = message.lease_seconds or job.lease
                self._renew(job, now)
            case Complete(status="completed"):
                self._end(job, "completed", "completed", message.error_message, message.result)
            case Complete() if not job.create.auto_retry:
                self._end(job, "failed", "failed", message.error_message, message.result)
            case Fail() | Complete():
                said = message.retryable if isinstance(message, Fail) else None
                retry = job.create.auto_retry if said is None else said
                if retry and job.retries < (3 if job.create.max_retries is None else job.create.max_retries):
                    delay = min(job.create.retry_delay_seconds * 2**job.retries, 3600)
                    if isinstance(message, Fail) and message.retry_after_seconds is not None:
                        delay = message.retry_after_seconds
                    self._back(job, "retried", now + round(delay * 1000), now, message.error_message)
                    job.retries += 1
                else:
                    self._end(job, "failed", "failed", message.error_message, getattr(message, "result", None))
            case Release():
                self._back(job, "released", now + round((message.delay_seconds or 0) * 1000), now, None)
        return job.summary()

    def _refusal(self, job: Job, message: Any, now: int) -> Any:
        """None if the message's sender holds the task."""
        if message.lease_token is None:
            if job.status != "working":
                return "InvalidState"
            worker = getattr(message, "worker_id", None)
            return "LeaseLost reassigned" if worker and worker != job.worker else None
        if message.lease_token not in job.tokens:
            return "LeaseLost unknown_token"
        attempt, end = job.tokens[message.lease_token]
        if end is None:
            return None
        verb = message.status if isinstance(message, Complete) else "failed" if isinstance(message, Fail) else None
        again = end == verb == job.status or (end == "retried" and verb == "failed")
        if again and attempt == job.attempt:
            return job.summary()
        if verb:
            self.late.add(message.lease_token)
        reasons = {"lost": "expired", "released": "released", "retried": "finished", "cancelled": "cancelled"}
        return "LeaseLost " + ("reassigned" if attempt < job.attempt else reasons.get(end, "finished"))

    def _renew(self, job: Job, now: int) -> None:
        assert job.deadline is not None
        job.lease_ends = job.deadline if job.lease is None else min(now + round(job.lease * 1000), job.deadline)

    def _end(self, job: Job, status: str, end: str, error: str | None, result: Any) -> None:
        self._end_lease(job, end)
        job.status, job.error, job.result = status, error, result

    def _back(self, job: Job, end: str, available_at: int, now: int, error: str | None) -> None:
        self._end_lease(job, end)
        job.status, job.available_at, job.worker = "waiting", available_at, None
        job.available = available_at <= now
        job.error = error or job.error

    def _end_lease(self, job: Job, end: str) -> None:
        job.tokens = {token: (attempt, was or end) for token, (attempt, was) in job.tokens.items()}
        job.lease = job.lease_ends = job.deadline = None

    def _due(self, job: Job) -> float:
        if job.status == "working":
            return job.lease_ends or FOREVER
        moments = [job.create.expires_at, None if job.available else job.available_at]
        return min((at for at in moments if at is not None and job.status == "waiting"), default=FOREVER)

    def _fall_due(self, job: Job, now: int) -> None:
        if job.status == "waiting":
            if job.create.expires_at is not None and job.create.expires_at <= now:
                job.status = "cancelled"
            else:
                job.available = True
            return
        over = "ran longer than timeout_seconds" if job.lease_ends == job.deadline else "stopped renewing its lease"
        job.lost += 1
        if job.retries < (3 if job.create.max_retries is None else job.create.max_retries):
            job.retries += 1
            self._back(job, "lost", now, now, f"attempt {job.attempt}: the worker {over}")
        else:
            times = f"{job.lost} time{'s' * (job.lost > 1)}"
            self._end(job, "failed", "lost", f"the worker was lost {times}; in the last attempt it {over}", None)
