"""HTTP by hand: each request goes out exactly once, and it is known whether it was answered."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

PATIENCE_SECONDS = 30


class Unanswered(Exception):
    """The connection ended before the answer: the call has happened or it has not."""


@frozen
class Answer:
    status: int
    body: Any


def request(method: str, path: str, body: object = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        """Raises Unanswered."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._writer.write(request(method, path, body))
                head = await self._reader.readuntil(b"\r\n\r\n")
                content = await self._reader.readexactly(content_length(head))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Unanswered from error
        return Answer(int(head.split(b" ", 2)[1]), json.loads(content))

    def close(self) -> None:
        self._writer.close()
