"""The command line. Exit codes: 0 ok, 1 refused by the server (or the task failed), 2 usage, 3 unreachable."""

import os
import re
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, Parameter
from cyclopts.validators import Number

from task_orchestrator import Refused, Unreachable, __version__
from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import complain, say, say_json, show_entry, show_task, show_tasks

if TYPE_CHECKING:
    from task_orchestrator.client import Client
    from task_orchestrator.worker import Worker

REFUSED, USAGE, UNREACHABLE, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141
WAIT_SECONDS = 50
STEP_SECONDS = 1  # how long `watch` may be behind
FINAL = frozenset({"completed", "failed", "cancelled"})

_OPTION = re.compile(r"--?[a-z][a-z-]*(=.*)?")

app = App(name="task-orchestrator", help="A durable task queue for coding agents and those who run them.")
app.version = __version__
app.command("web.serve:app", name="serve", help="Run the server.")
app.command("task_orchestrator.demo:demo", name="demo", help="See it work: a server, two workers and real tasks.")


@app.command
async def submit(
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    file: Path | None = None,
    work_directory: str = ".",
    priority: Literal["low", "medium", "high"] | None = None,
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    max_retries: int | None = None,
    timeout_seconds: int | float | None = None,
    wait: Flag = False,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008 - frozen
) -> int:
    """Submit a task and print its id.

    Parameters
    ----------
    prompt
        What to do, or - to read it from standard input.
    file
        Read the prompt from this file instead.
    work_directory
        The directory the task belongs to; workers of that directory will claim it.
    priority
        High before medium before low; medium if nothing is said.
    tag
        A word to find it by; may be given several times.
    max_retries
        How often a task whose worker was lost is tried again.
    timeout_seconds
        The longest run of one attempt.
    wait
        Wait for the outcome and print it; the exit code is 1 if it is not `completed`.
    json
        Print the server's answer as JSON.
    """
    text = _prompt(prompt, file)
    async with connection.open() as client:
        task = await client.submit(
            text,
            work_directory=_absolute(work_directory),
            priority=priority,
            tags=tag or None,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
        )
        if wait:
            task = await _outcome(client, task["task_id"])
    if json:
        say_json(task)
    elif wait:
        show_task(task)
    else:
        say(task["task_id"])
    return REFUSED if wait and task["status"] != "completed" else 0


@app.command
async def show(task_id: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Show a task: its state, its times, its prompt, and its result in full."""
    async with connection.open() as client:
        task = await client.get(task_id)
    if json:
        say_json(task)
    else:
        show_task(task)


@app.command(name="list")
async def list_(
    *,
    work_directory: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 100,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """List tasks, newest first: id, status, priority, time of creation, prompt.

    Parameters
    ----------
    work_directory
        Only the tasks of this directory.
    limit
        At most so many, 1 to 1000.
    json
        Print the server's answer as JSON.
    """
    directory = None if work_directory is None else _absolute(work_directory)
    async with connection.open() as client:
        page = await client.list(work_directory=directory, limit=limit)
    if json:
        say_json(page)
    else:
        show_tasks(page["tasks"], page.get("total"))


@app.command
async def watch(task_id: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Print what happens to a task, as it happens, until nothing more will."""
    seen = 0
    async with connection.open() as client:
        while True:
            task = await client.get(task_id, wait_seconds=STEP_SECONDS if seen else None, until="terminal")
            for entry in await client.history(task_id):
                if entry["seq"] > seen:
                    seen = entry["seq"]
                    (say_json if json else show_entry)(entry)
            sys.stdout.flush()
            if task["status"] in FINAL:
                return


@app.command
async def worker(
    *,
    work_directory: str,
    command: Annotated[str, Parameter(name="--exec")],
    concurrency: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 1,
    once: Flag = False,
    lease_seconds: Annotated[int, Parameter(validator=Number(gte=1))] = 60,
    worker_id: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> int:
    """Claim the tasks of a directory and run a command for each, with the prompt on its standard input.

    The exit code of the command decides: 0 completes the task, with what it printed; another fails it, with the end
    of what it wrote to standard error. A task ends with its command: what that left running is stopped. SIGTERM stops
    the commands and gives their tasks back; a second one kills at once.

    Parameters
    ----------
    work_directory
        The directory whose tasks to take; it must exist.
    command
        What to run for each task, through /bin/sh, such as 'claude -p'.
    concurrency
        How many at a time.
    once
        Take one task, finish it and exit: 0 if it succeeded, 1 if it did not.
    lease_seconds
        How long the server waits for a sign of life before it gives the task to somebody else.
    worker_id
        The name under which the server knows this worker; made of host, process and chance if nothing is said.
    json
        Print events as JSON, one per line.
    """
    from task_orchestrator.worker import Worker

    async with connection.open() as client:
        try:
            it = Worker(
                client,
                work_directory,
                command,
                concurrency=concurrency,
                once=once,
                lease_seconds=lease_seconds,
                worker_id=worker_id,
                notice=_say_event_json if json else _say_event,
            )
        except NotADirectoryError as error:
            _usage(str(error))
        _stop_on_signal(it)
        return await it.run()


def main() -> None:
    """The entry point of `task-orchestrator` and of `python -m task_orchestrator`."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # replaced by something that is not a text file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except Refused as refusal:
        sys.exit(_explain(refusal))
    except Unreachable as error:
        complain(str(error))
        sys.exit(UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader has seen enough; what is still buffered must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def _explain(refusal: Refused) -> int:
    complain(f"refused ({refusal.status} {refusal.code}): {refusal.message}")
    for fault in refusal.details.get("errors") or []:
        complain(f"  {fault.get('field')}: {fault.get('reason')}")
    return REFUSED


def _usage(message: str) -> NoReturn:
    complain(message)
    raise SystemExit(USAGE)


def _prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        _usage("give a prompt, or - for standard input, or --file")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        if prompt == "-":
            return sys.stdin.buffer.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        _usage(f"the prompt cannot be read: {error}")
    if _OPTION.fullmatch(prompt or ""):  # a mistyped option, or else pass it on standard input
        _usage(f"unknown option: {prompt}")
    return prompt or ""


def _absolute(directory: str) -> str:
    windows = re.match(r"[A-Za-z]:[\\/]", directory)  # of the worker's machine, not of ours
    return directory if windows else os.path.abspath(directory)


async def _outcome(client: "Client", task_id: str) -> dict[str, Any]:
    while True:
        task = await client.get(task_id, wait_seconds=WAIT_SECONDS, until="terminal")
        if task["status"] in FINAL:
            return task


def _stop_on_signal(it: "Worker") -> None:
    from asyncio import get_running_loop

    asked = False

    def stop(number: int) -> None:
        nonlocal asked
        if asked:
            it.kill()
            os._exit(128 + number)
        asked = True
        it.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        get_running_loop().add_signal_handler(number, stop, number)


def _say_event(event: str, /, **facts: object) -> None:
    rest = " ".join(f"{name}={value}" for name, value in facts.items() if name != "task_id")
    with suppress(OSError):  # nobody reads us any more; the work goes on
        say(f"{datetime.now():%H:%M:%S} {event:<12} {facts.get('task_id', '')} {rest}".rstrip())
        sys.stdout.flush()


def _say_event_json(event: str, /, **facts: object) -> None:
    with suppress(OSError):
        say_json({"event": event, **facts})
