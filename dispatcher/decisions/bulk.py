"""What people decide about many tasks at once: each is decided like one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dispatcher.decisions.steering import (
    check_cancel,
    check_delete,
    check_edit,
    check_retry,
    do_cancel,
    do_delete,
    do_edit,
    do_retry,
)
from dispatcher.errors import Refusal, TaskNotFound
from dispatcher.matching import matches
from dispatcher.messages import Action, Steered, SteerMany
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.board import Board

Check = Callable[[SteerMany, Task], None]
Do = Callable[["Board", Task, SteerMany, int], object]

ACTIONS: Mapping[Action, tuple[Check, Do]] = {
    "cancel": (
        lambda many, task: check_cancel(task),
        lambda board, task, many, now: do_cancel(board, task, now, many.reason),
    ),
    "retry": (
        lambda many, task: check_retry(task),
        lambda board, task, many, now: do_retry(board, task, now, many.reason),
    ),
    "delete": (
        lambda many, task: check_delete(task),
        lambda board, task, many, now: do_delete(board, task, now, many.reason),
    ),
    "priority": (
        lambda many, task: check_edit(task, {"priority": many.priority}),
        lambda board, task, many, now: do_edit(board, task, {"priority": many.priority}, now, many.reason),
    ),
}


def steer_many(board: Board, many: SteerMany, now: int) -> Steered:
    matched = 0
    skipped: list[tuple[str, Refusal]] = []
    check, do = ACTIONS[many.action]
    for task_id in many.task_ids:
        task = board.parent(task_id, many.by)
        if many.only is not None and (task is None or not matches(many.only, task)):
            continue  # it has become something that was not meant
        matched += 1
        try:
            if task is None:
                raise TaskNotFound(task_id)
            check(many, task)
        except Refusal as refusal:
            skipped.append((task_id, refusal.with_traceback(None)))  # or it would keep what was decided alive
            continue
        if not many.dry_run:
            do(board, task, many, now)
    return Steered(matched, matched - len(skipped), tuple(skipped))
