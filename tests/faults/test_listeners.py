"""Who listens to the feed notices whatever is missing, repeated or out of its place."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress

import pytest

from .ledger import Ledger
from .listeners import Endpoint, Reader

PATIENCE_SECONDS = 10


@asynccontextmanager
async def feed(*streams: Sequence[int]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers each request with the events of these numbers; and what it was asked to begin behind."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head.partition("Last-Event-ID: ")[2].partition("\r")[0])
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for seq in streams[len(asked) - 1] if len(asked) <= len(streams) else ():
                data = json.dumps({"seq": seq, "task_id": f"task-{seq}"})
                frame = f"id: {seq}\nevent: task.created\ndata: {data}\n\n".encode()
                writer.write(b"%x\r\n%s\r\n" % (len(frame), frame))
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def heard(reader: Reader, number: int) -> None:
    """Read until so many events have come."""
    reading = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while reader.last < number:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def reader(url: str) -> Reader:
    async def pick() -> str:
        return url

    return Reader("a reader", Ledger(), pick, stays_seconds=60, silence_seconds=60)


async def test_a_reader_comes_again_by_the_number_of_the_last_event() -> None:
    async with feed([1, 2, 3], [4, 5]) as (url, asked):
        one = reader(url)
        await heard(one, 5)
    assert asked[:2] == ["0", "3"]
    assert not one.ledger.findings
    assert one.heard[4] == ("task.created", "task-4")


@pytest.mark.parametrize("streams", [([1, 3, 4],), ([1, 1, 2],), ([2, 1, 3],), ([1, 2], [2, 3]), ([1, 2], [4, 5])])
async def test_it_notices_what_is_missing_repeated_or_out_of_its_place(streams: Sequence[Sequence[int]]) -> None:
    async with feed(*streams) as (url, _):
        one = reader(url)
        await heard(one, streams[-1][-1])
    assert {finding.kind for finding in one.ledger.findings} == {"feed"}


def test_an_endpoint_counts_what_it_was_not_told_of_and_what_again() -> None:
    endpoint = Endpoint()
    endpoint.times.update([1, 2, 2, 5])
    assert (endpoint.missing, endpoint.repeated) == (2, 1)
