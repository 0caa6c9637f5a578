"""How an attempt is over: the task goes back to waiting, or comes to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dispatcher.decisions.moments import later
from dispatcher.task import Status, Task

if TYPE_CHECKING:
    from dispatcher.board import Board

NOT_LEASED: dict[str, Any] = dict.fromkeys(
    ("claimed_by", "claim_id", "lease_token", "lease_seconds", "lease_expires_at", "deadline_at")
)


def give_back(
    board: Board,
    task: Task,
    now: int,
    type: str,
    *,
    delay_seconds: float = 0,
    retry: bool = False,
    lost: bool = False,
    error_message: str | None = None,
    **details: Any,
) -> Task:
    """Working to waiting. An error becomes the `previous_error` of the next attempt."""
    available_at = later(now, delay_seconds)
    waiting = task.move(
        Status.WAITING,
        now,
        ready=available_at <= now,
        available_at=available_at,
        retry_count=task.retry_count + retry,
        lost_leases=task.lost_leases + lost,
        worker_id=None,
        started_at=None,
        progress=None,
        error_message=error_message or task.error_message,
        **NOT_LEASED,
    )
    return board.put(task, waiting, now, type, error_message=error_message, **details)


def end(
    board: Board,
    task: Task,
    to: Status,
    now: int,
    *,
    result: object = None,
    lost: bool = False,
    error_message: str | None = None,
    **details: Any,
) -> Task:
    if to is not Status.CANCELLED and task.started_at is not None:
        details["processing_seconds"] = (now - task.started_at) / 1000
    ended = task.move(
        to,
        now,
        completed_at=now,
        result=result,
        lost_leases=task.lost_leases + lost,
        error_message=error_message,
        tell_from=0 if task.has_dependants else None,
        **NOT_LEASED,
    )
    return board.put(task, ended, now, f"task.{to}", error_message=error_message, **details)
