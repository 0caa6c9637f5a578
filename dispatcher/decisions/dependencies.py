"""Tasks that wait for others, and what becomes of them when those have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from dispatcher.caller import ANYONE
from dispatcher.decisions.returns import end
from dispatcher.fields import OnDependencyFailure
from dispatcher.task import Status, Task

if TYPE_CHECKING:
    from dispatcher.board import Board

BROKEN = frozenset({Status.FAILED, Status.CANCELLED})
"""The outcomes that `on_dependency_failure` is about."""


def is_met(parent: Task, policy: OnDependencyFailure) -> bool:
    return parent.status is Status.COMPLETED or (policy == "run" and parent.status in BROKEN)


def bind(board: Board, child: Task, parents: list[Task], now: int) -> Task:
    """A new task and those it depends on: they are to tell it of their end, unless it ends here with one of them."""
    for parent in parents:
        if _breaks(parent, child.on_dependency_failure):
            return _cancel(board, child, parent, now)
    for parent in parents:
        if parent.task_id in child.unmet and not parent.has_dependants:
            board.put(parent, evolve(parent, has_dependants=True), now, None)
    return child


def tell_dependants(board: Board, parent: Task, now: int) -> None:
    """A slice of those who wait for a task that has ended hear of it; a later Tick sees to the rest."""
    run = board.dependants(parent.task_id)
    if run is None:  # it has ended just now
        board.note_due(parent.due_at)
        return
    board.put(parent, evolve(parent, tell_from=run.edge), now, None)
    for found in run.tasks:
        child = board.find(found.task_id, ANYONE)
        if child.status is not Status.WAITING or parent.task_id not in child.unmet:
            continue
        if _breaks(parent, child.on_dependency_failure):
            _cancel(board, child, parent, now)
        elif is_met(parent, child.on_dependency_failure):
            _meet(board, child, parent, now)


def _meet(board: Board, child: Task, parent: Task, now: int) -> None:
    unmet = tuple(task_id for task_id in child.unmet if task_id != parent.task_id)
    ready = not unmet and child.available_at <= now
    board.put(child, child.change(now, unmet=unmet, ready=ready), now, "task.available" if ready else None)


def _breaks(parent: Task, policy: OnDependencyFailure) -> bool:
    return policy == "cancel" and parent.status in BROKEN


def _cancel(board: Board, child: Task, parent: Task, now: int) -> Task:
    why: dict[str, Any] = {"reason": "dependency_failed", "dependency": parent.task_id}
    return end(board, child, Status.CANCELLED, now, error_message=child.error_message, **why)
