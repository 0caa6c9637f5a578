"""The commands besides `serve` that are made of the server's parts."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import orjson
from cyclopts import App, Parameter

from storage.errors import StorageError
from storage.sqlite.rebuild import NEVER, rebuild_file
from web.codec import rfc3339
from web.openapi import describe
from web.routes import ROUTES
from web.settings import SettingsError
from web.sources import load

description = App(name="openapi", help="Print the description of the contract, OpenAPI 3.1 in JSON.")


@description.default
def print_description(*, json: Annotated[bool, Parameter(negative="", help="On a single line.")] = False) -> None:
    """Print the description of the contract, OpenAPI 3.1 in JSON, as the server tells it at /openapi.json."""
    document = describe(ROUTES, version("task-orchestrator"))
    print(orjson.dumps(document, option=0 if json else orjson.OPT_INDENT_2).decode())


def rebuild_statistics(
    *,
    config: Annotated[Path | None, Parameter(help="A TOML file with settings.")] = None,
    database: Annotated[str | None, Parameter(help="sqlite:///relative/path.db or sqlite:////absolute/path.db")] = None,
) -> int:
    """Count everything in the history once more, while no server runs. What the history no longer tells is kept."""
    try:
        path = load({"database": database}, os.environ, config).database.path
        if path is None:
            raise StorageError("this is for SQLite: on PostgreSQL the statistics are kept by the servers")
        since = rebuild_file(path, tell_progress)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"the statistics cannot be rebuilt: {error}", file=sys.stderr)
        return 1
    whole = {0: "the whole history", NEVER: "nothing: the end of the history is missing"}
    print(f"{path}: rebuilt from {whole.get(since) or f'the history since {rfc3339(since)}'}")
    return 0


def tell_progress(seq: int, last: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{seq:,} of {last:,}", end="\r", file=sys.stderr, flush=True)
