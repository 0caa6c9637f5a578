"""What `task-orchestrator migrate` shows: how far it has come, and in the end what was compared."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


@define
class Lines:
    """A line for each table, when it is done."""

    _began: dict[str, tuple[float, int]] = field(factory=dict)
    _told: set[str] = field(factory=set)

    def copied(self, table: str, rows: int, total: int) -> None:
        self._tell(f"copied {table}", rows, total)

    def compared(self, table: str, rows: int, total: int) -> None:
        self._tell(f"compared {table}", rows, total)

    def _tell(self, what: str, rows: int, total: int) -> None:
        since, before = self._began.setdefault(what, (monotonic(), rows))
        if rows >= total and what not in self._told:
            self._told.add(what)
            speed = (rows - before) / max(monotonic() - since, 0.001)
            print(f"{what}: {rows:,} rows, {speed:,.0f}/s", file=sys.stderr, flush=True)


class Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


@define
class Bars:
    """A bar for each table."""

    _progress: Progress
    _bars: dict[str, TaskID] = field(factory=dict)

    def copied(self, table: str, rows: int, total: int) -> None:
        self._tell(f"copy {table}", rows, total)

    def compared(self, table: str, rows: int, total: int) -> None:
        self._tell(f"compare {table}", rows, total)

    def _tell(self, what: str, rows: int, total: int) -> None:
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._bars[what], completed=rows, total=max(rows, total))


@contextmanager
def listener() -> Iterator[Lines | Bars]:
    """Bars if somebody looks on, else lines; on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    number = TextColumn("{task.completed:,} of {task.total:,}", justify="right")
    columns = (TextColumn("{task.description}"), BarColumn(), number, Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


def aligned(rows: list[tuple[str, str, str]]) -> str:
    """As a table; the second column are numbers."""
    first, second = (max(len(row[place]) for row in rows) for place in (0, 1))
    return "\n".join(f"{name:{first}}  {number:>{second}}  {rest}" for name, number, rest in rows)
