"""`task-orchestrator serve`: the composition root, the only place that knows all layers."""

import asyncio
import gc
import logging
import os
import resource
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import orjson
import uvloop
from aiohttp.web import TCPSite
from cyclopts import App, Parameter

from dispatcher.actor import Dispatcher
from dispatcher.board import Board
from dispatcher.clock import SystemClock
from dispatcher.errors import Unavailable
from dispatcher.hub import Hub
from dispatcher.messages import Drain
from dispatcher.mint import SystemMint
from dispatcher.roll import SEEN_SECONDS, Roll
from storage.errors import StorageError
from storage.rebuild import NEVER, rebuild_file
from storage.store import SqliteStore, open_store
from web.app import ROUTES, make_app
from web.codec import Fault, rfc3339
from web.configuration import begin
from web.connections import Runner
from web.feed import Feed
from web.openapi import describe
from web.reconfiguring import read_again
from web.security import is_loopback
from web.service import Service
from web.settings import Settings, SettingsError
from web.sources import Given, gather, load, settings_of
from web.webhooks import Courier

SHUTDOWN_SECONDS = 0.5  # how long a request under way may still take once the server stops
BACKLOG = 1024  # connections that the system keeps until they are accepted

log = logging.getLogger(__name__)

app = App(name="serve", help="Run the server.")
description = App(name="openapi", help="Print the description of the contract, OpenAPI 3.1 in JSON.")


