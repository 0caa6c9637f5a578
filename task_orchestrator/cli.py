"""The command line. Exit codes: 0 ok, 1 refused by the server (or the task failed), 2 usage, 3 unreachable."""

import os
import sys
from contextlib import suppress
from typing import Any

from cyclopts import App

from task_orchestrator import Refused, Unreachable, __version__, audit, config, directories, keys
from task_orchestrator.connection import Connection, Flag
from task_orchestrator.discretion import blank_command_line
from task_orchestrator.display import (
    complain,
    say,
    say_json,
    show_explanation,
    show_task,
)
from task_orchestrator.listing import list_
from task_orchestrator.logs import logs
from task_orchestrator.priority import priority
from task_orchestrator.stats import stats
from task_orchestrator.submit import submit
from task_orchestrator.watch import watch
from task_orchestrator.work import worker
from task_orchestrator.workers import workers

REFUSED, UNREACHABLE, INTERRUPTED, PIPE_CLOSED = 1, 3, 130, 141

app = App(name="task-orchestrator", help="A durable task queue for coding agents and those who run them.")
app.version = __version__
app.command("web.serve:app", name="serve", help="Run the server.")
app.command("web.commands:description", name="openapi", help="Print the description of the contract, OpenAPI 3.1.")
app.command("web.commands:migrate", name="migrate", help="Move everything to another database: SQLite, PostgreSQL.")
database = App(name="database", help="Look after the database file, while no server runs.")
database.command("web.commands:rekey", name="rekey", help="Encrypt the file, decrypt it, or give it another key.")
app.command(database)
app.command("task_orchestrator.demo:demo", name="demo", help="See it work: a server, two workers and real tasks.")
app.command("task_orchestrator.mcp.command:mcp", name="mcp", help="MCP over standard input and output.")
app.command("task_orchestrator.hook.command:hook", name="hook", help="What an agent's hook runs; see `kit`.")
app.command("task_orchestrator.kit.command:app", name="kit", help="Prepare a project for Claude Code or Codex.")
app.command(submit)
app.command(worker)
app.command(watch)
app.command(logs)
app.command(workers)
app.command(stats)
app.command(priority)
app.command(list_, name="list")
directories.add_to(app)
app.command(config.app)
app.command(audit.app)
app.command(keys.app)


@app.command
async def show(task_id: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Show a task: its state, its times, its prompt, and its result in full."""
    async with connection.open() as client:
        task = await client.get(task_id)
    if json:
        say_json(task)
    else:
        show_task(task)


@app.command
async def explain(task_id: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Say why a task is not being worked on, and what its position is."""
    async with connection.open() as client:
        explanation = await client.explain(task_id)
    if json:
        say_json(explanation)
    else:
        show_explanation(explanation)


@app.command
async def cancel(
    task_id: str,
    /,
    *,
    reason: str | None = None,
    force: Flag = False,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Cancel a task: nobody will work on it.

    Parameters
    ----------
    reason
        Why; kept in the task's history.
    force
        Also if somebody is working on it; the worker is told to stop.
    json
        Print the server's answer as JSON.
    """
    async with connection.open() as client:
        task = await client.cancel(task_id, reason, force)
    _say_status(task, json)


@app.command
async def retry(task_id: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Let a failed task be tried once more."""
    async with connection.open() as client:
        task = await client.retry(task_id)
    _say_status(task, json)


def _say_status(task: dict[str, Any], json: bool) -> None:
    if json:
        say_json(task)
    else:
        say(f"{task['task_id']} {task['status']}")


def main() -> None:
    """Whatever is asked on the command line; ends the process."""
    blank_command_line()
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
    faults = refusal.details.get("errors") or []
    message = f"{len(faults)} faults" if len(faults) > 1 else refusal.message
    complain(f"refused ({refusal.status} {refusal.code}): {message}")
    for fault in faults if len(faults) > 1 else ():
        complain(f"  {fault.get('field')}: {fault.get('reason')}")
    if refusal.status == 401:
        complain("give the right key in TASK_ORCHESTRATOR_API_KEY")
    return REFUSED
