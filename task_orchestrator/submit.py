"""`task-orchestrator submit`."""

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import asdict, frozen
from cyclopts import Parameter

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import FINAL, complain, refuse_usage, say, say_json, show_task
from task_orchestrator.patience import patiently

if TYPE_CHECKING:
    from task_orchestrator.client import Client

WAIT_SECONDS = 50

_OPTION = re.compile(r"--?[a-z][a-z-]*(=.*)?")


@Parameter(name="*")
@frozen
class Wishes:
    """What is said about a task besides its prompt.

    Parameters
    ----------
    work_directory
        The directory the task belongs to; workers of that directory will claim it.
    priority
        High before medium before low; medium if nothing is said.
    tags
        A label that claims can ask for; may be given several times.
    max_retries
        How often a task whose worker was lost is tried again.
    timeout_seconds
        The longest run of one attempt.
    depends_on
        The id of a task that must have completed before; may be given several times.
    """

    work_directory: str = "."
    priority: Literal["low", "medium", "high"] | None = None
    tags: Annotated[tuple[str, ...], Parameter(name="--tag", negative=(), show_default=False)] = ()
    max_retries: int | None = None
    timeout_seconds: int | float | None = None
    depends_on: Annotated[tuple[str, ...], Parameter(name="--depends-on", negative=(), show_default=False)] = ()

    def fields(self) -> dict[str, Any]:
        """As the client takes them."""
        lists = {"tags": self.tags or None, "depends_on": self.depends_on or None}
        return asdict(self) | {"work_directory": absolute(self.work_directory), **lists}


async def submit(
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    file: Path | None = None,
    wishes: Wishes = Wishes(),
    wait: Flag = False,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> int:
    """Submit a task and print its id.

    Parameters
    ----------
    prompt
        What to do, or - to read it from standard input.
    file
        Read the prompt from this file instead.
    wait
        Print the id to standard error, wait for the outcome and print that; exit with 1 if it is not `completed`.
    json
        Print the server's answer as JSON.
    """
    text, fields = _prompt(prompt, file), wishes.fields()
    _note_absence(fields["work_directory"])
    async with connection.open() as client:
        task = await client.submit(text, **fields)
        if wait:
            complain(task["task_id"])
            task = await _outcome(client, task["task_id"])
    if json:
        say_json(task)
    elif wait:
        show_task(task)
    else:
        say(task["task_id"])
    return 1 if wait and task["status"] != "completed" else 0


def absolute(directory: str) -> str:
    """Relative to where we are, links left as typed; a Windows path is of the worker's machine, not of ours."""
    return directory if re.match(r"[A-Za-z]:[\\/]", directory) else os.path.abspath(directory)


def _note_absence(directory: str) -> None:
    """Often a slip of the pen, but the workers may be on another machine."""
    if not os.path.isdir(directory):
        complain(f"note: {directory} does not exist on this machine")


def _prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        refuse_usage("give a prompt, or - for standard input, or --file")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        if prompt == "-":
            return sys.stdin.buffer.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        refuse_usage(f"the prompt cannot be read: {error}")
    if _OPTION.fullmatch(prompt or ""):  # mistyped; who means it passes it on standard input
        refuse_usage(f"unknown option: {prompt}")
    return prompt or ""


async def _outcome(client: "Client", task_id: str) -> dict[str, Any]:
    while True:
        task = await patiently(partial(client.get, task_id, wait_seconds=WAIT_SECONDS, until="terminal"))
        if task["status"] in FINAL:
            return task
