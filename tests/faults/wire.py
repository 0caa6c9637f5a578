"""HTTP by hand: each request goes out exactly once, and it is known whether it was answered."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from task_orchestrator.sse import Event, EventParser

PATIENCE_SECONDS = 30
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger, for no time: the other side gets a TCP reset


class Unanswered(Exception):
    """The connection ended before the answer: the call has happened or it has not."""


@frozen
class Answer:
    """`began` and `ended`: when the request went out and the answer was here, on our monotonic clock."""

    status: int
    body: Any
    began: float
    ended: float


@frozen
class Cut:
    """Break off a call: this share of the request goes out (1 is all of it), and so much later the connection ends."""

    share: float
    after_seconds: float
    reset: bool


def request(method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        """Raises Unanswered."""
        address = urlsplit(url)
        try:
            return cls(*await asyncio.open_connection(address.hostname, address.port))
        except OSError as error:
            raise Unanswered from error

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        cut: Cut | None = None,
    ) -> Answer:
        """Raises Unanswered, or TimeoutError if the server lets us wait for much too long."""
        began = time.monotonic()
        sent = request(method, path, body, headers)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if cut:
                    await self._break_off(sent, cut)
                self._writer.write(sent)
                head = await self._reader.readuntil(b"\r\n\r\n")
                content = await self._reader.readexactly(content_length(head))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Unanswered from error
        return Answer(int(head.split(b" ", 2)[1]), json.loads(content), began, time.monotonic())

    async def events(self, path: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Event]:
        """The events of a stream until it ends, whoever ends it."""
        parser = EventParser()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self._writer.write(request("GET", path, None, headers))
            head = await self._reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                return
            while size := int(await self._reader.readline() or b"0", 16):
                chunk = await self._reader.readexactly(size + len(b"\r\n"))
                for event in parser.feed(chunk[:size]):
                    yield event

    async def _break_off(self, sent: bytes, cut: Cut) -> None:
        self._writer.write(sent[: round(len(sent) * cut.share)])
        await asyncio.sleep(cut.after_seconds)
        self.abort(reset=cut.reset)
        raise Unanswered

    def abort(self, *, reset: bool = True) -> None:
        """Gone without a word, whatever is under way; with `reset` the system tells the other side of it harshly."""
        if reset and not self._writer.is_closing():
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()
