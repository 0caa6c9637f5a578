"""Before the record has been read: the sockets are bound already, and whoever comes is told that the server starts."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from aiohttp.web import BaseRequest, Response

from dispatcher.errors import Unavailable
from web import health
from web.access.addresses import WHENCE, Addresses, address_of
from web.access.browsers import GUARDS
from web.access.tls import Certificate
from web.answers import REQUEST_ID, failed, failure, name_of, plain
from web.codec import Invalid, rfc3339
from web.connections import BACKLOG, LINE_BYTES_MAX, Connections
from web.server_log import Answered, Log
from web.settings import Server, Settings

LEAVE_SECONDS = 0.1  # how long a request to which the answer was given may still take to send its body, at the end


def bind(server: Server) -> list[socket.socket]:
    """One socket for each address of the host, listening: who connects waits until somebody accepts. Raises OSError."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=flags)
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bound(family, kind, protocol, address))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # `localhost` where there is no IPv6
                    raise
                lacking = error
        if lacking and not sockets:
            raise lacking
    except OSError:
        _close(sockets)
        raise
    return sockets


def _bound(family: int, kind: int, protocol: int, address: object) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)  # type: ignore[arg-type]
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        reason = (error.strerror or str(error)).lower()
        raise OSError(error.errno, f"error while attempting to bind on address {address}: {reason}") from None
    return bound


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


@asynccontextmanager
async def starting(
    server: Server, log: Log, certificate: Certificate | None = None
) -> AsyncIterator[Callable[[], Sequence[socket.socket]]]:
    """Answers at the addresses of the server until it is called for the sockets, to be listened on from then on.

    Who has connected by then but asked for nothing yet is still answered here, though it asks later; and who comes
    until somebody listens again waits. So nobody is turned away.
    """
    sockets = bind(server)
    try:
        connections = Connections(
            _Answering(log, server), access_log=None, max_line_size=LINE_BYTES_MAX, max_field_size=LINE_BYTES_MAX
        )
        loop = asyncio.get_running_loop()
        options = certificate.options(server) if certificate else {}
        accepting = [
            await loop.create_server(connections, sock=each.dup(), backlog=BACKLOG, **options) for each in sockets
        ]

        def hand_over() -> Sequence[socket.socket]:
            for each in accepting:
                each.close()
            return sockets

        try:
            yield hand_over
        finally:
            hand_over()
            connections.pre_shutdown()
            await connections.shutdown(LEAVE_SECONDS)
    finally:
        _close(sockets)


class _Answering:
    def __init__(self, log: Log, server: Server) -> None:
        self._log, self._version, self._addresses = log, version("task-orchestrator"), Addresses()
        self._addresses.adopt(Settings(server=server))

    async def __call__(self, request: BaseRequest) -> Response:
        """Every connection is for one request: the next one shall find the server."""
        began, now = time.perf_counter(), time.time_ns() // 1_000_000
        with suppress(Invalid):
            request[WHENCE] = self._addresses.find(request)
        response = self._answer(request, now)
        name = name_of(request)
        response.headers[REQUEST_ID] = name
        response.headers.merge(GUARDS)
        response.force_close()
        if self._log.tells_requests:
            asked, seconds = (name, request.method, None, None, request.path), time.perf_counter() - began
            self._log.request(Answered(now, *asked, response.status, seconds, address_of(request)))
        return response

    def _answer(self, request: BaseRequest, now: int) -> Response:
        match request.path if request.method in ("GET", "HEAD") else None:
            case "/health/live":
                alive: health.Alive = {"status": "alive"}
                return plain(alive, 200)
            case "/health/ready":
                ready: health.Ready = {"status": "starting"}
                return plain(ready, 503)
            case "/health":
                return plain(self._unwell(now), 503)
        return failed(failure(Unavailable("the server is starting")), now)

    def _unwell(self, now: int) -> health.Starting:
        return {
            "status": "unhealthy",
            "timestamp": rfc3339(now),
            "version": self._version,
            "database": "unreachable",
        }
