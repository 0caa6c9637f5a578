"""What the wire shows of a task and its history. Names and units are those of the contract."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from orjson import Fragment

from dispatcher.fields import Priority
from dispatcher.ports import Entry
from dispatcher.record import DirectoryCount, Outcome
from dispatcher.task import Status, Task
from web.codec import rfc3339


class Event(TypedDict):
    """A line of the history, in the feed."""

    seq: int
    type: str
    task_id: str | None
    work_directory: str | None
    status: Status | None
    priority: Priority | None
    worker_id: str | None
    attempt: int
    at: str
    details: Mapping[str, Any]


def moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)


def whole(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "work_directory": task.work_directory,
        "prompt": task.prompt,
        "priority": task.priority,
        "tags": task.tags,
        "status": task.status,
        "worker_id": task.worker_id,
        "attempt": task.attempt,
        "lease_expires_at": moment(task.lease_expires_at),
        "deadline_at": moment(task.deadline_at),
        "progress": task.progress,
        "created_at": moment(task.created_at),
        "updated_at": moment(task.updated_at),
        "available_at": moment(task.available_at),
        "started_at": moment(task.started_at),
        "completed_at": moment(task.completed_at),
        "result": task.result,
        "error_message": task.error_message,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "auto_retry": task.auto_retry,
        "retry_delay_seconds": task.retry_delay_seconds,
        "timeout_seconds": task.timeout_seconds,
        "expires_at": moment(task.expires_at),
        "depends_on": task.depends_on,
        "on_dependency_failure": task.on_dependency_failure,
        "blocked_by": task.unmet if task.status is Status.WAITING else (),
        "metadata": Fragment(task.metadata),
        "created_by": task.created_by,
        "version": task.version,
    }


def claimed(task: Task, dependencies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A task as its worker gets it; nobody else ever sees the lease_token."""
    return {
        "task_id": task.task_id,
        "prompt": task.prompt,
        "work_directory": task.work_directory,
        "priority": task.priority,
        "tags": task.tags,
        "metadata": Fragment(task.metadata),
        "attempt": task.attempt,
        "lease_token": task.lease_token,
        "lease_expires_at": moment(task.lease_expires_at),
        "deadline_at": moment(task.deadline_at),
        "retry_count": task.retry_count,
        "previous_error": task.error_message,
        "dependencies": dependencies,
    }


def outcome(task: Task) -> dict[str, Any]:
    return {"task_id": task.task_id, "status": task.status, "completed_at": moment(task.completed_at)}


def dependency(task_id: str, parent: Outcome | None) -> dict[str, Any]:
    """What a worker learns of a task that its own one depended on; None: it has been deleted since."""
    if parent is None:
        return {"task_id": task_id, "status": None, "result": None}
    omitted = {"result_omitted": True} if parent.is_omitted else {}  # to be had from the task itself
    return {"task_id": task_id, "status": parent.status, "result": parent.result, **omitted}


def directory(count: DirectoryCount, waiting_workers: int, now: int) -> dict[str, Any]:
    rules, oldest = count.rules, count.oldest_waiting_at
    return {
        "work_directory": rules.work_directory,
        **{status.value: number for status, number in count.tasks.items()},
        "oldest_waiting_seconds": None if oldest is None else (now - oldest) / 1000,
        "paused": rules.paused,
        "paused_reason": rules.paused_reason,
        "paused_until": moment(rules.paused_until),
        "draining": rules.draining,
        "max_working": rules.max_working,
        "waiting_workers": waiting_workers,
    }


def history_line(entry: Entry) -> Mapping[str, Any]:
    return {
        "seq": entry.seq,
        "type": entry.type,
        "status": entry.status,
        "worker_id": entry.worker_id,
        "attempt": entry.attempt,
        "at": moment(entry.at),
        "details": entry.details,
    }


def event(entry: Entry) -> Event:
    return {
        "seq": entry.seq,
        "type": entry.type,
        "task_id": entry.task_id,
        "work_directory": entry.work_directory,
        "status": entry.status,
        "priority": entry.priority,
        "worker_id": entry.worker_id,
        "attempt": entry.attempt,
        "at": rfc3339(entry.at),
        "details": entry.details,
    }
