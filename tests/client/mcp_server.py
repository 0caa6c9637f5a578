"""A `/mcp` that answers as it is told to, and remembers what it was asked."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from attrs import define, field

Handler = Callable[["FakeMcp", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def result(message: dict[str, Any], **said: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": said}


@define
class Asked:
    method: str
    headers: Any
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        return json.loads(self.body)


@define(eq=False)
class FakeMcp:
    """By default it echoes a request's params; `handlers` are by the message's method."""

    asked: list[Asked] = field(factory=list)
    handlers: dict[str, Handler] = field(factory=dict)
    open: int = 0
    hung_up: int = 0
    news: list[Any] = field(factory=list)  # for who listens
    listening: int = 0
    server: TestServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return str(self.server.make_url("")).rstrip("/")

    def of(self, method: str) -> list[Asked]:
        return [it for it in self.asked if it.method == "POST" and it.message.get("method") == method]

    async def start(self, port: int | None = None) -> "FakeMcp":
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/mcp", self._handle)
        self.server = TestServer(app, port=port)
        await self.server.start_server()  # which ends a handler when its client has gone
        return self

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        self.listening += 1
        try:
            response = await stream(request, *self.news)
            await asyncio.Event().wait()
            return response
        finally:
            self.listening -= 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.headers.copy(), await request.read())
        self.asked.append(asked)
        if request.method == "GET":
            return await self._tell(request)
        if request.method != "POST":
            return web.Response(status=204)
        message = asked.message
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        self.open += 1
        try:
            handler = self.handlers.get(message["method"])
            if handler is None:
                return web.json_response(result(message, **message.get("params", {})))
            return await handler(self, request, message)
        except asyncio.CancelledError:
            self.hung_up += 1
            raise
        finally:
            self.open -= 1


async def stream(request: web.Request, *said: Any) -> web.StreamResponse:
    """As server-sent events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for each in said:
        text = each if isinstance(each, str) else json.dumps(each)
        await response.write(f"event: message\ndata: {text}\n\n".encode())
    return response


async def park(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    """It waits for as long as the other side does."""
    response = await stream(request)
    await asyncio.Event().wait()
    return response
