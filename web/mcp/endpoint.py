"""Where agents speak MCP: `/mcp`. The official SDK serves it; it is loaded when somebody comes, for it is large."""

import asyncio
import gc
from contextvars import Context
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp.web import Application, Request, Response, StreamResponse

from web.mcp.bridge import Passage
from web.receiving import take_in
from web.route import others
from web.service import Service

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"
PARSE_ERROR = -32700
CLOSE_SECONDS = 0.5
SWEEP_SECONDS = 0.1


class Unreadable(ValueError):
    """What was sent is no JSON."""


class Endpoint:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._ends = asyncio.Event()
        self._starting: asyncio.Task[StreamableHTTPSessionManager] | None = None
        self._running: asyncio.Task[None] | None = None

    async def answer(self, request: Request) -> StreamResponse:
        service, settings = self._service, self._service.settings
        try:
            body = await take_in(service, request, _checked) if request.method == "POST" else b""
        except Unreadable as error:
            return _unreadable(error)
        manager = await self._manager()
        passage = Passage(request, body, settings.server.request_timeout_seconds, settings.mcp.sessions)
        try:
            return await passage.pass_through(manager.handle_request)
        except BaseException:
            service.dispatcher.give_back(passage.claimed)
            raise
        finally:
            if passage.is_large:  # the SDK leaves it in a circle, which would be kept until thousands more are
                asyncio.get_running_loop().call_later(SWEEP_SECONDS, gc.collect, 0)

    async def close(self) -> None:
        self._ends.set()
        if jobs := [job for job in (self._starting, self._running) if job is not None]:
            await asyncio.wait(jobs, timeout=CLOSE_SECONDS)
            for job in jobs:
                job.cancel()

    async def _manager(self) -> "StreamableHTTPSessionManager":
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), context=Context())
        return await asyncio.shield(self._starting)

    async def _start(self) -> "StreamableHTTPSessionManager":
        manager = await asyncio.to_thread(_load, self._service)
        begun = asyncio.Event()
        self._running = asyncio.create_task(self._run(manager, begun))
        await begun.wait()
        return manager

    async def _run(self, manager: "StreamableHTTPSessionManager", begun: asyncio.Event) -> None:
        """It must end in the task in which it began."""
        async with manager.run():
            begun.set()
            await self._ends.wait()


def add(app: Application, service: Service, **options: Any) -> None:
    """Serve it as long as the application does."""
    endpoint = Endpoint(service)
    methods = ("POST", "GET", "DELETE") if service.settings.mcp.sessions else ("POST",)
    resource = app.router.add_resource(PATH)
    for method in methods:
        resource.add_route(method, endpoint.answer, **options)
    resource.add_route("*", others(*methods), **options)

    async def close(app: Application) -> None:
        await endpoint.close()

    app.on_cleanup.append(close)


def _load(service: Service) -> "StreamableHTTPSessionManager":
    from web.mcp.server import build, manage

    return manage(build(service), service.settings)


def _checked(body: bytearray) -> bytes:
    """As strictly as other bodies, where the SDK is not: neither NaN nor halves of characters."""
    try:
        orjson.loads(body)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return bytes(body)


def _unreadable(error: Unreadable) -> Response:
    refusal = {"jsonrpc": "2.0", "id": None, "error": {"code": PARSE_ERROR, "message": f"Parse error: {error}"}}
    return Response(body=orjson.dumps(refusal), status=400, content_type="application/json")
