"""`task-orchestrator serve`: from the command line to a running server, and its end."""

import asyncio
import ctypes
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
from pathlib import Path
from typing import Annotated

import uvloop
from cyclopts import App, Parameter

from dispatcher.errors import RecordFailed, Unavailable
from storage.encryption import given_key
from storage.errors import KeyFault, StorageError
from storage.store import open_store
from web.access.audit import OK
from web.access.first_key import refuse_open_record
from web.access.redaction import redaction_of
from web.access.tls import Certificate, certificate_of
from web.access.token_door import refuse_missing_extra
from web.composition import compose, listen
from web.reconfiguring import read_again
from web.server_log import Log
from web.service import Service
from web.settings import Settings, SettingsError
from web.sources import Given, gather, settings_of
from web.starting import starting

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)

app = App(name="serve", help="Run the server.")


@app.default
def serve(
    *,
    config: Annotated[Path | None, Parameter(help="A TOML file with settings.")] = None,
    host: Annotated[str | None, Parameter(help="The address to listen on; beyond loopback only with a key.")] = None,
    port: Annotated[str | None, Parameter(help="The port; 0 for any free one.")] = None,
    database: Annotated[
        str | None, Parameter(help="sqlite:///file.db, sqlite:////file.db or postgresql://host/name")
    ] = None,
    api_key: Annotated[str | None, Parameter(help="What callers must present; better set API_SECRET_KEY.")] = None,
    initial_key_file: Annotated[
        str | None, Parameter(help="Where the first key is put if there is none yet: a new file, for its owner alone.")
    ] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error or critical.")] = None,
    log_format: Annotated[str | None, Parameter(help="json, or pretty: to be read by people.")] = None,
) -> int:
    """Run the server until it is told to stop (SIGTERM or Ctrl-C). Every setting is described in the README."""
    options = {"host": host, "port": port, "database": database, "api_key": api_key}
    options |= {"initial_key_file": initial_key_file, "log_level": log_level, "log_format": log_format}
    log = Log()
    try:
        gather_again = partial(gather, options, os.environ, config)
        given = gather_again()
        settings = settings_of(given)
        refuse_missing_extra(settings)
        refuse_open_record(settings)
        log.configure(settings.logging, redaction_of(settings))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    write_for_ourselves()
    allow_many_connections()
    collect_rarely()
    give_back_memory()
    try:
        certificate = certificate_of(settings.server)
        return uvloop.run(run(given, gather_again, log, certificate))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except (StorageError, OSError, Unavailable, RecordFailed) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        print(f"task-orchestrator cannot start: {why}", file=sys.stderr)
        return 2 if isinstance(error, KeyFault) else 1
    finally:
        log.close()


def write_for_ourselves() -> None:
    """Whatever is made, prompts are in it: other users of the machine cannot read it."""
    os.umask(os.umask(0) | 0o007)


def allow_many_connections() -> None:
    """As many open files as the system lets us have: each waiting worker is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_rarely() -> None:
    """Hardly anything here forms cycles: looking for them at Python's pace costs a fifth of the throughput."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def give_back_memory() -> None:
    """What is large goes back to the system as soon as it is free, where the allocator can be told (glibc's can): by
    itself it would keep the memory of long bodies for good."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


async def run(given: Given, gather_again: Callable[[], Given], log: Log, certificate: Certificate | None = None) -> int:
    """Serve until a signal comes (0) or the record can no longer be written (1). SIGHUP reads the settings again."""
    stop, hangup, listening = asyncio.Event(), asyncio.Event(), asyncio.Event()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hangup)):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    serving = asyncio.create_task(serve_until(stop, listening, hangup, given, gather_again, log, certificate))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set() and not listening.is_set():  # its record may be a long time in coming
        logger.info("told to stop while starting")
        serving.cancel()
    await asyncio.wait([serving])
    return 0 if serving.cancelled() else serving.result()


async def serve_until(
    stop: asyncio.Event,
    listening: asyncio.Event,
    hangup: asyncio.Event,
    given: Given,
    gather_again: Callable[[], Given],
    log: Log,
    certificate: Certificate | None,
) -> int:
    settings = settings_of(given)
    database = settings.database
    async with (
        starting(settings.server, log, certificate) as hand_over,
        open_store(
            database.url,
            synchronous=database.synchronous,
            timeout_seconds=database.timeout_seconds,
            max_connections=database.max_connections,
            min_connections=database.min_connections,
            key=given_key(database.encryption_key_file, database.encryption_key),
        ) as store,
        compose(given, store, log) as (service, deciding),
        listen(service, hand_over(), certificate) as url,
        heeding(hangup, partial(hang_up, service, gather_again, certificate)),
    ):
        listening.set()
        with suppress(OSError):  # nobody need read it
            print(greeting(url, service.settings, needs_key=not service.door.is_open), flush=True)
        logger.info("version %s listens on %s, the record is %s", service.version, url, database.place)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([deciding, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        logger.info("told to stop" if stop.is_set() else "the dispatcher has ended")
    if error := deciding.exception():
        logger.critical("the record cannot be written, or the dispatcher is at fault: the server stops", exc_info=error)
        return 1
    return 0


async def hang_up(service: Service, gather_again: Callable[[], Given], certificate: Certificate | None) -> None:
    """What SIGHUP does: the certificate and the settings are read again, and the file of the log is opened anew, for it
    may have moved."""
    if certificate:
        is_renewed = await asyncio.to_thread(certificate.read_again)
        service.audit.note("certificate_reload", OK if is_renewed else "VALIDATION_ERROR", details={"by": "SIGHUP"})
    await read_again(service, gather_again)
    service.log.configure(service.settings.logging)


@asynccontextmanager
async def heeding(signal: asyncio.Event, act: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Act whenever the signal comes; many at once count as one, and one that goes wrong does not end it."""

    async def heed() -> None:
        while await signal.wait():
            signal.clear()
            try:
                await act()
            except Exception:
                logger.exception("what a signal asked for could not be done")

    heeding = asyncio.create_task(heed())
    try:
        yield
    finally:
        heeding.cancel()
        await asyncio.wait([heeding])


def greeting(url: str, settings: Settings, *, needs_key: bool) -> str:
    """The first line is for programs too: it tells the URL."""
    script = Path(sys.argv[0]).absolute()
    command = shlex.join(
        [str(script)] if script.name == "task-orchestrator" else [sys.executable, "-m", "task_orchestrator"]
    )
    near = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    at = "" if near == "http://127.0.0.1:8080" else f" --url {near}"
    key = ", with a key in TASK_ORCHESTRATOR_API_KEY" if needs_key else ""
    return f"""Task Orchestrator is listening on {url}
The record is {settings.database.place}

Try it from another terminal, in the directory to work on{key}:
  task=$({command} submit{at} 'git log --oneline | wc -l; ls')
  {command} worker{at} --work-directory . --exec sh --once
  {command} watch{at} $task
"""
