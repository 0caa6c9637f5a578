"""What a board must learn from the record before it can decide some messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dispatcher.fields import REF
from dispatcher.messages import (
    Claim,
    Create,
    CreateMany,
    Delete,
    LeaseMessage,
    Message,
    Retry,
    SteerMany,
    TaskMessage,
    Tick,
)
from dispatcher.ports import LaneKey, Needs, Slice

if TYPE_CHECKING:
    from dispatcher.board import Board

LANES_PER_BATCH = 64  # slices fetched for one batch; claims beyond them are decided in the next


def needs(board: Board, messages: Iterable[Message[Any]], now: int) -> Needs:
    tasks: set[str] = set()
    parents: set[str] = set()
    leases: set[tuple[str, str]] = set()
    lanes: dict[LaneKey, Slice] = {}
    keys: set[str] = set()
    due = False
    for message in messages:
        if isinstance(message, Claim | Tick):
            for key, slice in _lanes(board, message, now):
                lanes[key] = max(slice, lanes.get(key, slice), key=lambda slice: (slice.enough, slice.limit))
            due = due or (isinstance(message, Tick) and _lacks_due(board, now))
        elif isinstance(message, TaskMessage):
            if message.task_id not in board.working and message.task_id not in board.visitors.tasks:
                tasks.add(message.task_id)
            if isinstance(message, LeaseMessage):
                leases.update(_lease(board, message))
        elif isinstance(message, Create | CreateMany):
            keys.update(key for key in message.idempotency_keys() if key not in board.visitors.keys)
            for create in (message,) if isinstance(message, Create) else message.drafts:
                parents.update(_unknown(board, create.depends_on) if create else ())
        elif isinstance(message, SteerMany):
            parents.update(_unknown(board, message.task_ids))
        if len(lanes) >= LANES_PER_BATCH:
            break
    return Needs(tasks=tasks, parents=parents, leases=leases, keys=keys, lanes=lanes, due=due, now=now)


def _lanes(board: Board, message: Claim | Tick, now: int) -> Iterator[tuple[LaneKey, Slice]]:
    """What a claim may get, once those before it have been served; a Tick learns about some of these in each batch."""
    wanted: Iterable[Claim]
    if isinstance(message, Tick):
        wanted = () if board.visitors.have_learnt else board.agenda.wanted()
    elif board.is_behind(message):
        wanted = board.agenda.wanted()
    else:
        wanted = () if board.gates.full else (message,)
    for claim in wanted:
        yield from board.agenda.lacks(claim, board.gates.is_open, now)


def _lacks_due(board: Board, now: int) -> bool:
    return board.visitors.overdue is None and board.due is not None and board.due <= now


def _unknown(board: Board, names: Iterable[str]) -> Iterator[str]:
    known = (board.working, board.visitors.tasks, board.visitors.parents)
    for name in names:
        if not name.startswith(REF) and not any(name in tasks for tasks in known):
            yield name


def _lease(board: Board, message: LeaseMessage) -> Iterator[tuple[str, str]]:
    """A token that is not the current one: only the history can tell what became of it."""
    task, token = board.working.get(message.task_id), message.lease_token
    if token and not (task and task.leased_by(token)) and (message.task_id, token) not in board.visitors.leases:
        yield message.task_id, token


def comes_too_early(board: Board, message: Message[Any], now: int) -> bool:
    """It must not be decided before what is due: a claim would go away with nothing though a task may come free, or the
    end of a task would be undone before all have heard of it."""
    if isinstance(message, Claim):
        may_find_nothing = not message.wait_seconds and board.is_due(now)
        return may_find_nothing and not board.claimed_as(message) and board.best(message) is None
    if isinstance(message, Retry | Delete):
        return _has_to_tell(board, message.task_id)
    if isinstance(message, SteerMany) and message.action in ("retry", "delete"):
        return any(_has_to_tell(board, task_id) for task_id in message.task_ids)
    return False


def _has_to_tell(board: Board, task_id: str) -> bool:
    task = board.parent(task_id)
    return task is not None and task.tell_from is not None
