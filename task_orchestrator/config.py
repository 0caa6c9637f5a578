"""`task-orchestrator config`: the settings of a running server."""

import json as json_
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import refuse_usage, say, say_json, show_table

app = App(name="config", help="Show and change the settings of a running server.")


@app.command
async def get(key: str | None = None, /, *, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """Show the settings in force, where each comes from, and what takes a restart.

    Parameters
    ----------
    key
        Only this one, such as task.max_task_retries: its value alone.
    json
        Print the server's answer as JSON; of one setting, all that is told of it.
    """
    async with connection.open() as client:
        config = await client.config()
    if key is None:
        _show(config, json)
    elif key not in config["settings"]:
        refuse_usage(f"there is no setting {key}")
    elif json:
        say_json(config["settings"][key])
    else:
        say(_text(config["settings"][key]["value"]))


@app.command(name="set")
async def set_(
    *changes: str,
    reason: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Change settings while the server runs, all of them or none: KEY=VALUE ...

    Parameters
    ----------
    changes
        Such as task.max_task_retries=5. The value is JSON, or text if it is none; null takes back what was set so.
    reason
        Why; kept in the history.
    json
        Print the server's answer as JSON.
    """
    wanted = dict(map(_change, changes))
    if not wanted:
        refuse_usage("give at least one KEY=VALUE")
    async with connection.open() as client:
        config = await client.configure(wanted, reason)
    _show({**config, "settings": {key: config["settings"][key] for key in wanted}}, json, whole=config)


@app.command
async def history(
    *,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 100,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """List the changes of the settings, newest first: version, time, who, what, why.

    Parameters
    ----------
    limit
        At most so many, 1 to 1000.
    json
        Print the server's answer as JSON.
    """
    async with connection.open() as client:
        page = await client.config_history(limit=limit)
    if json:
        say_json(page)
    elif versions := page["versions"]:
        rows = [[str(it["version"]), it["at"], it["who"], it["reason"] or "", _changes(it)] for it in versions]
        show_table(["version", "at", "who", "reason", "changes"], rows, [""] * len(rows))


@app.command
async def rollback(
    version: Annotated[int, Parameter(validator=Number(gte=0))],
    /,
    *,
    reason: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Set at run time what was set so at an earlier version, and nothing else; 0 takes everything back.

    Parameters
    ----------
    reason
        Why; kept in the history.
    json
        Print the server's answer as JSON.
    """
    async with connection.open() as client:
        _show(await client.rollback_config(version, reason), json)


def _change(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        refuse_usage(f"{text!r} is not KEY=VALUE")
    try:
        return key, json_.loads(value)
    except ValueError:
        return key, value


def _show(config: dict[str, Any], json: bool, whole: dict[str, Any] | None = None) -> None:
    """The settings as a table; as JSON, all of the answer."""
    if json:
        say_json(whole or config)
        return
    rows = [
        [key, it["source"], "" if it["reloadable"] else "restart", _text(it["value"])]
        for key, it in config["settings"].items()
    ]
    show_table(["setting", "from", "takes", "value"], rows, [""] * len(rows))
    say(f"version {config['version']}")


def _changes(version: dict[str, Any]) -> str:
    told = version["changes"].items()
    return ", ".join(f"{key}: {_text(it['from'])} -> {_text(it['to'])}" for key, it in told)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_.dumps(value)
