"""A task that did not reach its worker must not be held in its name."""

import asyncio

from aiohttp.web import Request


async def delivered(request: Request, timeout_seconds: float) -> None:
    """Return when the system has taken all that was written; ConnectionError if it does not in time.

    A write by itself succeeds as soon as the event loop has the bytes, even if the other side is gone already.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the connection is lost")
    transport.set_write_buffer_limits(high=0)  # so that drain waits for the last byte
    try:
        async with asyncio.timeout(timeout_seconds):
            await request.writer.drain()
    except TimeoutError:
        transport.abort()
        raise ConnectionAbortedError("the other side does not read") from None
    if transport.is_closing():
        raise ConnectionResetError("the connection is lost")
