"""What time does by itself: leases and tasks expire, delayed tasks become ready, waiting callers get an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.decisions.dependencies import tell_dependants
from dispatcher.decisions.directories import end_pauses
from dispatcher.decisions.moments import later
from dispatcher.decisions.returns import end, give_back
from dispatcher.messages import Heed, Resume, Tick
from dispatcher.task import Status, Task

if TYPE_CHECKING:
    from dispatcher.board import Board


def tick(board: Board, tick: Tick, now: int) -> None:
    end_pauses(board, now)
    for task in board.take_due():
        if task.due_at is not None and task.due_at <= now:
            fall_due(board, task, now)
        else:
            board.note_due(task.due_at)
    board.agenda.look_again()
    board.serve(now)  # whoever can still be given something is not sent away
    for waiter in board.agenda.overdue(now):
        board.dismiss(waiter.ticket)


def heed(board: Board, heed: Heed, now: int) -> None:
    for work_directory in heed.work_directories:
        board.agenda.reopen(work_directory)
    for until, work_directory in heed.pauses:
        board.gates.note_pause(until, work_directory)
    board.note_due(heed.due)


def resume(board: Board, resume: Resume, now: int) -> None:
    soonest = later(now, board.rules.restart_grace_seconds)
    for task in list(board.working.values()):
        assert task.lease_expires_at is not None
        assert task.deadline_at is not None
        if task.lease_expires_at < soonest:
            ends = {"lease_expires_at": soonest, "deadline_at": max(soonest, task.deadline_at)}
            board.put(task, task.change(now, **ends), now, None)


def fall_due(board: Board, task: Task, now: int) -> None:
    if task.status is Status.WORKING:
        _lose(board, task, now)
    elif task.status is not Status.WAITING:
        tell_dependants(board, task, now)
    elif task.expires_at is not None and task.expires_at <= now:
        end(board, task, Status.CANCELLED, now, error_message=task.error_message, reason="expired")
    else:
        board.put(task, task.change(now, ready=True), now, "task.available")


def _lose(board: Board, task: Task, now: int) -> None:
    """The worker has not been heard of for too long, or has run for too long."""
    over = (
        "ran longer than timeout_seconds" if task.lease_expires_at == task.deadline_at else "stopped renewing its lease"
    )
    error = f"attempt {task.attempt}: the worker {over}"
    if task.retry_count < task.max_retries:
        give_back(board, task, now, "task.lease_expired", retry=True, lost=True, error_message=error)
        return
    times = task.lost_leases + 1
    board.note(task, now, "task.lease_expired", error_message=error)
    error = f"the worker was lost {times} time{'s' * (times > 1)}; in the last attempt it {over}"
    end(board, task, Status.FAILED, now, lost=True, error_message=error)
