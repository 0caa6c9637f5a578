"""A network between a server and its database, in which things get lost, late and broken."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field

from .wire import RESET_ON_CLOSE

CHUNK_BYTES = 64 * 1024

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@define(eq=False)
class Proxy:
    """Passes on whatever comes to `port` on 127.0.0.1, to the same port there or, from `lead_to` on, to another."""

    target: int
    port: int = 0
    delay_seconds: float = 0  # of each chunk, in either direction
    _open: asyncio.Event = field(factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(factory=set)
    _pumps: "set[asyncio.Task[None]]" = field(factory=set)
    _server: asyncio.Server | None = None

    async def listen(self) -> None:
        """On any free port, or on the one that it had before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
            self._open.set()

    async def refuse(self) -> None:
        """Nobody can connect. The connections there are stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def cut(self) -> None:
        """Nothing gets through any more, and nobody is told. What is sent meanwhile is under way for so long."""
        self._open.clear()

    async def heal(self) -> None:
        """All gets through again, first of all what is still under way, even if its sender has given up."""
        self._open.set()

    async def reset(self) -> None:
        """All connections break."""
        for writer in list(self._writers):
            _reset(writer)

    async def lead_to(self, target: int) -> None:
        """New connections go there."""
        self.target = target

    async def close(self) -> None:
        await self.refuse()
        await self.reset()
        for pump in list(self._pumps):
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pumps.add(task)
        self._writers.add(writer)
        try:
            await self._open.wait()
            with suppress(OSError):
                await self._connect((reader, writer))
        finally:
            _reset(writer)
            self._writers.discard(writer)
            self._pumps.discard(task)

    async def _connect(self, client: Pipe) -> None:
        database = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(database[1])
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(client[0], database[1]))
                group.create_task(self._pump(database[0], client[1]))
        finally:
            _reset(database[1])
            self._writers.discard(database[1])

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What one side says, until it has ended."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                await asyncio.sleep(self.delay_seconds)
                await self._open.wait()
                writer.write(data)
                await writer.drain()
            await self._open.wait()
            writer.write_eof()
        except OSError:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


class Network:
    """Where proxies live: an event loop in a thread of its own, so that nothing else makes them slow."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._thread.start()
        self.proxies: list[Proxy] = []

    def do(self, what: Coroutine[Any, Any, None]) -> None:
        """One of the methods of a proxy; it has happened when this returns."""
        asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def proxy(self, target: int) -> Proxy:
        proxy = Proxy(target)
        self.do(proxy.listen())
        self.proxies.append(proxy)
        return proxy

    def close(self) -> None:
        for proxy in self.proxies:
            self.do(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()
