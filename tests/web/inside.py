"""A server inside the test's own process, for those that must get at its parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession

from storage.sqlite.store import SqliteStore, open_store
from tests.web.conftest import Api
from web.composition import compose, listen
from web.server_log import Log
from web.service import Service
from web.sources import gather, settings_of
from web.starting import bind


@asynccontextmanager
async def inside(directory: Path, **environ: str) -> AsyncIterator[tuple[Api, Service, SqliteStore]]:
    """Its log is in the file `log`, as JSON."""
    file = directory / "log"
    given = gather({}, {"SERVER_PORT": "0", "LOG_FORMAT": "json", "APP_LOGGING_FILE": str(file), **environ}, None)
    log = Log()
    log.configure(settings_of(given).logging)
    try:
        async with (
            open_store(directory / "tasks.db") as store,
            compose(given, store, log) as (service, _),
            listen(service, bind(service.settings.server)) as url,
            ClientSession() as session,
        ):
            yield Api(session, url), service, store
    finally:
        log.close()


class Gate:
    """Stands before a coroutine function of an object, and counts who comes; until it is opened nobody gets through."""

    def __init__(self, owner: object, name: str) -> None:
        self.opened, self.came = asyncio.Event(), 0
        behind = getattr(owner, name)

        async def through(*args: object) -> object:
            self.came += 1
            await self.opened.wait()
            return await behind(*args)

        setattr(owner, name, through)
