"""`task-orchestrator worker`."""

import os
import signal
import sys
from asyncio import get_running_loop
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from attrs import asdict, frozen
from cyclopts import Parameter
from cyclopts.validators import Number

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import complain, refuse_usage, say, say_json

if TYPE_CHECKING:
    from task_orchestrator.worker import Worker


@Parameter(name="*")
@frozen
class Terms:
    """How a worker takes tasks.

    Parameters
    ----------
    concurrency
        How many at a time.
    once
        Take one task, finish it and exit: 0 if it succeeded, 1 if it did not.
    lease_seconds
        How long the server waits for a sign of life before it gives the task to somebody else.
    worker_id
        The name under which the server knows this worker; made of host, process and chance if nothing is said.
    tags
        Take only tasks that bear this label; may be given several times, then they bear all.
    logs
        Send what the command prints to the task's log while it runs, for `task-orchestrator logs`.
    """

    concurrency: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 1
    once: Flag = False
    lease_seconds: Annotated[int, Parameter(validator=Number(gte=1))] = 60
    worker_id: str | None = None
    tags: Annotated[tuple[str, ...], Parameter(name="--tag", negative=(), show_default=False)] = ()
    logs: bool = True


async def worker(
    *,
    work_directory: str,
    command: Annotated[str, Parameter(name="--exec")],
    terms: Terms = Terms(),
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> int:
    """Claim the tasks of a directory and run a command for each, with the prompt on its standard input.

    The exit code of the command decides: 0 completes the task, with what it printed; another fails it, with the end
    of what it wrote to standard error and output. It does not see our API key. A task ends with its command: what
    that left running is stopped. SIGTERM stops the commands and gives their tasks back; a second one kills at once.

    Of agents that print JSON lines ('claude -p --output-format stream-json --verbose', 'codex exec --json -') the
    progress is told while they work, and their last words and cost are the result; the next attempt finds the session
    in TASK_SESSION_ID, for --resume.

    Parameters
    ----------
    work_directory
        The directory whose tasks to take; it must exist.
    command
        What to run for each task, through /bin/sh, such as 'claude -p'.
    json
        Print events as JSON, one per line.
    """
    from task_orchestrator.worker import Worker

    if not command.strip():
        refuse_usage("--exec must not be blank")
    if any("," in tag for tag in terms.tags):
        refuse_usage("--tag must not hold a comma")
    async with connection.open() as client:
        try:
            notice = _say_event_json if json else _say_event
            it = Worker(client, work_directory, command, notice=notice, **asdict(terms))
        except NotADirectoryError as error:
            refuse_usage(str(error))
        _stop_on_signal(it)
        return await it.run()


def _stop_on_signal(it: "Worker") -> None:
    asked = False

    def stop(number: int) -> None:
        nonlocal asked
        if asked:
            it.kill()
            os._exit(128 + number)
        asked = True
        it.stop()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # or else nohup asked us to stay
        numbers.append(signal.SIGHUP)
    for number in numbers:
        get_running_loop().add_signal_handler(number, stop, number)


def _say_event(event: str, /, **facts: object) -> None:
    if event == "waiting":
        return _say_waiting(**facts)
    rest = " ".join(f"{name}={value}" for name, value in facts.items() if name != "task_id")
    with suppress(OSError):  # nobody reads us any more; the work goes on
        say(f"{datetime.now():%H:%M:%S} {event:<12} {facts.get('task_id', '')} {rest}".rstrip())
        sys.stdout.flush()


def _say_event_json(event: str, /, **facts: object) -> None:
    if event == "waiting":
        return _say_waiting(**facts)
    with suppress(OSError):
        say_json({"event": event, **facts})


def _say_waiting(work_directory: object, url: object) -> None:
    with suppress(OSError):
        complain(f"waiting for tasks of {work_directory} at {url}")
