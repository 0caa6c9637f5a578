"""The commands besides `serve` that are made of the server's parts."""

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import orjson
from attrs import asdict
from cyclopts import App, Parameter

from dispatcher.audit import head_of, verify
from dispatcher.errors import KeyExists, RecordFailed
from storage.encryption import given_key, read_key
from storage.errors import KeyFault, StorageError
from storage.inspecting import open_audit_log
from storage.moving import Moved, compare, move
from storage.sqlite.rebuild import NEVER, rebuild_file
from storage.sqlite.rekey import rekey_file
from storage.store import open_store
from web.access.audit import by_command
from web.access.keys import Keys
from web.audit import Verified, verified
from web.bodies import NewKey
from web.codec import Invalid, rfc3339, structure
from web.keys import CreatedKey, created, told_of_key
from web.migrating import aligned, listener
from web.openapi import describe
from web.routes import ROUTES
from web.settings import SQLITE, SettingsError, database_url
from web.sources import gather, load, settings_of

Flag = Annotated[bool, Parameter(negative="")]

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
        settings = load({"database": database}, os.environ, config).database
        path = settings.path
        if path is None:
            raise StorageError("this is for SQLite: on PostgreSQL the statistics are kept by the servers")
        since = rebuild_file(path, tell_progress, given_key(settings.encryption_key_file, settings.encryption_key))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"the statistics cannot be rebuilt: {error}", file=sys.stderr)
        return exit_code(error)
    whole = {0: "the whole history", NEVER: "nothing: the end of the history is missing"}
    print(f"{path}: rebuilt from {whole.get(since) or f'the history since {rfc3339(since)}'}")
    return 0


async def verify_audit(database: str | None, config: Path | None, head: str | None) -> Verified | int:
    """What `task-orchestrator audit verify` finds without a server, or its exit code, once said why."""
    try:
        known = head_of(head) if head else None
        settings = load({"database": database}, os.environ, config).database
        key = given_key(settings.encryption_key_file, settings.encryption_key)
        async with open_audit_log(settings.url, key) as log:
            return verified(await verify(log, known))
    except (SettingsError, ValueError) as error:
        print(error if isinstance(error, SettingsError) else f"--head: {error}", file=sys.stderr)
        return 2
    except (StorageError, TimeoutError) as error:
        print(f"the audit log cannot be read: {error or 'the database does not answer'}", file=sys.stderr)
        return exit_code(error)


def exit_code(error: Exception) -> int:
    """A wrong encryption key is a wrong setting."""
    return 2 if isinstance(error, KeyFault) else 1


