"""`task-orchestrator logs`."""

import sys
from asyncio import sleep
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from attrs import define, field
from cyclopts import Parameter
from cyclopts.validators import Number

from task_orchestrator.backoff import SHORTEST_SECONDS
from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say, say_json
from task_orchestrator.errors import Unreachable
from task_orchestrator.patience import patiently

if TYPE_CHECKING:
    from task_orchestrator.client import Client


async def logs(
    task_id: str,
    /,
    *,
    follow: Flag = False,
    attempt: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Print what the commands that worked on a task have printed.

    Parameters
    ----------
    follow
        Go on printing as it comes, also over retries, until the task has ended.
    attempt
        Only what this attempt printed, counted from 1.
    json
        Print each line as JSON, with its number, its attempt and its time.
    """
    async with connection.open() as client:
        reading = _Reading(client, task_id, attempt, say_json if json else _say_line)
        await (reading.follow() if follow else reading.pages())


@define
class _Reading:
    client: "Client"
    task_id: str
    attempt: int | None
    show: Callable[[dict[str, Any]], None]
    number: int = 0  # of the last line shown
    _is_open: bool = field(default=False, init=False)

    async def pages(self) -> None:
        while True:
            page = await self.client.logs(self.task_id, after=self.number, attempt=self.attempt)
            if not page["lines"]:
                return
            for line in page["lines"]:
                self._take(line)

    async def follow(self) -> None:
        while not await patiently(self._follow_once):  # noqa: ASYNC110 - the pause is for a server that restarts
            await sleep(SHORTEST_SECONDS)

    async def _follow_once(self) -> bool:
        """Whether that was all. A stream that ends otherwise is opened again; raises if it cannot be."""
        self._is_open = False
        stream = self.client.follow(
            self.task_id, after=self.number, attempt=self.attempt, opened=partial(setattr, self, "_is_open", True)
        )
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    if event.type == "end":
                        return True
                    self._take(event.json())
                    sys.stdout.flush()
        except Unreachable:
            if not self._is_open:
                raise
        return False

    def _take(self, line: dict[str, Any]) -> None:
        self.show(line)
        self.number = line["number"]


def _say_line(line: dict[str, Any]) -> None:
    say(line["line"])
