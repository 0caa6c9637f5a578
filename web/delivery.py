"""A task that did not reach its worker must not be held in its name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp.web import Request, Response, StreamResponse

from web.negotiation import pack

PING_SECONDS = 15  # a comment in a stream that often keeps proxies from closing the connection


async def deliver(request: Request, response: Response, timeout_seconds: float) -> None:
    """Send a whole answer; ConnectionError if the system does not take all of it in time."""
    async with delivering(request, timeout_seconds):
        pack(request, response)
        await response.prepare(request)
        if _is_secure(request.transport) and request.method != "HEAD":
            await _write_in_two(response)
        await response.write_eof()


async def _write_in_two(response: Response) -> None:
    """TLS counts as sent what it has encrypted, though it may all wait for the system still; but it lets nothing more
    through meanwhile. So the last byte goes by itself, and once that is gone the rest is."""
    body = cast(Any, response)._compressed_body or response.body
    if isinstance(body, bytes | bytearray) and body:
        await StreamResponse.write(response, memoryview(body)[:-1])
        await StreamResponse.write_eof(response, bytes(body[-1:]))


def _is_secure(transport: asyncio.Transport | None) -> bool:
    return transport is not None and transport.get_extra_info("sslcontext") is not None


@asynccontextmanager
async def delivering(request: Request, timeout_seconds: float) -> AsyncIterator[None]:
    """Ends when the system has taken all that was written within; ConnectionError if it does not in time.

    A write by itself succeeds as soon as the event loop has the bytes, even if the other side is gone already.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the connection is lost")
    # So that drain waits for the last byte. To TLS the limit itself is too much already: 0 would hold up who has
    # nothing left to write.
    transport.set_write_buffer_limits(high=1 if _is_secure(transport) else 0, low=0)
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
            await request.writer.drain()
    except TimeoutError:
        transport.abort()
        raise ConnectionAbortedError("the other side does not read") from None
    if transport.is_closing():
        raise ConnectionResetError("the connection is lost")
