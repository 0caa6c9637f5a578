"""How the parts become a server: the only place that knows all layers, with the commands that need the record."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from socket import socket
from typing import Any

from dispatcher.actor import Dispatcher
from dispatcher.errors import RecordFailed, Unavailable
from dispatcher.hub import Hub
from dispatcher.messages import Drain
from dispatcher.mint import SystemMint
from dispatcher.ports import Changes, Clock
from dispatcher.roll import SEEN_SECONDS, Roll
from storage.store import Store
from web.access.audit import LAST_SECONDS, Audit
from web.access.door import Door
from web.access.first_key import FIRST, make_first_key, refuse_open_door
from web.access.keys import Keys
from web.access.networks import is_loopback
from web.access.tls import Certificate
from web.access.token_door import tokens_of
from web.app import make_app
from web.configuration import Configuration, begin
from web.connections import LINE_BYTES_MAX, Runner, Site, room_for
from web.feed import Feed
from web.membership import Membership
from web.metrics import Metrics
from web.pulse import beating
from web.reconfiguring import keep_step
from web.server_log import Log
from web.service import Service
from web.settings import Settings
from web.sources import Given
from web.webhooks import Courier

SHORT_CHARACTERS = 16  # of a key that somebody made up
DRAIN_SECONDS = 2  # how long the record may take to note that the server stops
LINGERING_SECONDS = 10  # how long the rest of a body may still come, so that its sender reads why it is refused
SHUTDOWN_SECONDS = 0.4  # how long a request under way may still take once the server stops

logger = logging.getLogger(__name__)


@asynccontextmanager
async def compose(given: Given, store: Store, log: Log) -> AsyncIterator[tuple[Service, "asyncio.Task[None]"]]:
    """The service on its record, and the task in which the dispatcher decides. At the end all asked is answered."""
    snapshot = await store.load()
    configuration, faults = begin(given, snapshot.config_version, snapshot.runtime)
    for fault in faults:
        logger.warning("set at run time, but of no effect: %s: %s", fault.field, fault.reason)
    clock, hub, metrics, feed = store.clock(snapshot), Hub(), Metrics(), Feed(snapshot.last_seq)
    courier = Courier(store.record, store, clock, snapshot.last_seq)
    store.watch(metrics.saved)
    for watcher in (feed.publish, courier.hear):
        hub.watch(watcher)

    def announce(changes: Changes) -> None:
        metrics.committed(changes)
        store.announce(changes)

    roll = Roll(await store.record.sightings(clock() - SEEN_SECONDS * 1000))
    board = store.Board(snapshot, SystemMint(), configuration.settings.task.rules())
    dispatcher = Dispatcher(board, store, announce, clock, roll, snapshot.was_away)
    membership = Membership(hub, dispatcher)
    timeout_seconds = configuration.settings.database.timeout_seconds
    audit = Audit(store.audit_log, clock, timeout_seconds, lambda: store.short_of_room)
    keys = Keys(store.keyring, clock, configuration.settings.security.api_key, membership.keys_changed)
    door = await build_door(keys, clock, configuration.settings, audit)
    async with (
        store.membership(membership, snapshot.last_seq),
        deciding_by(dispatcher) as deciding,
        auditing(audit, configuration),
        beating() as pulse,
        aside(unprivileged(door, courier.run())),
        aside(keys.keep_step()),
        aside(keys.note_used()),
        aside(door.tokens.keep_fresh() if door.tokens else asyncio.sleep(0)),
    ):
        service = Service(
            dispatcher=dispatcher,
            whole_record=store.record,
            door=door,
            audit=audit,
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
        service.follow(door.veil.adopt)
        service.follow(lambda settings: log.adopt(settings.logging, door.veil.redaction))
        service.follow(lambda settings: audit.adopt(settings.logging))
        service.follow(lambda settings: courier.adopt(settings.webhooks))
        async with aside(keep_step(service, membership.reconfigured)):
            yield service, deciding


async def build_door(keys: Keys, clock: Clock, settings: Settings, audit: Audit) -> Door:
    """With the first key, if that is asked for. Raises SettingsError where nobody has a key but others could come."""
    await keys.load()
    door = Door(keys, clock, is_local=is_loopback(settings.server.host), tokens=tokens_of(settings, clock))
    if (file := settings.security.initial_key_file) and await make_first_key(keys, file):
        logger.info("the first key, which may do everything, is in %s", file)
        audit.note("keys_create", target=FIRST, details={"scopes": ["admin"], "work_directories": ["*"], "file": file})
    elif file:
        logger.info("there has been a key with admin before: none is made for %s", file)
    refuse_open_door(door, settings)
    api_key = settings.security.api_key
    if api_key and len(api_key) < SHORT_CHARACTERS and not door.is_local:
        logger.warning("API_SECRET_KEY is short, and others can reach the server: make a longer one")
    return door


async def unprivileged(door: Door, work: Coroutine[Any, Any, None]) -> None:
    """It tells others, of whom nobody knows what they may see."""
    with door.veil.before(None):
        await work


@asynccontextmanager
async def deciding_by(dispatcher: Dispatcher) -> AsyncIterator["asyncio.Task[None]"]:
    """At the end all asked is answered."""
    deciding = asyncio.create_task(dispatcher.run())
    try:
        await dispatcher.begun.wait()
        yield deciding
    finally:
        dispatcher.close()
        await asyncio.wait([deciding])


@asynccontextmanager
async def auditing(audit: Audit, configuration: Configuration) -> AsyncIterator[None]:
    """Meanwhile what is done is put on record; at the end what is left of it, if that can be."""
    server = configuration.settings.server
    has_key = configuration.settings.security.api_key is not None
    started = {"host": server.host, "port": server.port, "version": version("task-orchestrator"), "api_key": has_key}
    entry = audit.note("server_start", details=started)
    job = asyncio.create_task(audit.run())
    try:
        await asyncio.wait([entry], timeout=LAST_SECONDS)
        yield
    finally:
        audit.note("server_stop")
        audit.end()
        await asyncio.wait([job], timeout=LAST_SECONDS)
        job.cancel()
        audit.give_up()


@asynccontextmanager
async def aside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    job = asyncio.create_task(work)
    try:
        yield
    finally:
        job.cancel()
        await asyncio.wait([job])


@asynccontextmanager
async def listen(
    service: Service, sockets: Sequence[socket], certificate: Certificate | None = None
) -> AsyncIterator[str]:
    """Take requests on these sockets, at the URL given. At the end whoever waits is sent away first, so that nobody
    holds it up."""
    server = service.settings.server
    runner = Runner(
        make_app(service),
        room_for(server),
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,  # nothing is unpacked that nobody reads, and no more than is read
        keepalive_timeout=server.request_timeout_seconds,
        lingering_time=min(LINGERING_SECONDS, server.request_timeout_seconds),
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
    )
    await runner.setup()
    try:
        for each in sockets:
            await Site(runner, each, certificate.options(server) if certificate else {}).start()
        host, port = runner.addresses[0][:2]
        scheme = "https" if certificate else "http"
        yield f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        for site in runner.sites:
            await site.stop()
    finally:
        service.draining.set()
        with suppress(Unavailable, RecordFailed, TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await service.dispatcher.ask(Drain())
        service.hub.close()
        service.feed.close()
        await runner.cleanup()
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await service.idle.wait()  # who was cut off still gives back what did not get through
