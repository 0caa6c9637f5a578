"""What people decide about a task: to stop it, to have it tried once more, to say it differently, to forget it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dispatcher.decisions.returns import end
from dispatcher.errors import InvalidState, RetryLimitReached, VersionConflict
from dispatcher.fields import UNSET, to_json
from dispatcher.messages import Cancel, Delete, Edit, Retry
from dispatcher.task import FINAL, Status, Task, allowed_from

if TYPE_CHECKING:
    from dispatcher.board import Board

BEFORE_IT_RUNS = [Status.WAITING, Status.FAILED]


def cancel(board: Board, cancel: Cancel, now: int) -> Task:
    task = board.find(cancel.task_id, cancel.by)
    check_cancel(task, cancel.force)
    return do_cancel(board, task, now, cancel.reason)


def retry(board: Board, retry: Retry, now: int) -> Task:
    task = board.find(retry.task_id, retry.by)
    check_retry(task)
    return do_retry(board, task, now)


def edit(board: Board, edit: Edit, now: int) -> Task:
    task = board.find(edit.task_id, edit.by)
    _check_version(task, edit.if_version)
    names = ("tags", "metadata", "priority", "prompt", "max_retries")
    changes: dict[str, Any] = {name: getattr(edit, name) for name in names if getattr(edit, name) is not UNSET}
    if edit.metadata is not UNSET:
        changes["metadata"] = to_json(edit.metadata)
    if edit.run_at is not UNSET:
        available_at = max(now, edit.run_at or now)
        changes |= {"available_at": available_at, "ready": available_at <= now and _lacks_only_time(task)}
    check_edit(task, changes)
    return do_edit(board, task, changes, now) if changes else task


def delete(board: Board, delete: Delete, now: int) -> None:
    task = board.find(delete.task_id, delete.by)
    _check_version(task, delete.if_version)
    check_delete(task)
    do_delete(board, task, now)


# Of each, what refuses it and what it does


def check_cancel(task: Task, force: bool = False) -> None:
    allowed = [status for status in allowed_from(Status.CANCELLED) if force or status is not Status.WORKING]
    if task.status not in allowed:
        raise InvalidState(task.status, allowed)


def do_cancel(board: Board, task: Task, now: int, reason: str | None) -> Task:
    return end(board, task, Status.CANCELLED, now, error_message=task.error_message, reason=reason)


def check_retry(task: Task) -> None:
    if task.status is not Status.FAILED:
        raise InvalidState(task.status, [Status.FAILED])
    if task.retry_count >= task.max_retries:
        raise RetryLimitReached(task.max_retries)


def do_retry(board: Board, task: Task, now: int, reason: str | None = None) -> Task:
    available_at = max(now, task.available_at)
    again = task.move(
        Status.WAITING,
        now,
        ready=available_at <= now,
        available_at=available_at,
        retry_count=task.retry_count + 1,
        worker_id=None,
        started_at=None,
        progress=None,
        completed_at=None,
        result=None,
    )
    return board.put(task, again, now, "task.retried", reason=reason)


def check_edit(task: Task, changes: Mapping[str, Any]) -> None:
    if changes.keys() - {"tags", "metadata"} and task.status not in BEFORE_IT_RUNS:
        raise InvalidState(task.status, BEFORE_IT_RUNS)


def do_edit(board: Board, task: Task, changes: Mapping[str, Any], now: int, reason: str | None = None) -> Task:
    return board.put(task, task.change(now, **changes), now, "task.updated", changed=sorted(changes), reason=reason)


def check_delete(task: Task) -> None:
    if task.status not in FINAL:
        raise InvalidState(task.status, sorted(FINAL))


def do_delete(board: Board, task: Task, now: int, reason: str | None = None) -> None:
    board.remove(task, now, "task.deleted", reason=reason)


def _lacks_only_time(task: Task) -> bool:
    return task.status is Status.WAITING and not task.unmet


def _check_version(task: Task, expected: int | None) -> None:
    if expected not in (None, task.version):
        raise VersionConflict(expected, task.version)
