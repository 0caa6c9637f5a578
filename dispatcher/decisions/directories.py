"""What operators lay down for work directories: limits, pauses, drains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from dispatcher.directory import Directory
from dispatcher.fields import UNSET
from dispatcher.messages import Regulate

if TYPE_CHECKING:
    from dispatcher.board import Board

NOT_PAUSED: dict[str, Any] = {"paused": False, "paused_reason": None, "paused_until": None}


def regulate(board: Board, regulate: Regulate, now: int) -> Directory:
    before = board.gates.rules(regulate.work_directory)
    after = evolve(before, **_said(regulate))
    if after == before:
        return after
    if (after.paused, after.paused_until, after.paused_reason) != (
        before.paused,
        before.paused_until,
        before.paused_reason,
    ) and after.paused:
        board.rule(after, now, "directory.paused", reason=after.paused_reason, until=after.paused_until)
    if (before.paused and not after.paused) or (before.draining and not after.draining):
        board.rule(after, now, "directory.resumed")
    if after.max_working != before.max_working:
        board.rule(after, now, "directory.updated", max_working=after.max_working)
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


def _said(regulate: Regulate) -> dict[str, Any]:
    said: dict[str, Any] = {
        name: value for name in ("max_working", "draining") if (value := getattr(regulate, name)) is not UNSET
    }
    if regulate.paused is True:
        said |= {"paused": True, "paused_reason": regulate.paused_reason, "paused_until": regulate.paused_until}
    elif regulate.paused is False:
        said |= NOT_PAUSED
    return said
