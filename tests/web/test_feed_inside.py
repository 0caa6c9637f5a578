"""The feed from within: what it keeps, how often it does a thing, and that nothing falls between it and the record."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.fields import Priority
from dispatcher.ports import Entry, Notice
from dispatcher.record import EventFilter
from dispatcher.task import Status
from storage.sqlite.store import open_store
from tests.web.conftest import Api, connected, until
from tests.web.tails import cycle, page, pages, tail
from web import events, feed
from web.composition import compose, listen
from web.feed import EVERYTHING, Feed
from web.server_log import Log
from web.service import Service
from web.sources import gather
from web.starting import bind


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[Service, Api]]:
    """A server in this very process, so that it can be looked into."""
    given = gather({"port": 0, "database": f"sqlite:///{directory}/tasks.db"}, {}, None)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(directory / "tasks.db"))
        service, _ = await stack.enter_async_context(compose(given, store, Log()))
        url = await stack.enter_async_context(listen(service, bind(service.settings.server)))
        address: Any = type("Address", (), {"url": url})
        yield service, await stack.enter_async_context(connected(address))


def entry(seq: int, directory: str | None = None, task_id: str | None = None, type: str = "task.updated") -> Entry:
    about: dict[str, Any] = {"work_directory": directory, "task_id": task_id}
    if task_id:
        about |= {"priority": Priority.LOW, "status": Status.WAITING}
    return Entry(**{"seq": seq, "type": type, "at": seq, "priority": None, "status": None, **about})


def followed() -> Feed:
    """A feed that somebody reads."""
    tested = Feed(0)
    tested.readers = 1
    return tested


async def test_what_nobody_reads_is_not_kept() -> None:
    """It stands in the record; who comes later is sent there, and from then on everything is here."""
    tested = Feed(0)
    tested.publish([Notice(entry(seq)) for seq in (1, 2)])
    assert (tested.last, tested.reaches(1), tested.reaches(2)) == (2, False, True)
    with tested.reading():
        tested.publish([Notice(entry(3))])
        assert seqs(tested.take(2, EventFilter()).frames) == [3]
    tested.publish([Notice(entry(4))])
    with tested.reading():
        assert (tested.reaches(3), tested.reaches(4)) == (False, True)
        tested.publish([Notice(entry(5))])
        assert seqs(tested.take(4, EventFilter()).frames) == [5]


def seqs(frames: bytes) -> list[int]:
    return [int(line[4:]) for line in frames.split(b"\n") if line.startswith(b"id: ")]


lines = st.tuples(st.sampled_from([None, "/a", "/b"]), st.sampled_from([None, "t1", "t2"]))
filters = st.builds(
    EventFilter,
    work_directories=st.sampled_from([(), ("/a",), ("/b", "/a"), ("/none",)]),
    types=st.sampled_from([(), ("task.updated",), ("task.created",)]),
    task_id=st.sampled_from([None, "t1", "nobody"]),
)


@given(
    batches=st.lists(st.lists(lines, max_size=6), max_size=8),
    readers=st.lists(filters, min_size=1, max_size=4),
    events_max=st.sampled_from([1, 3, 4096]),
    batch_bytes=st.sampled_from([1, 400, 10**6]),
    data=st.data(),
)
async def test_each_reader_gets_what_matches_however_far_it_is_behind(
    batches: list[list[tuple[str | None, str | None]]],
    readers: list[EventFilter],
    events_max: int,
    batch_bytes: int,
    data: st.DataObject,
) -> None:
    """What the feed has forgotten is read elsewhere, up to where the feed reaches; in between nothing is lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "EVENTS_MAX", events_max)
        patch.setattr(feed, "BATCH_BYTES_MAX", batch_bytes)
        tested, every = followed(), list[Entry]()
        cursors, seen = [0] * len(readers), [list[int]() for _ in readers]

        def read(number: int) -> None:
            only = readers[number]
            while cursors[number] < tested.last:
                if tested.reaches(cursors[number]):
                    batch = tested.take(cursors[number], only)
                    seen[number] += seqs(batch.frames)
                    cursors[number] = batch.up_to
                else:
                    one = every[cursors[number]]  # as the record has it
                    seen[number] += [one.seq] if only.matches(one) else []
                    cursors[number] = one.seq

        for batch in batches:
            made = [entry(len(every) + place, *line) for place, line in enumerate(batch, start=1)]
            every += made
            tested.publish([Notice(one) for one in made])
            for number in data.draw(st.sets(st.sampled_from(range(len(readers))))):
                read(number)
        for number, only in enumerate(readers):
            read(number)
            assert seen[number] == [one.seq for one in every if only.matches(one)]


