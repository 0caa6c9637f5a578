"""What the real server answers, in the words of the oracle."""

import asyncio
from typing import Any

from dispatcher.directory import Directory
from dispatcher.errors import BatchRefused, DependencyNotFound, LeaseLost, Refusal, Unavailable
from dispatcher.messages import Created, Steered
from dispatcher.task import Task
from tests.dispatcher.births import not_found
from tests.dispatcher.oracle import DONE

GONE, UNAVAILABLE = "gone", "unavailable"
SHOWN = (
    *("arrival", "task_id", "status", "priority", "tags", "prompt", "depends_on", "unmet", "ready", "created_at"),
    *(
        "available_at",
        "attempt",
        "claimed_by",
        "worker_id",
        "lease_token",
        "lease_expires_at",
        "deadline_at",
        "started_at",
    ),
    *("progress", "metadata"),
    *("completed_at", "retry_count", "lost_leases", "log_lines", "log_bytes", "error_message", "result"),
)


def answer_of(ask: "asyncio.Task[Any]") -> Any:
    return GONE if ask.cancelled() else _plain(ask.exception() or ask.result())


def in_any_order(answer: Any) -> Any:
    return sorted(answer, key=lambda task: task["arrival"]) if isinstance(answer, list) else answer


def _plain(answer: Any) -> Any:
    match answer:
        case (Task() as task) | Created(task=task):
            return shown(task)
        case Directory():
            return {name: getattr(answer, name) for name in Directory.__slots__ if not name.startswith("_")}
        case Steered(matched=matched, changed=changed, skipped=skipped):
            return {"matched": matched, "changed": changed, "skipped": {name: _plain(why) for name, why in skipped}}
        case tuple(answers):
            return [_plain(one) if one is not None else None for one in answers]
        case LeaseLost() as lost:
            return f"LeaseLost {lost.reason}"
        case DependencyNotFound() as refusal:
            return not_found(dict(refusal.missing))
        case BatchRefused() as refusal:
            return f"BatchRefused { {place: _plain(fault) for place, fault in refusal.faults.items()} }"
        case Unavailable():
            return UNAVAILABLE
        case Refusal() as refusal:
            return type(refusal).__name__
        case int():
            return answer
        case None:
            return DONE
    raise AssertionError(answer)


def shown(task: Task) -> dict[str, Any]:
    """The token of a lease is shown as ID/ATTEMPT, for nobody can foresee the real ones; the arrival as the number in
    the ID, for there may be gaps between the real ones."""
    token = task.lease_token and f"{task.task_id}/{task.attempt}"
    number = int(task.task_id.removeprefix("task-"))
    return {name: getattr(task, name) for name in SHOWN} | {"lease_token": token, "arrival": number}
