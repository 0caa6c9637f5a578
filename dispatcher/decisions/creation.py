"""How a task comes into the world."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from attrs import frozen

from dispatcher.caller import Caller
from dispatcher.decisions.dependencies import bind, is_met
from dispatcher.decisions.moments import later
from dispatcher.errors import DependencyNotFound, IdempotencyKeyReused
from dispatcher.fields import to_json
from dispatcher.messages import Create, Created
from dispatcher.task import FINAL, Task

if TYPE_CHECKING:
    from dispatcher.board import Board


IDEMPOTENCY_HOURS = 24


@frozen
class Place:
    """Of a new task among the others. `siblings` are made together with it."""

    task_id: str
    depends_on: tuple[str, ...]
    created_by: str | None = None
    siblings: Set[str] = frozenset()
    has_dependants: bool = False


def create(board: Board, create: Create, now: int) -> Created:
    create.by.enter(create.work_directory)
    if (task := board.created_under(create.idempotency_key)) and still_stands(task, now):
        if task.request_digest != create.request_digest:
            raise IdempotencyKeyReused(task.task_id)
        return Created(task, replayed=True)
    if missing := missing_parents(board, create.depends_on, create.by):
        raise DependencyNotFound(missing)
    return Created(make(board, create, now, Place(board.mint.task_id(now), create.depends_on, create.by.name)))


def missing_parents(
    board: Board, depends_on: Sequence[str], by: Caller, siblings: Set[str] = frozenset()
) -> dict[int, str]:
    """What it cannot depend on, by its place."""
    return {at: name for at, name in enumerate(depends_on) if name not in siblings and not board.parent(name, by)}


def make(board: Board, create: Create, now: int, at: Place) -> Task:
    if expired := board.created_under(create.idempotency_key):
        board.put(expired, expired.change(now, idempotency_key=None, request_digest=None), now, None)
    parents = [parent for task_id in at.depends_on if task_id not in at.siblings and (parent := board.parent(task_id))]
    met = {parent.task_id for parent in parents if is_met(parent, create.on_dependency_failure)}
    unmet = tuple(task_id for task_id in at.depends_on if task_id not in met)
    task = board.put(None, _task(board, create, now, at, unmet), now, "task.created")
    return bind(board, task, parents, now)


def still_stands(task: Task, now: int) -> bool:
    """Its idempotency key still means this task."""
    return task.status not in FINAL or now < later(task.created_at, IDEMPOTENCY_HOURS * 3600)


def _task(board: Board, create: Create, now: int, at: Place, unmet: tuple[str, ...]) -> Task:
    available_at = later(now, create.delay_seconds or 0) if create.run_at is None else max(now, create.run_at)
    return Task(
        arrival=board.next_arrival(),
        task_id=at.task_id,
        created_at=now,
        created_by=at.created_by,
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
        depends_on=at.depends_on,
        on_dependency_failure=create.on_dependency_failure,
        metadata=to_json(create.metadata),
        ready=available_at <= now and not unmet,
        available_at=available_at,
        unmet=unmet,
        has_dependants=at.has_dependants,
        updated_at=now,
    )
