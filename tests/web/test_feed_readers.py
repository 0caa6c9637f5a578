"""Many readers of the feed, slow ones, and such as come and go: nobody misses anything, nobody sees anything twice."""

import asyncio
import random
import socket
import time
from contextlib import AsyncExitStack, suppress

import pytest
from aiohttp import ClientError

from task_orchestrator.sse import EventParser
from tests.conftest import ServerProcess
from tests.web.conftest import PATIENCE_SECONDS, TASKS, connected, on_record, text_of, until
from tests.web.tails import EVENTS, cycle, last_seq, page, pages, tail

ON_EVERY_RECORD = True

STOP_SECONDS = 2
READERS = 1000


async def busy(api, directory, stop):
    while not stop.is_set():
        await cycle(api, directory)


@pytest.mark.parametrize("seed", range(3))
async def test_who_comes_and_goes_while_much_happens_sees_each_event_once(server, directory, seed):
    """Ten readers that leave after a few events, or in the middle of nothing, and come again with the id they know."""
    rng, stop = random.Random(seed), asyncio.Event()

    async def read(api, seen, asked):
        while True:
            last = seen[-1]["seq"] if seen else 0
            position = {"last_event_id": last} if rng.random() < 0.5 else {"after": last}
            async with tail(api, **position, **asked) as feed:
                for _ in range(rng.choice([0, 1, 2, 5, 30])):
                    seen += await feed.take(1)

    async with connected(server) as api:
        filters = [{}, {}, {"work_directory": f"{directory}/0"}, {"types": "task.claimed"}] * 3
        views = [[] for _ in filters]
        readers = [asyncio.create_task(read(api, seen, asked)) for seen, asked in zip(views, filters, strict=True)]
        writers = [asyncio.create_task(busy(api, f"{directory}/{n}", stop)) for n in range(5)]

        async def enough():
            return await last_seq(api) > 1000

        await until(enough)
        stop.set()
        await asyncio.gather(*writers)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        for seen, asked in zip(views, filters, strict=True):
            every = await pages(api, **asked)
            assert seen
            assert seen + await pages(api, after=seen[-1]["seq"], **asked) == every
            assert asked or [event["seq"] for event in every] == list(range(1, len(every) + 1))


@pytest.mark.once
async def test_a_thousand_readers_see_everything_and_are_told_when_the_server_stops(server, directory):
    """Those who read everything, one directory, or one task. And they hold up nothing."""
    async with connected(server) as api, AsyncExitStack() as stack:
        task = await api.create(directory)
        kinds = [(EVENTS, {}), (EVENTS, {"work_directory": directory}), (f"{TASKS}/{task['task_id']}/events", {})]
        opening = (stack.enter_async_context(tail(api, path, after=1, **asked)) for path, asked in kinds * 334)
        feeds = await asyncio.gather(*opening)
        await api.busy_with(len(feeds))
        assert len(feeds) >= READERS
        for _ in range(20):
            await cycle(api, directory)
            await cycle(api, f"{directory}/other")
        expected = [await pages(api, after=1, **asked) for asked in ({}, {"work_directory": directory})]
        expected.append(await pages(api, after=1, task_id=task["task_id"]))
        shown = await asyncio.gather(*(feed.take(len(expected[n % 3])) for n, feed in enumerate(feeds[:-3])))
        assert all(seen == expected[n % 3] for n, seen in enumerate(shown))
        reading = asyncio.gather(*(feed.rest() for feed in feeds))
        began = time.monotonic()
        assert await asyncio.to_thread(server.terminate) == 0
        assert time.monotonic() - began < STOP_SECONDS
        last = await reading
    types = [[event["type"] for event in seen] for seen in last]
    assert types[:-3] == ([["server.draining"], [], []] * READERS)[: len(types) - 3]
    everything, *others = last[-3:]  # who had yet to be shown it all
    assert everything.pop()["type"] == "server.draining"
    assert [everything, *others] == expected


@pytest.fixture
def impatient(tmp_path, own_record):
    """A server that waits half a second for its clients."""
    server = ServerProcess(tmp_path, environ={"APP_SERVER_REQUEST_TIMEOUT_SECONDS": "0.5"}, record=own_record).start()
    yield server
    assert server.terminate() == 0


