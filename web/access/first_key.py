"""The first key: nobody serves beyond their own machine before there is one."""

import os
from contextlib import suppress

from dispatcher.errors import KeyExists
from web.access.door import Door
from web.access.keys import Keys, new_secret
from web.access.networks import is_loopback
from web.codec import Fault
from web.settings import Settings, SettingsError

FIRST = "admin"


async def make_first_key(keys: Keys, file: str) -> bool:
    """Into that file, readable by its owner alone, unless somebody has ever had a key that may make others. Raises
    SettingsError, RecordFailed."""
    if keys.has_had_admin:
        return False
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsError([Fault("security.initial_key_file", f"{file}: {_why_not(error)}")]) from None
    try:
        secret = new_secret()
        with os.fdopen(handle, "w") as stream:  # first: a key that nobody has would shut everybody out
            stream.write(f"{secret}\n")
            stream.flush()
            os.fsync(stream.fileno())
        await keys.create(FIRST, ["admin"], ["*"], None, None, secret)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(file)
        if isinstance(error, KeyExists):  # another server on the same record was faster
            await keys.load()
            return False
        raise
    return True


def _why_not(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "is there already, and nothing is written over it: move it away, or name another"
    return error.strerror or str(error)


def refuse_open_record(settings: Settings) -> None:
    """Raises SettingsError where a record would have to be made to find out that nobody has a key."""
    path, security = settings.database.path, settings.security
    if path is None or path.exists() or is_loopback(settings.server.host):
        return
    if security.api_key is None and security.initial_key_file is None and security.jwt_algorithm is None:
        raise SettingsError([_no_key(settings)])


def refuse_open_door(door: Door, settings: Settings) -> None:
    """Raises SettingsError where others could come in, and nobody has a key."""
    if not door.keys.has_had_any and not door.is_local and door.tokens is None:
        raise SettingsError([_no_key(settings)])


def _no_key(settings: Settings) -> Fault:
    database = settings.database
    url = f"sqlite:///{database.path.absolute()}" if database.path else database.shown  # wherever it is said
    make = f"task-orchestrator keys create {FIRST} --scopes admin --database {url}"
    reason = f"{settings.server.host} can be reached from other machines, and there is no key"
    return Fault("server.host", f"{reason}; make one: {make} (or set API_SECRET_KEY, or use 127.0.0.1)")