async def make_key(
    database: str, *, name: str, scopes: Sequence[str], work_directories: Sequence[str], expires_at: str | None
) -> CreatedKey:
    """As POST /api/v1/keys would answer; without a server, on a record that is made if need be. Ends the process where
    that cannot be."""
    asked = {"name": name, "scopes": list(scopes), "work_directories": list(work_directories), "expires_at": expires_at}
    try:
        new = structure(asked, NewKey)
        settings = settings_of(gather({"database": database}, os.environ, None)).database
        key = given_key(settings.encryption_key_file, settings.encryption_key)
        async with open_store(settings.url, key=key) as store:
            clock = store.clock(await store.load())
            keys = Keys(store.keyring, clock, None, asyncio.Event())
            await keys.load()
            made = await keys.create(new.name, new.scopes, new.work_directories, new.expires_at, None)
            try:
                told = by_command("keys_create", new.name, told_of_key(new), clock())
                await store.audit_log.append([told])
            except BaseException:  # nobody knows it yet
                await keys.revoke(new.name)
                raise
            return created(*made)
    except (Invalid, SettingsError) as error:
        for fault in error.faults:
            print(f"{fault.field}: {fault.reason}", file=sys.stderr)
        sys.exit(2)
    except (StorageError, KeyExists, RecordFailed) as error:
        print(f"the key cannot be made: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


def tell_progress(seq: int, last: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{seq:,} of {last:,}", end="\r", file=sys.stderr, flush=True)


def rekey(
    *,
    new_key_file: Path | None = None,
    plain: Flag = False,
    config: Annotated[Path | None, Parameter(help="A TOML file with settings.")] = None,
    database: Annotated[str | None, Parameter(help="sqlite:///relative/path.db or sqlite:////absolute/path.db")] = None,
) -> int:
    """Encrypt the database file, decrypt it, or give it another key, while no server runs.

    The key that it has now is the one in the settings. The file is copied first, which takes as much room as it does:
    at any moment it is either as before or done.

    Parameters
    ----------
    new_key_file
        Where the key is that it shall have: /dev/stdin is the standard input.
    plain
        It shall have none.
    """
    if (new_key_file is None) != plain:
        print("give either --new-key-file or --plain", file=sys.stderr)
        return 2
    try:
        settings = load({"database": database}, os.environ, config).database
        if settings.path is None:
            raise StorageError("this is for SQLite: what PostgreSQL keeps is encrypted where it keeps it")
        new_key = read_key(new_key_file, "--new-key-file") if new_key_file else None
        present = given_key(settings.encryption_key_file, settings.encryption_key)
        changed = rekey_file(settings.path, present, new_key)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"nothing was changed: {error}", file=sys.stderr)
        return exit_code(error)
    if new_key and new_key.is_short:
        print("the new key is short: make one with `openssl rand -hex 32`", file=sys.stderr)
    state = "encrypted with the new key" if new_key else "not encrypted"
    print(f"{settings.path}: {state if changed else f'it is {state} already'}")
    return 0


def migrate(
    *,
    source: Annotated[str, Parameter(name="--from")],
    target: Annotated[str, Parameter(name="--to")],
    from_key_file: Path | None = None,
    to_key_file: Path | None = None,
    restart: Flag = False,
    verify_only: Flag = False,
    json: Flag = False,
) -> int:
    """Move everything from SQLite to PostgreSQL, back, or to another of the same kind, while no server runs on either.

    Said again after an interruption, it goes on where it was. In the end both sides are read again and compared.

    Parameters
    ----------
    source
        Where it is: sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://user@host/database.
    target
        Where it goes, likewise: nothing must be there yet but what an interrupted move has written.
    from_key_file
        The key of the file that it is in, if that is encrypted.
    to_key_file
        The key of the file that it goes to, which is encrypted then.
    restart
        Start over: what an interrupted move has written is removed first.
    verify_only
        Only compare the two.
    json
        Print what was compared as JSON.
    """
    for option, url, key_file in (("--from", source, from_key_file), ("--to", target, to_key_file)):
        try:
            database_url(url)
        except ValueError as error:  # without the URL: there may be a password in it
            print(f"{option}: {error}", file=sys.stderr)
            return 2
        if key_file and not url.startswith(SQLITE):
            print(f"{option}-key-file is for SQLite", file=sys.stderr)
            return 2
    if source == target:
        print("--from and --to are the same", file=sys.stderr)
        return 2
    began = monotonic()
    try:
        source_key = read_key(from_key_file, "--from-key-file") if from_key_file else None
        target_key = read_key(to_key_file, "--to-key-file") if to_key_file else None
        with listener() as told:
            ends, act = (source, target, told), compare if verify_only else partial(move, restart=restart)
            result = asyncio.run(act(*ends, source_key=source_key, target_key=target_key))
    except StorageError as error:
        print(error, file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("interrupted: say the same again, and it goes on", file=sys.stderr)
        return 130
    seconds = monotonic() - began
    print(orjson.dumps(as_json(result, seconds)).decode() if json else as_text(result, seconds))
    if not result.is_same and not verify_only:
        print(f"{result.target} is left unfinished: no server takes it", file=sys.stderr)
    return 0 if result.is_same else 1


def as_json(result: Moved, seconds: float) -> dict[str, Any]:
    tables = [asdict(one) | {"is_same": one.is_same} for one in result.tables]
    rows = sum(one.rows for one in result.tables)
    return {
        "from": result.source,
        "to": result.target,
        "is_same": result.is_same,
        "rows": rows,
        "resumed_rows": result.resumed,
        "seconds": round(seconds, 3),
        "tables": tables,
    }


def as_text(result: Moved, seconds: float) -> str:
    rows = [("table", "rows", "checksum")]
    for one in result.tables:
        there = "" if one.is_same else f"  DIFFERS: {one.rows_there:,} rows, {one.checksum_there} at the target"
        rows.append((one.table, f"{one.rows:,}", one.checksum + there))
    number = sum(one.rows for one in result.tables)
    end = "everything is the same on both sides" if result.is_same else "they are not the same"
    return f"{aligned(rows)}\n{number:,} rows in {seconds:.1f} s: {end}"