def read_out(deaf: socket.socket) -> list[int]:
    """The ids of the events that had come by the time the connection broke."""
    deaf.settimeout(PATIENCE_SECONDS)
    data = bytearray()
    with suppress(ConnectionError):
        while chunk := deaf.recv(65536):
            data += chunk
    _, _, body = bytes(data).partition(b"\r\n\r\n")
    parser, events = EventParser(), []
    while body:
        size, _, body = body.partition(b"\r\n")
        events += parser.feed(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return [int(event.id) for event in events]


async def make_a_large_event(api, directory):
    """About a late result of 900 kB."""
    late = await api.claimed(directory, lease_seconds=0.01)
    await api.next(directory, wait_seconds=10)
    await api.tell(late, "complete", result="y" * 900_000)


@pytest.mark.parametrize("begins", ["live", "replay"])
async def test_a_reader_that_stops_reading_is_cut_off_and_resumes_without_loss(impatient, directory, begins):
    """There is more to be read than the system's buffers take. Others do not notice."""
    heard: list[int] = []

    async def hear(other):
        while True:
            heard.extend(event["seq"] for event in await other.take(1))

    async with connected(impatient) as api, tail(api) as other:
        start = await last_seq(api)
        hearing = asyncio.create_task(hear(other))
        if begins == "replay":
            for _ in range(8):
                await make_a_large_event(api, directory)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", impatient.port))
            deaf.sendall(text_of("GET", f"{EVENTS}?after={start}"))
            await asyncio.to_thread(deaf.recv, 1, socket.MSG_PEEK)  # it has begun; nothing is taken out
            if begins == "live":
                for _ in range(8):
                    await make_a_large_event(api, directory)
            await api.busy_with(1)  # that is the other one
            seen = await asyncio.to_thread(read_out, deaf)
        last, end = seen[-1], await last_seq(api)
        assert start < last < end
        async with tail(api, last_event_id=last) as feed:
            seen += [event["seq"] for event in await feed.take(end - last)]
        assert seen == list(range(start + 1, end + 1))
        await until(lambda: len(heard) == end - start)
        assert heard == seen
        hearing.cancel()
        await asyncio.wait([hearing])


async def test_after_a_crash_the_reader_goes_on_with_the_next_server(server, directory):
    """Everything that it was shown is on record, and everything else comes."""
    stop, seen = asyncio.Event(), []
    async with connected(server) as api, tail(api, after=0) as feed:
        working = asyncio.create_task(busy(api, directory, stop))
        seen += await feed.take(50)
        server.kill()
        with suppress(ClientError):
            seen += await feed.rest()
        with suppress(ClientError):
            await working
    server.start()
    async with connected(server) as api:
        end = await last_seq(api)
        async with tail(api, last_event_id=seen[-1]["seq"]) as feed:
            await cycle(api, f"{directory}/after")
            seen += await feed.take(end + 3 - seen[-1]["seq"])
        assert seen == await pages(api)
    assert [event["seq"] for event in seen] == list(range(1, end + 4))


async def forget(server, up_to):
    assert await asyncio.to_thread(server.terminate) == 0
    on_record(server, f"delete from history where seq <= {up_to}", mode="rw")
    server.start()


async def test_what_has_been_removed_is_told_as_a_gap(server, directory):
    async with connected(server) as api:
        task = await api.create(directory)
        for _ in range(3):
            await cycle(api, directory)
        before = await pages(api)
    await forget(server, 5)
    async with connected(server) as api:
        every = await pages(api)
        assert every[: len(before) - 5] == before[5:]
        for after, gap in ((0, {"from": 1, "to": 5}), (3, {"from": 4, "to": 5}), (4, {"from": 5, "to": 5})):
            one = await page(api, after=after)
            assert (one["events"], one["gap"]) == (every, gap)
            async with tail(api, last_event_id=after, types="task.completed") as feed:
                assert await feed.next() == ("gap", 5, gap)
                assert (await feed.take(1))[0]["seq"] in [event["seq"] for event in every]
        for after in (5, 6, every[-1]["seq"]):
            assert (await page(api, after=after))["gap"] is None
        async with tail(api, after=5) as feed:
            assert await feed.take(len(every)) == every
        whole = await page(api)
        assert (whole["events"], whole["gap"]) == (every, None)
        async with tail(api, f"{TASKS}/{task['task_id']}/events") as feed:
            assert await feed.rest() == [event for event in every if event["task_id"] == task["task_id"]]


async def test_when_everything_has_been_removed_that_is_a_gap_too(server, directory):
    async with connected(server) as api:
        await cycle(api, directory)
    await forget(server, 100)
    async with connected(server) as api:
        last = (await page(api, after=0))["gap"]["to"]
        assert last == 4
        async with tail(api, after=1) as feed:
            assert await feed.next() == ("gap", 4, {"from": 2, "to": 4})
            await api.create(directory)
            assert [event["seq"] for event in await feed.take(1)] == [5]


async def test_who_has_seen_what_never_happened_here_is_told_and_goes_on(api, directory):
    """The database is another one, or was restored: neither silence nor an error that ends it for good."""
    await api.create(directory)
    for after in (10**6, 2**63 - 1):
        last = await last_seq(api)
        gap = {"from": last + 1, "to": after}
        assert await page(api, after=after) == {"events": [], "next_after": last, "gap": gap}
        async with tail(api, last_event_id=after) as feed:
            assert await feed.next() == ("gap", last, gap)
            await api.create(directory)
            assert [event["seq"] for event in await feed.take(1)] == [last + 1]
