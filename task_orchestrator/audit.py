"""`task-orchestrator audit`: who did what that matters, and whether that has been tampered with."""

from asyncio import sleep
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say, say_json, show_table
from task_orchestrator.patience import patiently

if TYPE_CHECKING:
    from task_orchestrator.client import Client

FOLLOW_SECONDS = 1.0  # between two looks for what is new
PAGE = 1000
HEADS = ["number", "at", "who", "address", "outcome", "action", "target"]

app = App(name="audit", help="Who did what that matters, from where, and what came of it.")


@app.default
async def listing(
    *,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=PAGE))] = 100,
    who: str | None = None,
    action: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    until: str | None = None,
    follow: Flag = False,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """List the audit log, newest first.

    Parameters
    ----------
    limit
        At most so many, 1 to 1000.
    who
        Only what was done with the key of this name.
    action
        Only these, separated by commas, such as keys_create,keys_revoke; access: who was turned away.
    outcome
        Only these, separated by commas: ok, or codes such as UNAUTHORIZED,FORBIDDEN.
    since
        From this time on, such as 2026-01-01T00:00:00Z.
    until
        Before this time.
    follow
        Go on with what comes, oldest first, until you stop it.
    json
        Print each entry as JSON.
    """
    only: dict[str, Any] = {"who": who, "action": action, "outcome": outcome, "since": since, "until": until}
    async with connection.open() as client:
        page = await client.audit(limit=limit, **only)
        _show(page["audit"][::-1] if follow else page["audit"], json)
        if follow:
            await _follow(client, page["next_after"], only, json)


@app.command
async def verify(
    *,
    head: str | None = None,
    database: str | None = None,
    config: Path | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> int:
    """Compute the hashes of the whole audit log again; 1 if an entry is not as it was written.

    Parameters
    ----------
    head
        NUMBER:HASH of an entry that is known to have been there, such as the last that the server's log told: so it is
        also found if the end was cut off.
    database
        Read this database itself, without a server: sqlite:///file.db, sqlite:////file.db or postgresql://host/name.
    config
        Read the database that this TOML file names.
    json
        Print what was found as JSON.
    """
    if database is not None or config is not None:
        found = await import_module("web.commands").verify_audit(database, config, head)
        if isinstance(found, int):
            return found
    else:
        async with connection.open() as client:
            found = await client.verify_audit(head)
    if json:
        say_json(found)
    else:
        say(_verdict(found))
    return 0 if found["verified"] else 1


async def _follow(client: "Client", after: int, only: dict[str, Any], json: bool) -> None:
    while True:
        page = await patiently(partial(client.audit, after=after, limit=PAGE, **only))
        _show(page["audit"], json)
        after = page["next_after"]
        await sleep(FOLLOW_SECONDS)


def _show(entries: list[dict[str, Any]], json: bool) -> None:
    if json:
        for entry in entries:
            say_json(entry)
    elif entries:
        rows = [[str(it["number"]), it["at"], *(it[name] or "-" for name in HEADS[2:-1]), _about(it)] for it in entries]
        styles = ["" if it["outcome"] == "ok" else "failed" for it in entries]
        show_table(HEADS, rows, styles)


def _about(entry: dict[str, Any]) -> str:
    target, number = entry["target"] or "", entry["details"].get("count")
    return f"{number} times" if number else target


def _verdict(found: dict[str, Any]) -> str:
    head = found["head"]
    if broken := found["broken"]:
        return f"entry {broken['number']} does not hold: {broken['reason']}\n{found['entries']} entries before it do"
    return f"{found['entries']} entries hold; the last is {head['number']}:{head['hash']}"