@app.default
def serve(
    *,
    config: Annotated[Path | None, Parameter(help="A TOML file with settings.")] = None,
    host: Annotated[str | None, Parameter(help="The address to listen on; beyond loopback only with a key.")] = None,
    port: Annotated[str | None, Parameter(help="The port; 0 for any free one.")] = None,
    database: Annotated[str | None, Parameter(help="sqlite:///relative/path.db or sqlite:////absolute/path.db")] = None,
    api_key: Annotated[str | None, Parameter(help="What callers must present; better set API_SECRET_KEY.")] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error or critical.")] = None,
) -> int:
    """Run the server until it is told to stop (SIGTERM or Ctrl-C). Every setting is described in the README."""
    options = {"host": host, "port": port, "database": database, "api_key": api_key, "log_level": log_level}
    try:
        gather_again = partial(gather, options, os.environ, config)
        given = gather_again()
        settings = settings_of(given)
        refuse_open_door(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # it tells of every function it runs
    logging.basicConfig(level=settings.logging.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    allow_many_connections()
    collect_rarely()
    try:
        return uvloop.run(run(given, gather_again))
    except (StorageError, OSError, Unavailable) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        print(f"task-orchestrator cannot start: {why}", file=sys.stderr)
        return 1


@description.default
def print_description(*, json: Annotated[bool, Parameter(negative="", help="On a single line.")] = False) -> None:
    """Print the description of the contract, OpenAPI 3.1 in JSON, as the server tells it at /openapi.json."""
    document = describe(ROUTES, version("task-orchestrator"))
    print(orjson.dumps(document, option=0 if json else orjson.OPT_INDENT_2).decode())


def log_as_set(settings: Settings) -> None:
    logging.getLogger().setLevel(settings.logging.level.upper())


def rebuild_statistics(
    *,
    config: Annotated[Path | None, Parameter(help="A TOML file with settings.")] = None,
    database: Annotated[str | None, Parameter(help="sqlite:///relative/path.db or sqlite:////absolute/path.db")] = None,
) -> int:
    """Count everything in the history once more, while no server runs. What the history no longer tells is kept."""
    try:
        path = load({"database": database}, os.environ, config).database.path
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
        print(f"\r{seq:,} of {last:,}", end="\n" if seq == last else "", file=sys.stderr, flush=True)


def refuse_open_door(settings: Settings) -> None:
    if settings.security.api_key is None and not is_loopback(settings.server.host):
        reason = f"{settings.server.host} can be reached from other machines: set API_SECRET_KEY, or use 127.0.0.1"
        raise SettingsError([Fault("--host", reason)])


def allow_many_connections() -> None:
    """As many open files as the system lets us have: each waiting worker is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_rarely() -> None:
    """Hardly anything here forms cycles: looking for them at Python's pace costs a fifth of the throughput."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def run(given: Given, gather_again: Callable[[], Given]) -> int:
    """Serve until a signal comes (0) or the record can no longer be written (1). SIGHUP reads the settings again."""
    stop, hangup = asyncio.Event(), asyncio.Event()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hangup)):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    database = settings_of(given).database
    async with (
        open_store(database.path, synchronous=database.synchronous, timeout_seconds=database.timeout_seconds) as store,
        compose(given, store) as (service, deciding),
        listen(service) as url,
        heeding(hangup, partial(read_again, service, gather_again)),
    ):
        with suppress(OSError):  # nobody need read it
            print(greeting(url, service.settings), flush=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([deciding, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    if error := deciding.exception():
        log.critical("the record cannot be written, or the dispatcher is at fault: the server stops", exc_info=error)
        return 1
    return 0


@asynccontextmanager
async def heeding(signal: asyncio.Event, act: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Act whenever the signal comes; many at once count as one, and one that goes wrong does not end it."""

    async def heed() -> None:
        while await signal.wait():
            signal.clear()
            try:
                await act()
            except Exception:
                log.exception("what a signal asked for could not be done")

    heeding = asyncio.create_task(heed())
    try:
        yield
    finally:
        heeding.cancel()
        await asyncio.wait([heeding])


@asynccontextmanager
async def compose(given: Given, store: SqliteStore) -> AsyncIterator[tuple[Service, "asyncio.Task[None]"]]:
    """The service on its record, and the task in which the dispatcher decides. At the end all asked is answered."""
    snapshot = await store.load()
    configuration, faults = begin(given, snapshot.config_version, snapshot.runtime)
    for fault in faults:
        log.warning("set at run time, but of no effect: %s: %s", fault.field, fault.reason)
    rules = configuration.settings.task.rules()
    clock, hub, feed = SystemClock(snapshot.last_at), Hub(), Feed(snapshot.last_seq)
    hub.watch(feed.publish)
    roll = Roll(await store.record.sightings(clock() - SEEN_SECONDS * 1000))
    dispatcher = Dispatcher(Board(snapshot, SystemMint(), rules), store, hub, clock, roll)
    deciding = asyncio.create_task(dispatcher.run())
    await dispatcher.begun.wait()
    service = Service(
        dispatcher=dispatcher,
        record=store.record,
        hub=hub,
        feed=feed,
        clock=clock,
        configuration=configuration,
        version=version("task-orchestrator"),
        courier=Courier(store.record, store, clock),
    )
    service.follow(log_as_set)
    service.follow(lambda settings: service.courier.adopt(settings.webhooks))
    hub.watch(service.courier.hear)
    telling = asyncio.create_task(service.courier.run())
    try:
        yield service, deciding
    finally:
        dispatcher.close()
        await asyncio.wait([deciding])
        telling.cancel()
        await asyncio.wait([telling])


@asynccontextmanager
async def listen(service: Service) -> AsyncIterator[str]:
    """Take requests at the URL given. At the end whoever waits is sent away first, so that nobody holds it up."""
    server = service.settings.server
    runner = Runner(
        make_app(service),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=server.request_timeout_seconds,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        site = TCPSite(runner, server.host, server.port, backlog=BACKLOG)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        await site.stop()
    finally:
        service.draining.set()
        with suppress(Unavailable):
            await service.dispatcher.ask(Drain())
        service.hub.close()
        service.feed.close()
        await runner.cleanup()
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await service.idle.wait()  # who was cut off still gives back what did not get through


def greeting(url: str, settings: Settings) -> str:
    """The first line is for programs too: it tells the URL."""
    script = Path(sys.argv[0]).absolute()
    command = shlex.join(
        [str(script)] if script.name == "task-orchestrator" else [sys.executable, "-m", "task_orchestrator"]
    )
    near = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    at = "" if near == "http://127.0.0.1:8080" else f" --url {near}"
    key = ", with the key in TASK_ORCHESTRATOR_API_KEY" if settings.security.api_key else ""
    return f"""Task Orchestrator is listening on {url}
The record is {settings.database.path.absolute()}

Try it from another terminal, in the directory to work on{key}:
  task=$({command} submit{at} 'git log --oneline | wc -l; ls')
  {command} worker{at} --work-directory . --exec sh --once
  {command} watch{at} $task
"""
