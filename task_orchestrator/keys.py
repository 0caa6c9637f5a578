"""`task-orchestrator keys`: who may do what."""

from importlib import import_module
from typing import Any

from cyclopts import App

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say, say_json, show_table

OFFLINE = "web.commands"  # which the client does not know, unless it is asked to do without a server

app = App(name="keys", help="Make, list and revoke the keys that open the server.")


@app.command
async def create(
    name: str,
    /,
    *,
    scopes: str,
    work_directories: str = "*",
    expires_at: str | None = None,
    database: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Make a key, and print it. Nobody will ever see it again.

    Parameters
    ----------
    name
        Whose it is, such as ci or agent-7; shown wherever something is done with it.
    scopes
        What it may do, by comma: submit creates tasks; work claims and reports; read looks; operate cancels, retries,
        edits, deletes, pauses; admin does everything. payload: sees prompts and results unredacted.
    work_directories
        Where, by comma: patterns in which * stands for any characters and ? for one, such as '/srv/app,/srv/lib/*'.
    expires_at
        Until when, such as 2027-01-01T00:00:00Z.
    database
        Make it in this record, sqlite:///data/tasks.db or postgresql://…, without a server: for the first key.
    json
        Print the server's answer as JSON.
    """
    wanted = {"scopes": _listed(scopes), "work_directories": _listed(work_directories)}
    if database is not None:
        key = await import_module(OFFLINE).make_key(database, name=name, expires_at=expires_at, **wanted)
    else:
        async with connection.open() as client:
            key = await client.create_key(name, expires_at=expires_at, **wanted)
    if json:
        say_json(key)
    else:
        say(key["key"])


@app.command(name="list")
async def list_(*, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """List the keys: what each may do and where, who made it, until when, and when it was last used."""
    async with connection.open() as client:
        keys = await client.keys()
    if json:
        say_json({"keys": keys})
        return
    heads = ["name", "scopes", "directories", "made by", "expires", "last used"]
    if keys:
        show_table(heads, [_row(key) for key in keys], [""] * len(keys))


@app.command
async def revoke(
    name: str,
    /,
    *,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Revoke a key at once, at all servers; whoever came in with it is sent away."""
    async with connection.open() as client:
        revoked = await client.revoke_key(name)
    if json:
        say_json(revoked)
    else:
        say(f"{name} revoked")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _row(key: dict[str, Any]) -> list[str]:
    return [
        key["name"],
        ",".join(key["scopes"]),
        ",".join(key["work_directories"]),
        key["created_by"] or "-",
        key["expires_at"] or "never",
        key["last_used_at"] or "never",
    ]