async def test_the_feed_keeps_no_more_than_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in number nor in bytes, nor a trace of the directories and tasks it knew."""
    monkeypatch.setattr(feed, "EVENTS_MAX", 10)
    tested = followed()
    for seq in range(1, 1001):
        tested.publish([Notice(entry(seq, f"/{seq}", f"t{seq}"))])
    assert [one.entry.seq for one in tested._events[EVERYTHING]] == list(range(991, 1001))
    assert len(tested._events) == 21
    assert tested._bytes == sum(len(one.frame) for one in tested._events[EVERYTHING])
    assert [tested.reaches(cursor) for cursor in (989, 990, 1000, 1001)] == [False, True, True, False]
    monkeypatch.setattr(feed, "EVENTS_BYTES_MAX", 5000)
    for seq in range(1001, 1011):
        tested.publish([Notice(evolve(entry(seq), details={"a": "x" * 2000}))])
        assert tested._bytes <= 5000
    tested.publish([Notice(evolve(entry(1011), details={"a": "x" * 6000}))])
    assert (tested._events, tested._bytes) == ({EVERYTHING: tested._events[EVERYTHING]}, 0)
    assert tested.reaches(1011)


async def test_each_event_is_encoded_once_however_many_follow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 readers of everything, and 50 of one directory."""
    encoded = list[int]()
    framed = feed.framed

    def counting(one: Entry) -> feed.Event:
        encoded.append(one.seq)
        return framed(one)

    monkeypatch.setattr(feed, "framed", counting)
    monkeypatch.setattr(events, "framed", counting)
    async with serving(tmp_path) as (service, api), AsyncExitStack() as stack:
        feeds = [await stack.enter_async_context(tail(api, **asked)) for asked in [{}, {"work_directory": "/w"}] * 50]
        assert service.feed.readers == 100
        for _ in range(10):
            await cycle(api, "/w")
        every = await pages(api)
        for one in feeds:
            assert await one.take(len(every)) == every
        assert encoded == [event["seq"] for event in every]


async def test_who_is_too_far_behind_for_the_feed_reads_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While more and more happens, until it has caught up; and from then on reads it no more."""
    monkeypatch.setattr(feed, "EVENTS_MAX", 5)
    monkeypatch.setattr(events, "READ_MAX", 3)
    async with serving(tmp_path) as (service, api):
        for _ in range(10):
            await cycle(api, "/w")
        async with tail(api, after=0) as behind, tail(api, after=0, work_directory="/w") as filtered:
            working = asyncio.gather(*(cycle(api, "/w") for _ in range(20)))
            seen = await behind.take(90)
            await working
            assert seen == await filtered.take(90) == await pages(api)
            monkeypatch.setattr(service.record, "events", None)
            await api.create("/w")
            assert [event["seq"] for event in await behind.take(1) + await filtered.take(1)] == [91, 91]


async def test_a_filtered_reader_is_told_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would come again from far behind, although it has missed nothing."""
    monkeypatch.setattr(events, "POSITION_EVERY", 5)
    async with serving(tmp_path) as (_, api), tail(api, types="task.deleted") as one:
        for _ in range(6):
            await api.create("/w")
        async with asyncio.timeout(10):
            while b"id: 5\n\n" not in one.raw:
                one.raw += await one.response.content.readany()
        assert b"data" not in one.raw


async def test_pages_of_what_is_rare_do_not_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page looks through a bounded number of stretches, and the next one goes on where it stopped."""
    monkeypatch.setattr("storage.sqlite.queries.STRETCH_MAX", 2)
    monkeypatch.setattr(events, "STRETCHES_MAX", 3)
    async with serving(tmp_path) as (_, api):
        for _ in range(10):
            await api.create("/w")
        await api.create("/rare")
        first = await page(api, work_directory="/rare")
        assert (first["events"], first["next_after"]) == ([], 6)
        assert [event["seq"] for event in await pages(api, work_directory="/rare")] == [11]


class Waiting:
    """A reader that does nothing but wait for news."""

    def __init__(self, tested: Feed) -> None:
        self.tested, self.seen, self.wakings = tested, tested.last, 0
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self.tested.closed:
            await self.tested.news()
            self.wakings += 1
            self.seen = self.tested.last


async def test_who_has_seen_everything_hears_at_once_of_what_is_new() -> None:
    tested = followed()
    reader = Waiting(tested)
    await asyncio.sleep(0)
    for seq in range(1, 6):
        await until(lambda: not tested._is_round)
        tested.publish([Notice(entry(seq))])
        for _ in range(3):
            await asyncio.sleep(0)
        assert (reader.seen, reader.wakings) == (seq, seq)
    tested.close()
    await asyncio.wait_for(reader.running, 5)


async def test_many_readers_are_not_woken_for_every_event_and_not_all_at_once() -> None:
    """They leave time for everything else, however much happens; and in the end all have seen all."""
    tested = followed()
    readers = [Waiting(tested) for _ in range(500)]
    await asyncio.sleep(0)
    woken = 0
    for seq in range(1, 1001):
        tested.publish([Notice(entry(seq))])
        await asyncio.sleep(0)
        before, woken = woken, sum(reader.wakings for reader in readers)
        assert woken - before <= feed.WOKEN_AT_ONCE
    assert 0 < max(reader.wakings for reader in readers) < 100
    await until(lambda: all(reader.seen == 1000 for reader in readers))
    for reader in readers[:250]:
        reader.running.cancel()
    tested.close()
    await asyncio.wait([reader.running for reader in readers], timeout=5)
    assert all(reader.running.done() for reader in readers)
    assert not tested._waiting


async def test_readers_rest_for_longer_than_it_took_to_wake_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """But never for long: what happens meanwhile is told then."""
    rests = list[float]()
    loop = asyncio.get_running_loop()
    now = 100.0

    def call_later(seconds: float, *_: Any) -> None:
        rests.append(seconds)

    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(loop, "call_later", call_later)
    for took in (0.01, 60):
        tested = followed()
        tested.publish([Notice(entry(1))])
        now += took
        await asyncio.sleep(0)
        tested.publish([Notice(entry(2))])
        assert tested._is_round
    monkeypatch.undo()
    assert rests == [pytest.approx(0.03), feed.REST_SECONDS_MAX]
