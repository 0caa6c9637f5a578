"""Who gets which task: highest priority first, then oldest; those who wait, in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.decisions.moments import later, lease_end
from dispatcher.decisions.time import fall_due
from dispatcher.messages import FOREVER, Claim, Drain, Held, Leave
from dispatcher.task import Status, Task

if TYPE_CHECKING:
    from dispatcher.board import Board, Parked


def claim(board: Board, claim: Claim, now: int) -> tuple[Task, ...] | Parked:
    for path in claim.work_directories:
        claim.by.enter(path)
    if board.draining:
        return ()
    if waiter := board.agenda.parked_as(claim):
        board.dismiss(waiter.ticket)  # the same claim, whose caller has given up on it
    tasks = board.claimed_as(claim) or hand_out(board, claim, now)
    if tasks or not claim.wait_seconds:
        return tasks
    return board.park(claim, None if claim.wait_seconds == FOREVER else later(now, claim.wait_seconds))


def hand_out(board: Board, claim: Claim, now: int) -> tuple[Task, ...]:
    tasks: list[Task] = []
    while len(tasks) < claim.limit and not board.gates.full and (task := board.best(claim)):
        if task.due_at is not None and task.due_at <= now:
            fall_due(board, task, now)  # it expired, and its Tick is still on the way
        else:
            tasks.append(_lend(board, task, claim, now))
    return tuple(tasks)


def held(board: Board, held: Held, now: int) -> tuple[Task, ...]:
    holder = (held.worker_id, held.work_directory)
    held_there = (task for task in board.working.values() if (task.worker_id, task.work_directory) == holder)
    return tuple(task for task in held_there if task.claimed_by == held.by.name)


def leave(board: Board, leave: Leave, now: int) -> None:
    board.agenda.leave(leave.ticket)


def drain(board: Board, drain: Drain, now: int) -> None:
    """It is told once, and not at all where there was no room for it: a full disk keeps nobody from stopping."""
    if not board.draining:
        board.draining = True
        board.notice(now, "server.draining")
    for waiter in board.agenda.waiters():
        board.dismiss(waiter.ticket)


def _lend(board: Board, task: Task, claim: Claim, now: int) -> Task:
    deadline_at = later(now, task.timeout_seconds)
    lent = task.move(
        Status.WORKING,
        now,
        attempt=task.attempt + 1,
        claimed_by=claim.by.name,
        worker_id=claim.worker_id,
        claim_id=claim.claim_id,
        lease_token=board.mint.lease_token(),
        lease_seconds=claim.lease_seconds,
        lease_expires_at=lease_end(now, claim.lease_seconds, deadline_at),
        deadline_at=deadline_at,
        started_at=now,
        progress=None,
        progress_told_at=None,
    )
    waiting_seconds = (now - max(task.created_at, task.available_at)) / 1000
    whose = claim.by.name
    return board.put(task, lent, now, "task.claimed", waiting_seconds=waiting_seconds, claimed_by=whose)
