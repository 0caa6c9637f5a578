"""MCP as it goes over the wire, in each revision, on connections that may be cut at any moment."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

MODERN, LATEST_HANDSHAKE, OLD = "2026-07-28", "2025-11-25", "2025-06-18"
REVISIONS = (MODERN, LATEST_HANDSHAKE, OLD)
CLIENT = {"name": "tests", "version": "1"}
PREFIX = "io.modelcontextprotocol"
META = {f"{PREFIX}/protocolVersion": MODERN, f"{PREFIX}/clientInfo": CLIENT, f"{PREFIX}/clientCapabilities": {}}

Params = Mapping[str, Any]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Cut(Exception):
    """The connection was cut, by us."""


class Refused(Exception):
    """The tool says no."""


def message(revision: str, method: str, params: Params) -> bytes:
    """A JSON-RPC request as this revision has it."""
    params = {**params, "_meta": {**META, **params.get("_meta", {})}} if revision == MODERN else params
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def request(revision: str, method: str, params: Params, body: bytes | None = None, headers: str = "") -> bytes:
    """The whole request; `body`: another one than that method needs."""
    body = message(revision, method, params) if body is None else body
    head = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json, text/event-stream\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n" + headers
    if method != "initialize":
        head += f"MCP-Protocol-Version: {revision}\r\n"
    if revision == MODERN:
        head += f"Mcp-Method: {method}\r\n"
        head += f"Mcp-Name: {params['name']}\r\n" if "name" in params else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def initialize(revision: str) -> bytes:
    return request(
        revision, "initialize", {"protocolVersion": revision, "capabilities": {}, "clientInfo": CLIENT}, headers=""
    )


def calling(revision: str, tool: str, arguments: Params, headers: str = "") -> bytes:
    return request(revision, "tools/call", {"name": tool, "arguments": arguments}, headers=headers)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def said_in(answer: bytes) -> tuple[int, Any]:
    """The status and the last JSON-RPC message of a whole answer, plain or as server-sent events; None if there is
    none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined(body)
    status = int(head.split()[1])
    if b"text/event-stream" in head:
        data = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]
        return status, json.loads(data[-1]) if data else None
    return status, json.loads(body) if body else None


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body, chunks = body + chunks[: int(size, 16)], chunks[int(size, 16) + 2 :]
    return body


def result_of(answer: bytes) -> Any:
    """What a tool said. Raises Refused."""
    status, said = said_in(answer)
    assert status == 200, answer
    assert "result" in said, said
    if said["result"]["isError"]:
        raise Refused(said["result"]["content"][0]["text"])
    return said["result"]["structuredContent"]


async def call(port: int, revision: str, tool: str, arguments: Params, cut: "Scissors | None" = None) -> Any:
    """What a tool says. Raises Refused, and Cut if the scissors are faster."""
    asked = calling(revision, tool, arguments)
    async with connection(port) as (reader, writer):
        if cut is not None:
            await cut(asked, reader, writer)
        else:
            writer.write(asked)
        return result_of(await reader.read())


class Scissors:
    """Cut every third connection or so: in the midst of the request, right behind it, while it is worked on, or in the
    midst of the answer."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self.cuts = 0

    async def __call__(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        how: Callable[..., Any] | None = self._rng.choice(
            [None] * 8 + [self._early, self._behind, self._within, self._late]
        )
        if how is None:
            writer.write(asked)
            return
        self.cuts += 1
        await how(asked, reader, writer)
        raise Cut

    async def _early(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(asked[: self._rng.randrange(len(asked))])

    async def _behind(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(asked)

    async def _within(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(asked)
        await asyncio.sleep(self._rng.random() * 0.05)

    async def _late(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(asked)
        await reader.read(self._rng.randint(1, 400))
