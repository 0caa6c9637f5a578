"""How a task comes into the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.decisions.moments import later
from dispatcher.messages import Create
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.board import Board


def create(board: Board, create: Create, now: int) -> Task:
    available_at = later(now, create.delay_seconds or 0) if create.run_at is None else max(now, create.run_at)
    task = Task(
        arrival=board.next_arrival(),
        task_id=board.mint.task_id(now),
        created_at=now,
        created_by=create.created_by,
        work_directory=create.work_directory,
        prompt=create.prompt,
        priority=create.priority,
        tags=create.tags,
        max_retries=board.rules.default_max_retries if create.max_retries is None else create.max_retries,
        auto_retry=create.auto_retry,
        retry_delay_seconds=create.retry_delay_seconds,
        timeout_seconds=create.timeout_seconds or board.rules.default_timeout_seconds,
        expires_at=create.expires_at,
        metadata=create.metadata,
        ready=available_at <= now,
        available_at=available_at,
        updated_at=now,
    )
    return board.put(None, task, now, "task.created")
