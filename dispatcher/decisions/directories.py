"""What operators lay down for work directories: limits, pauses, drains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from dispatcher.directory import Directory
from dispatcher.errors import NotPaused
from dispatcher.fields import UNSET
from dispatcher.messages import Regulate

if TYPE_CHECKING:
    from dispatcher.board import Board

NOT_PAUSED: dict[str, Any] = {"paused": False, "paused_reason": None, "paused_until": None}


def regulate(board: Board, regulate: Regulate, now: int) -> Directory:
    regulate.by.enter(regulate.work_directory)
    before = board.gates.rules(regulate.work_directory)
    after = _ruled(before, regulate)
    if after.max_working != before.max_working:
        board.rule(after, now, "directory.updated", max_working=after.max_working)
    if after.paused and _pause(after) != _pause(before):
        board.rule(after, now, "directory.paused", reason=after.paused_reason, until=after.paused_until)
    if (before.paused and not after.paused) or (before.draining and not after.draining):
        board.rule(after, now, "directory.resumed")
    if after.draining and not before.draining:
        board.rule(after, now, "directory.draining")
        note_drained(board, after.work_directory, now)
    return after


def end_pauses(board: Board, now: int) -> None:
    for directory in board.gates.ended_pauses(now):
        board.rule(evolve(directory, **NOT_PAUSED), now, "directory.resumed", reason="paused_until")


def note_drained(board: Board, work_directory: str, now: int) -> None:
    """A line for those who wait until nobody works there any more."""
    rules = board.gates.rules(work_directory)
    if rules.draining and not board.gates.working_in(work_directory):
        board.rule(rules, now, "directory.drained")


def _ruled(before: Directory, regulate: Regulate) -> Directory:
    names = ("max_working", "paused", "paused_reason", "paused_until", "draining")
    after = evolve(before, **{name: said for name in names if (said := getattr(regulate, name)) is not UNSET})
    if after.paused:
        return after
    for name in ("paused_reason", "paused_until"):
        if getattr(regulate, name) not in (UNSET, None):
            raise NotPaused(name)
    return evolve(after, **NOT_PAUSED)


def _pause(directory: Directory) -> tuple[object, ...]:
    return directory.paused, directory.paused_reason, directory.paused_until
