"""aiohttp's server, but what is not HTTP at all is answered in the envelope too, and quietly."""

import asyncio
import logging
import math
import re
import resource
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from socket import socket
from typing import Any, cast

from aiohttp.web import Application, AppRunner, BaseSite, Server, SockSite, StreamResponse
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from web import settings
from web.access.browsers import GUARDS
from web.access.networks import Networks, address
from web.access.rates import subscriber
from web.answers import REQUEST_ID, Failure, failed, failure, new_request_id

BACKLOG = 1024  # connections that the system keeps until they are accepted
LINE_BYTES_MAX = 8190  # of what the first line of a request asks for, and of each of its headers
PART_OF_FILES = 0.75  # of those that the process may have open; the others are for the record, the log and so on
TELL_SECONDS = 60  # how often the log says that there is no room

QUOTED = re.compile(r"""b?(["']).*\1|b?["'].*""")  # there may be a key in it

log = logging.getLogger(__name__)


class Connection(RequestHandler):
    """One that there is no room for is closed at once; so is one whose other side does not read what it has asked for,
    once it was waited for. Who does not ask, or not to the end, is seen to by aiohttp."""

    __slots__ = ("_address", "_ended", "_room", "_unread")

    def __init__(self, connections: Server, room: "Room", **options: Any) -> None:
        super().__init__(connections, **options)
        self._room = room
        self._address: str | None = None  # None: there was no room
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        whence = peer[0] if isinstance(peer, tuple) else ""
        if self._room.enter(whence):
            self._address = whence
            super().connection_made(transport)
        else:
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._unread is not None:
            self._unread.cancel()
        if self._address is not None:
            self._room.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    @property
    def _handler_waiter(self) -> "asyncio.Future[None] | None":
        """What the end of the server waits for; once that was too long, a handler that ends must not find it."""
        return None if self._ended is None or self._ended.done() else self._ended

    @_handler_waiter.setter
    def _handler_waiter(self, waiter: "asyncio.Future[None] | None") -> None:
        self._ended = waiter

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._unread = self._loop.call_later(self._keepalive_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the answer has already begun, or nobody is there to be answered") from exc
        if status < 500 or not isinstance(exc, Exception):
            text = QUOTED.sub("…", (message or HTTPStatus(status).phrase).strip().splitlines()[0])
            what = Failure(status, "MALFORMED_REQUEST" if status < 500 else "INTERNAL_ERROR", text)
        else:
            what = failure(exc)
        what.closes = True
        name = new_request_id()
        log.info("not a request", extra={"request_id": name, "status": status, "client": request.remote})
        response = failed(what, time.time_ns() // 1_000_000)
        response.headers[REQUEST_ID] = name
        response.headers.merge(GUARDS)
        return response


class Room:
    """How many connections there may be, of all and of each address but the proxies', behind which are many."""

    def __init__(self, connections_max: int, per_address_max: int, proxies: Iterable[str] = ()) -> None:
        self._most, self._most_of_one, self._proxies = connections_max, per_address_max, Networks(proxies)
        self._of_address: Counter[str] = Counter()
        self._taken = 0
        self._told_at = -math.inf

    def enter(self, peer: str) -> bool:
        """Whether there is room; then it is taken."""
        name = subscriber(peer)
        of_this = self._of_address.get(name, 0)
        if self._taken >= self._most or (of_this >= self._most_of_one and not self._is_proxy(peer)):
            self._tell(peer, of_this)
            return False
        self._taken += 1
        self._of_address[name] = of_this + 1
        return True

    def leave(self, peer: str) -> None:
        name = subscriber(peer)
        self._taken -= 1
        self._of_address[name] -= 1
        if not self._of_address[name]:
            del self._of_address[name]

    def _is_proxy(self, peer: str) -> bool:
        return bool(self._proxies) and bool(peer) and address(peer) in self._proxies

    def _tell(self, peer: str, of_this: int) -> None:
        """Not of each: they come by the thousand."""
        if (now := time.monotonic()) - self._told_at >= TELL_SECONDS:
            self._told_at = now
            log.warning(
                "connections are closed at once, for there are too many: %d, of them %d of one address",
                self._taken,
                of_this,
                extra={"client": peer},
            )


def room_for(server: settings.Server) -> Room:
    """As the settings say, but never so much that no other file could be opened any more."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = server.max_connections
    if files != resource.RLIM_INFINITY:
        most = min(most, int(files * PART_OF_FILES))
    return Room(most, server.max_connections_per_address, server.trusted_proxies)


class Connections(Server):
    def __init__(self, handler: Any, room: Room, **options: Any) -> None:
        super().__init__(handler, **options)
        self._room = room

    def __call__(self) -> RequestHandler:
        return Connection(self, self._room, loop=self._loop, **self._kwargs)


class Site(SockSite):
    """aiohttp's own knows no bounds for TLS; `options` are those of `create_server`."""

    def __init__(self, runner: AppRunner, sock: socket, options: Mapping[str, Any]) -> None:
        super().__init__(runner, sock, backlog=BACKLOG)
        self._options = options

    async def start(self) -> None:
        await BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(server, sock=self._sock, backlog=self._backlog, **self._options)


class Runner(AppRunner):
    def __init__(self, app: Application, room: Room, **options: Any) -> None:
        super().__init__(app, **options)
        self._room = room

    async def _make_server(self) -> Server:
        plain = await super()._make_server()
        return Connections(
            plain.request_handler,
            self._room,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,
            **plain._kwargs,
        )
