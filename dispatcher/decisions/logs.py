"""What a worker prints while it works on a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from dispatcher.decisions.reports import leased
from dispatcher.errors import LogFull
from dispatcher.messages import Log
from dispatcher.ports import LogLine
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.board import Board

# Of a task, over all its attempts; beyond, LogFull.
LOG_LINES_MAX = 100_000
LOG_BYTES_MAX = 16 * 2**20


def log(board: Board, log: Log, now: int) -> Task:
    """The task is not told of as changed, nor is its lease renewed: who prints is not thereby getting on."""
    task = leased(board, log)
    size = sum(len(line.encode()) for line in log.lines)
    after = evolve(task, log_lines=task.log_lines + len(log.lines), log_bytes=task.log_bytes + size)
    if after.log_lines > LOG_LINES_MAX or after.log_bytes > LOG_BYTES_MAX:
        raise LogFull(task.log_lines, LOG_LINES_MAX, task.log_bytes, LOG_BYTES_MAX)
    lines = enumerate(log.lines, start=task.log_lines + 1)
    return board.put(task, after, now, None, tuple(LogLine(number, task.attempt, now, line) for number, line in lines))
