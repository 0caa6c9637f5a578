"""aiohttp's server, but what is not HTTP at all is answered in the envelope too, and quietly."""

import asyncio
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from socket import socket
from typing import Any

from aiohttp.web import AppRunner, BaseSite, Server, SockSite, StreamResponse
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from web.access.browsers import GUARDS
from web.answers import REQUEST_ID, Failure, failed, failure, new_request_id

BACKLOG = 1024  # connections that the system keeps until they are accepted
LINE_BYTES_MAX = 8190  # of what the first line of a request asks for, and of each of its headers

log = logging.getLogger(__name__)


class Connection(RequestHandler):
    __slots__ = ()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the answer has already begun, or nobody is there to be answered") from exc
        if status < 500 or not isinstance(exc, Exception):
            text = (message or HTTPStatus(status).phrase).strip().splitlines()[0]
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


class Connections(Server):
    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


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
    async def _make_server(self) -> Server:
        plain = await super()._make_server()
        return Connections(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,
            **plain._kwargs,
        )
