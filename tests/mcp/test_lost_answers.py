"""What comes of an answer when its reader has gone."""

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp.web import Application, AppRunner, Request, StreamResponse, TCPSite

from tests.web.conftest import until
from web.mcp.bridge import Passage


async def test_it_is_lost_though_the_application_keeps_that_to_itself() -> None:
    """As the SDK does, which complains in the log and ends as if all were well; and the claims would stay held."""
    left, passages, outcomes = asyncio.Event(), [], []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        await left.wait()
        with suppress(Exception):
            await send({"type": "http.response.body", "body": b"the rest"})

    async def handle(request: Request) -> StreamResponse:
        passages.append(Passage(request, b"", 5))
        try:
            return await passages[0].pass_through(application)
        except Exception as error:
            outcomes.append(error)
            raise

    app = Application()
    app.router.add_post("/mcp", handle)
    runner = AppRunner(app)
    await runner.setup()
    try:
        site = TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"so far")
        writer.transport.abort()
        await until(lambda: passages[0].request.transport is None)
        left.set()
        await until(lambda: outcomes)
    finally:
        await runner.cleanup()
    (lost,) = outcomes
    assert isinstance(lost, ConnectionResetError)
