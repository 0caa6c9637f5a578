"""What the wire shows of a task and its history. Names and units are those of the contract."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from attrs import evolve
from orjson import Fragment, loads

from dispatcher.fields import OnDependencyFailure, Priority
from dispatcher.ports import Entry
from dispatcher.record import DirectoryCount, Outcome
from dispatcher.task import Status, Task
from web.access.redaction import over_payloads, seen
from web.codec import encode, rfc3339

T = TypeVar("T")


class TaskProgress(TypedDict):
    percent: float | None
    message: str | None


class WholeTask(TypedDict):
    task_id: str
    work_directory: str
    prompt: str
    priority: Priority
    tags: Sequence[str]
    status: Status
    worker_id: str | None
    attempt: int
    lease_expires_at: str | None
    deadline_at: str | None
    progress: TaskProgress | None
    created_at: str
    updated_at: str
    available_at: str
    started_at: str | None
    completed_at: str | None
    result: object
    error_message: str | None
    retry_count: int
    max_retries: int
    auto_retry: bool
    retry_delay_seconds: float
    timeout_seconds: float
    expires_at: str | None
    depends_on: Sequence[str]
    on_dependency_failure: OnDependencyFailure
    blocked_by: Sequence[str]
    metadata: Mapping[str, object]
    created_by: str | None
    version: int


class Dependency(TypedDict):
    """What a worker learns of a task that its own one depended on; `status` null: it has been deleted since."""

    task_id: str
    status: Status | None
    result: object
    result_omitted: NotRequired[bool]  # to be had from the task itself


class ClaimedTask(TypedDict):
    """A task as its worker gets it; nobody else ever sees the lease_token."""

    task_id: str
    prompt: str
    work_directory: str
    priority: Priority
    tags: Sequence[str]
    metadata: Mapping[str, object]
    attempt: int
    lease_token: str
    lease_expires_at: str
    deadline_at: str
    retry_count: int
    previous_error: str | None
    dependencies: Sequence[Dependency]


class TaskOutcome(TypedDict):
    task_id: str
    status: Status
    completed_at: str | None


class WorkDirectoryState(TypedDict):
    work_directory: str
    waiting: int
    working: int
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_seconds: float | None
    paused: bool
    paused_reason: str | None
    paused_until: str | None
    draining: bool
    max_working: int | None
    waiting_workers: int


class HistoryLine(TypedDict):
    seq: int
    type: str
    status: Status | None
    worker_id: str | None
    attempt: int
    at: str
    details: Mapping[str, Any]


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


def json_object(text: str) -> Any:
    """JSON that is written into the answer as it is."""
    return Fragment(text)


def moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)


def _as_seen(task: Task) -> Task:
    """As the caller may see it."""
    if (hide := over_payloads()) is None:
        return task
    return evolve(
        task,
        prompt=hide.text(task.prompt),
        metadata=encode(hide.value(loads(task.metadata))).decode(),
        progress=hide.value(task.progress),
        result=hide.value(task.result),
        error_message=hide.value(task.error_message),
    )


def _details(entry: Entry) -> Mapping[str, Any]:
    hide = over_payloads()
    details: Mapping[str, Any] = hide.value(entry.details) if hide else entry.details
    return details


def whole(task: Task) -> WholeTask:
    task = _as_seen(task)
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
        "progress": cast(TaskProgress | None, task.progress),
        "created_at": rfc3339(task.created_at),
        "updated_at": rfc3339(task.updated_at),
        "available_at": rfc3339(task.available_at),
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
        "metadata": json_object(task.metadata),
        "created_by": task.created_by,
        "version": task.version,
    }


async def shown(task: Task) -> WholeTask:
    """`whole`; where something may have to be hidden, in a thread, for that may take long."""
    return await asyncio.to_thread(whole, task) if over_payloads() else whole(task)


async def all_shown(entries: Sequence[Entry], view: Callable[[Entry], T]) -> list[T]:
    """Likewise of the lines of a history."""
    return await asyncio.to_thread(lambda: list(map(view, entries))) if over_payloads() else list(map(view, entries))


def claimed(task: Task, dependencies: Sequence[Dependency]) -> ClaimedTask:
    assert task.lease_token
    assert task.lease_expires_at
    assert task.deadline_at
    return {
        "task_id": task.task_id,
        "prompt": task.prompt,
        "work_directory": task.work_directory,
        "priority": task.priority,
        "tags": task.tags,
        "metadata": json_object(task.metadata),
        "attempt": task.attempt,
        "lease_token": task.lease_token,
        "lease_expires_at": rfc3339(task.lease_expires_at),
        "deadline_at": rfc3339(task.deadline_at),
        "retry_count": task.retry_count,
        "previous_error": task.error_message,
        "dependencies": dependencies,
    }


def outcome(task: Task) -> TaskOutcome:
    return {"task_id": task.task_id, "status": task.status, "completed_at": moment(task.completed_at)}


def dependency(task_id: str, parent: Outcome | None) -> Dependency:
    if parent is None:
        return {"task_id": task_id, "status": None, "result": None}
    known: Dependency = {"task_id": task_id, "status": parent.status, "result": parent.result}
    if parent.is_omitted:
        known["result_omitted"] = True
    return known


def directory(count: DirectoryCount, waiting_workers: int, now: int) -> WorkDirectoryState:
    rules, tasks, oldest = count.rules, count.tasks, count.oldest_waiting_at
    return {
        "work_directory": rules.work_directory,
        "waiting": tasks[Status.WAITING],
        "working": tasks[Status.WORKING],
        "completed": tasks[Status.COMPLETED],
        "failed": tasks[Status.FAILED],
        "cancelled": tasks[Status.CANCELLED],
        "oldest_waiting_seconds": None if oldest is None else (now - oldest) / 1000,
        "paused": rules.paused,
        "paused_reason": rules.paused_reason and seen(rules.paused_reason),
        "paused_until": moment(rules.paused_until),
        "draining": rules.draining,
        "max_working": rules.max_working,
        "waiting_workers": waiting_workers,
    }


def history_line(entry: Entry) -> HistoryLine:
    return {
        "seq": entry.seq,
        "type": entry.type,
        "status": entry.status,
        "worker_id": entry.worker_id,
        "attempt": entry.attempt,
        "at": rfc3339(entry.at),
        "details": _details(entry),
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
        "details": _details(entry),
    }
