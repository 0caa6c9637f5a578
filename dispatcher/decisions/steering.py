"""What people decide about a task: to stop it, or to have it tried once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.decisions.returns import end
from dispatcher.errors import InvalidState, RetryLimitReached
from dispatcher.messages import Cancel, Retry
from dispatcher.task import Status, Task, allowed_from

if TYPE_CHECKING:
    from dispatcher.board import Board


def cancel(board: Board, cancel: Cancel, now: int) -> Task:
    task = board.find(cancel.task_id)
    allowed = [status for status in allowed_from(Status.CANCELLED) if cancel.force or status is not Status.WORKING]
    if task.status not in allowed:
        raise InvalidState(task.status, allowed)
    return end(board, task, Status.CANCELLED, now, error_message=task.error_message, reason=cancel.reason)


def retry(board: Board, retry: Retry, now: int) -> Task:
    task = board.find(retry.task_id)
    if task.status is not Status.FAILED:
        raise InvalidState(task.status, [Status.FAILED])
    if task.retry_count >= task.max_retries:
        raise RetryLimitReached(task.max_retries)
    again = task.move(
        Status.WAITING,
        now,
        ready=True,
        available_at=now,
        retry_count=task.retry_count + 1,
        worker_id=None,
        started_at=None,
        progress=None,
        completed_at=None,
        result=None,
    )
    return board.put(task, again, now, "task.retried")
