"""`task-orchestrator directories`, `pause`, `resume`, `drain` and `limit`."""

from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say, say_json, show_table
from task_orchestrator.submit import absolute

HEADS = ("waiting", "working", "completed", "failed", "cancelled")


async def directories(*, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """List the work directories: how many tasks they have, who waits there, and whether they are open."""
    async with connection.open() as client:
        found = await client.directories()
    if json:
        say_json({"work_directories": found})
        return
    heads = [*HEADS, "workers", "rules", "directory"]
    rows = [
        [*(str(it[name]) for name in HEADS), str(it["waiting_workers"]), _rules(it), it["work_directory"]]
        for it in found
    ]
    if rows:
        show_table(heads, rows, ["cancelled" if it["paused"] or it["draining"] else "" for it in found])


async def pause(
    work_directory: str,
    /,
    *,
    reason: str | None = None,
    until: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Hand out no task of a directory until it is resumed.

    Parameters
    ----------
    reason
        Why; shown to whoever asks.
    until
        When it is resumed by itself: an RFC 3339 time such as 2026-01-01T00:00:00Z.
    json
        Print the server's answer as JSON.
    """
    async with connection.open() as client:
        _show(await client.pause(absolute(work_directory), reason, until), json)


async def resume(work_directory: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Hand out the tasks of a directory again: ends a pause and a drain."""
    async with connection.open() as client:
        _show(await client.resume(absolute(work_directory)), json)


async def drain(work_directory: str, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Let those who hold a task of a directory finish it, and hand out no other."""
    async with connection.open() as client:
        _show(await client.drain(absolute(work_directory)), json)


async def limit(
    work_directory: str,
    max_working: Annotated[int | None, Parameter(validator=Number(gte=1, lte=100_000))] = None,
    /,
    *,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Let at most so many tasks of a directory be worked on at once; without a number, any.

    Parameters
    ----------
    max_working
        1: never two agents in one checkout.
    json
        Print the server's answer as JSON.
    """
    async with connection.open() as client:
        _show(await client.limit(absolute(work_directory), max_working), json)


def add_to(app: App) -> None:
    for command in (directories, pause, resume, drain, limit):
        app.command(command)


def _show(directory: dict[str, Any], json: bool) -> None:
    if json:
        say_json(directory)
    else:
        say(f"{directory['work_directory']} {_rules(directory)}")


def _rules(directory: dict[str, Any]) -> str:
    """In a few words."""
    until = f" until {directory['paused_until']}" if directory["paused_until"] else ""
    rules = [f"paused{until}"] if directory["paused"] else []
    rules += ["draining"] if directory["draining"] else []
    rules += [f"max_working={directory['max_working']}"] if directory["max_working"] else []
    return ", ".join(rules) or "open"
