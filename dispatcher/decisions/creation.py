"""How a task comes into the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.decisions.moments import later
from dispatcher.errors import IdempotencyKeyReused
from dispatcher.fields import to_json
from dispatcher.messages import Create, Created
from dispatcher.task import FINAL, Task

if TYPE_CHECKING:
    from dispatcher.board import Board


IDEMPOTENCY_HOURS = 24


def create(board: Board, create: Create, now: int) -> Created:
    earlier = board.created_under(create.idempotency_key)
    if earlier is not None and _still_stands(earlier, now):
        if earlier.request_digest != create.request_digest:
            raise IdempotencyKeyReused(earlier.task_id)
        return Created(earlier, replayed=True)
    if earlier is not None:
        board.put(earlier, earlier.change(now, idempotency_key=None, request_digest=None), now, None)
    return Created(_make(board, create, now))


def _still_stands(task: Task, now: int) -> bool:
    return task.status not in FINAL or now < later(task.created_at, IDEMPOTENCY_HOURS * 3600)


def _make(board: Board, create: Create, now: int) -> Task:
    available_at = later(now, create.delay_seconds or 0) if create.run_at is None else max(now, create.run_at)
    task = Task(
        arrival=board.next_arrival(),
        task_id=board.mint.task_id(now),
        created_at=now,
        created_by=create.created_by,
        idempotency_key=create.idempotency_key,
        request_digest=create.request_digest,
        work_directory=create.work_directory,
        prompt=create.prompt,
        priority=create.priority,
        tags=create.tags,
        max_retries=board.rules.default_max_retries if create.max_retries is None else create.max_retries,
        auto_retry=create.auto_retry,
        retry_delay_seconds=float(create.retry_delay_seconds),
        timeout_seconds=float(create.timeout_seconds or board.rules.default_timeout_seconds),
        expires_at=create.expires_at,
        metadata=to_json(create.metadata),
        ready=available_at <= now,
        available_at=available_at,
        updated_at=now,
    )
    return board.put(None, task, now, "task.created")
