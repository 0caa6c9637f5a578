"""`task-orchestrator serve`: the composition root, the only place that knows all layers."""

import asyncio
import gc
import logging
import os
import resource
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

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
from dispatcher.rules import Rules
from storage.errors import StorageError
from storage.rebuild import NEVER, rebuild_file
from storage.store import SqliteStore, open_store
from web.app import make_app
from web.codec import Fault, rfc3339
from web.connections import Runner
from web.security import is_loopback
from web.service import Service
from web.settings import Settings, SettingsError, load

SHUTDOWN_SECONDS = 0.5  # how long a request under way may still take once the server stops
BACKLOG = 1024  # connections that the system keeps until they are accepted

log = logging.getLogger(__name__)

app = App(name="serve", help="Run the server.")


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
        settings = load(options, os.environ, config)
        refuse_open_door(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # it tells of every function it runs
    logging.basicConfig(level=settings.logging.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    allow_many_connections()
    collect_rarely()
    try:
        return uvloop.run(run(settings))
    except (StorageError, OSError, Unavailable) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        print(f"task-orchestrator cannot start: {why}", file=sys.stderr)
        return 1


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
        print(f"\r{seq:,} of {last:,}", end="\r", file=sys.stderr, flush=True)


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


async def run(settings: Settings) -> int:
    """Serve until a signal comes (0) or the record can no longer be written (1)."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = settings.database
    async with (
        open_store(database.path, synchronous=database.synchronous, timeout_seconds=database.timeout_seconds) as store,
        compose(settings, store) as (service, deciding),
        listen(service) as url,
    ):
        with suppress(OSError):  # nobody need read it
            print(greeting(url, settings), flush=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([deciding, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    if error := deciding.exception():
        log.critical("the record cannot be written, or the dispatcher is at fault: the server stops", exc_info=error)
        return 1
    return 0


@asynccontextmanager
async def compose(settings: Settings, store: SqliteStore) -> AsyncIterator[tuple[Service, "asyncio.Task[None]"]]:
    """The service on its record, and the task in which the dispatcher decides. At the end all asked is answered."""
    task = settings.task
    rules = Rules(
        default_timeout_seconds=task.default_task_timeout,
        default_max_retries=task.max_task_retries,
        prompt_match_threshold=task.prompt_match_threshold,
        require_lease_token=task.require_lease_token,
        restart_grace_seconds=task.restart_grace_seconds,
        max_concurrent_tasks=task.max_concurrent_tasks,
        priority_aging_seconds=task.priority_aging_seconds,
    )
    snapshot = await store.load()
    clock, hub = SystemClock(snapshot.last_at), Hub()
    dispatcher = Dispatcher(Board(snapshot, SystemMint(), rules), store, hub, clock)
    deciding = asyncio.create_task(dispatcher.run())
    await dispatcher.begun.wait()
    try:
        yield (
            Service(
                dispatcher=dispatcher,
                record=store.record,
                hub=hub,
                clock=clock,
                settings=settings,
                version=version("task-orchestrator"),
            ),
            deciding,
        )
    finally:
        dispatcher.close()
        await asyncio.wait([deciding])


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
