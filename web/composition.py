"""How the parts become a server: the only place that knows all layers, with the commands that need the record."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from socket import socket

from aiohttp.web import SockSite

from dispatcher.actor import Dispatcher
from dispatcher.board import Board
from dispatcher.clock import SystemClock
from dispatcher.errors import Unavailable
from dispatcher.hub import Hub
from dispatcher.messages import Drain
from dispatcher.mint import SystemMint
from dispatcher.ports import Changes
from dispatcher.roll import SEEN_SECONDS, Roll
from storage.sqlite.store import SqliteStore
from web.app import make_app
from web.configuration import begin
from web.connections import LINE_BYTES_MAX, Runner
from web.feed import Feed
from web.metrics import Metrics
from web.pulse import beating
from web.server_log import Log
from web.service import Service
from web.sources import Given
from web.starting import BACKLOG
from web.webhooks import Courier

SHUTDOWN_SECONDS = 0.5  # how long a request under way may still take once the server stops

logger = logging.getLogger(__name__)


@asynccontextmanager
async def compose(given: Given, store: SqliteStore, log: Log) -> AsyncIterator[tuple[Service, "asyncio.Task[None]"]]:
    """The service on its record, and the task in which the dispatcher decides. At the end all asked is answered."""
    snapshot = await store.load()
    configuration, faults = begin(given, snapshot.config_version, snapshot.runtime)
    for fault in faults:
        logger.warning("set at run time, but of no effect: %s: %s", fault.field, fault.reason)
    clock, hub, metrics, feed = SystemClock(snapshot.last_at), Hub(), Metrics(), Feed(snapshot.last_seq)
    courier = Courier(store.record, store, clock)
    store.watch(metrics.saved)
    for watcher in (feed.publish, courier.hear):
        hub.watch(watcher)

    def publish(changes: Changes) -> None:
        metrics.committed(changes)
        hub.publish(changes)

    roll = Roll(await store.record.sightings(clock() - SEEN_SECONDS * 1000))
    board = Board(snapshot, SystemMint(), configuration.settings.task.rules())
    dispatcher = Dispatcher(board, store, publish, clock, roll)
    deciding = asyncio.create_task(dispatcher.run())
    await dispatcher.begun.wait()
    try:
        async with beating() as pulse, telling(courier):
            service = Service(
                dispatcher=dispatcher,
                record=store.record,
                medium=store,
                hub=hub,
                feed=feed,
                courier=courier,
                clock=clock,
                configuration=configuration,
                version=version("task-orchestrator"),
                log=log,
                metrics=metrics,
                pulse=pulse,
            )
            service.follow(lambda settings: log.adopt(settings.logging))
            service.follow(lambda settings: courier.adopt(settings.webhooks))
            yield service, deciding
    finally:
        dispatcher.close()
        await asyncio.wait([deciding])


@asynccontextmanager
async def telling(courier: Courier) -> AsyncIterator[None]:
    work = asyncio.create_task(courier.run())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])


@asynccontextmanager
async def listen(service: Service, sockets: Sequence[socket]) -> AsyncIterator[str]:
    """Take requests on these sockets, at the URL given. At the end whoever waits is sent away first, so that nobody
    holds it up."""
    server = service.settings.server
    runner = Runner(
        make_app(service),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=server.request_timeout_seconds,
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
    )
    await runner.setup()
    try:
        for each in sockets:
            await SockSite(runner, each, backlog=BACKLOG).start()
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        for site in runner.sites:
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
