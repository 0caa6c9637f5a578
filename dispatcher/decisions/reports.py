"""What a worker says about a task it holds, and what it is told when it holds it no longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orjson import loads

from dispatcher.decisions.moments import later, lease_end
from dispatcher.decisions.returns import end, give_back
from dispatcher.errors import (
    InvalidState,
    LeaseLost,
    LeaseTokenRequired,
    LossReason,
    MetadataFull,
    NotTheHolder,
    PromptMismatch,
)
from dispatcher.fields import METADATA_BYTES_MAX, to_json
from dispatcher.messages import Complete, Fail, Heartbeat, LeaseMessage, Release
from dispatcher.ports import Lease
from dispatcher.prompts import similarity
from dispatcher.task import Status, Task

if TYPE_CHECKING:
    from dispatcher.board import Board

RETRY_DELAY_MAX_SECONDS = 3600
RETRY_JITTER = 0.2
PROGRESS_LINE_SECONDS = 1  # so far apart are the lines of the history that tell of the progress of an attempt

LOSSES: dict[str | None, LossReason] = {
    "task.lease_expired": "expired",
    "task.released": "released",
    "task.cancelled": "cancelled",
    "task.completed": "finished",
    "task.failed": "finished",
    "task.retried": "finished",
}


def heartbeat(board: Board, heartbeat: Heartbeat, now: int) -> Task:
    """The history is not told of every step, or it would grow as fast as a worker can speak."""
    task = leased(board, heartbeat)
    if heartbeat.metadata:
        task = _noted(board, task, heartbeat.metadata, now)
    assert task.deadline_at is not None
    lease_seconds = heartbeat.lease_seconds or task.lease_seconds
    changes: dict[str, Any] = {"lease_seconds": lease_seconds}
    changes["lease_expires_at"] = lease_end(now, lease_seconds, task.deadline_at)
    if heartbeat.progress is None:
        return board.put(task, task.change(now, **changes), now, None)
    progress: dict[str, Any] = {"percent": heartbeat.progress.percent, "message": heartbeat.progress.message}
    changes["progress"] = progress
    if progress == task.progress or _has_just_been_told(task, now):
        return board.put(task, task.change(now, **changes), now, None)
    return board.put(task, task.change(now, progress_told_at=now, **changes), now, "task.progress", **progress)


def _noted(board: Board, task: Task, members: Mapping[str, object], now: int) -> Task:
    """With these members in its metadata; raises MetadataFull."""
    merged = {**loads(task.metadata), **members}
    metadata = to_json({name: value for name, value in merged.items() if name not in members or value is not None})
    if (size := len(metadata.encode())) > METADATA_BYTES_MAX:
        raise MetadataFull(size, METADATA_BYTES_MAX)
    if metadata == task.metadata:
        return task
    return board.put(task, task.change(now, metadata=metadata), now, "task.updated", changed=["metadata"])


def _has_just_been_told(task: Task, now: int) -> bool:
    return task.progress_told_at is not None and now < later(task.progress_told_at, PROGRESS_LINE_SECONDS)


def complete(board: Board, complete: Complete, now: int) -> Task | LeaseLost:
    to = Status(complete.status)
    try:
        task = leased(board, complete, complete.worker_id)
    except LeaseLost as lost:
        return _repeated(board, complete, to) or _too_late(
            board, complete, lost, now, status=to, result=complete.result, error_message=complete.error_message
        )
    if complete.original_prompt is not None:
        _check(complete.original_prompt, task.prompt, board.rules.prompt_match_threshold)
    if to is Status.FAILED and _may_retry(task, task.auto_retry):
        return _try_again(board, task, now, complete.error_message)
    return end(board, task, to, now, result=complete.result, error_message=complete.error_message)


def fail(board: Board, fail: Fail, now: int) -> Task | LeaseLost:
    try:
        task = leased(board, fail)
    except LeaseLost as lost:
        return _repeated(board, fail, Status.FAILED) or _too_late(
            board, fail, lost, now, status=Status.FAILED, error_message=fail.error_message
        )
    if _may_retry(task, task.auto_retry if fail.retryable is None else fail.retryable):
        return _try_again(board, task, now, fail.error_message, fail.retry_after_seconds)
    return end(board, task, Status.FAILED, now, error_message=fail.error_message)


def release(board: Board, release: Release, now: int) -> Task:
    task = leased(board, release)
    return give_back(board, task, now, "task.released", delay_seconds=release.delay_seconds or 0, reason=release.reason)


def leased(board: Board, message: LeaseMessage, worker_id: str | None = None) -> Task:
    """The working task that the caller holds. Without a token it is believed, unless it names another worker."""
    task, token = board.find(message.task_id, message.by), message.lease_token
    if token is not None:
        if task.leased_by(token):
            return _reported_by(message, task)
        lease = board.lease(task.task_id, token)
        if lease and not message.by.may_report(lease.claimed_by):
            raise NotTheHolder
        raise LeaseLost(_loss(lease, task), task.status, task.attempt)
    if board.rules.require_lease_token:
        raise LeaseTokenRequired
    if task.status is not Status.WORKING:
        raise InvalidState(task.status, [Status.WORKING])
    if worker_id not in (None, task.worker_id):
        raise LeaseLost("reassigned", task.status, task.attempt)
    return _reported_by(message, task)


def _reported_by(message: LeaseMessage, task: Task) -> Task:
    if not message.by.may_report(task.claimed_by):
        raise NotTheHolder
    return task


def _loss(lease: Lease | None, task: Task) -> LossReason:
    if lease is None:
        return "unknown_token"
    return "reassigned" if lease.attempt < task.attempt else LOSSES[lease.ended_by]


def _repeated(board: Board, message: Complete | Fail, to: Status) -> Task | None:
    """The stored outcome, if the lease was ended by this very call: its first answer may have been lost."""
    lease = board.lease(message.task_id, message.lease_token) if message.lease_token else None
    task = board.find(message.task_id, message.by)
    if lease is None or lease.attempt < task.attempt:
        return None
    again = lease.ended_by == f"task.{to}" and task.status is to
    retried = lease.ended_by == "task.retried" and to is Status.FAILED
    return task if again or retried else None


def _too_late(board: Board, message: Complete | Fail, lost: LeaseLost, now: int, **details: Any) -> LeaseLost:
    """Refused, but kept: the work may have been done after all."""
    if message.lease_token is None or lost.reason == "unknown_token":
        raise lost
    board.note_late(board.find(message.task_id, message.by), message.lease_token, now, reason=lost.reason, **details)
    return lost


def _check(original_prompt: str, prompt: str, threshold: float) -> None:
    found = similarity(original_prompt, prompt, threshold)
    if found < threshold:
        raise PromptMismatch(found, threshold)


def _may_retry(task: Task, wanted: bool) -> bool:
    return wanted and task.retry_count < task.max_retries


def _try_again(board: Board, task: Task, now: int, error: str | None, after_seconds: float | None = None) -> Task:
    delay = _back_off(task, board.mint.jitter()) if after_seconds is None else after_seconds
    return give_back(
        board, task, now, "task.retried", delay_seconds=delay, retry=True, error_message=error, automatic=True
    )


def _back_off(task: Task, jitter: float) -> float:
    doubled = task.retry_delay_seconds * 2.0**task.retry_count
    return min(doubled, RETRY_DELAY_MAX_SECONDS) * (1 + RETRY_JITTER * jitter)
