"""Reads on PostgreSQL when it is slow, and when it goes away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from dispatcher.errors import RecordFailed
from dispatcher.record import EventFilter, Filter, Record
from storage.postgres import record as postgres_record
from storage.postgres.reading import Reader
from storage.postgres.record import PostgresRecord
from tests.postgres import postgres
from tests.storage.pg_rows import connect
from tests.web.conftest import until

RUNNING = """
    select count(*) from pg_stat_activity
    where query like '%pg_sleep%' and state = 'active' and pid <> pg_backend_pid()"""
OTHERS = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()"""
LONG: dict[str, Callable[[Record], Awaitable[object]]] = {
    "page": lambda record: record.page(Filter(), "created_at", 1),
    "matching": lambda record: record.matching(Filter(), 1, 2),
    "statistics": lambda record: record.statistics(None, 0, 60_000, 60_000),
    "events": lambda record: record.events(0, 1, EventFilter()),
    "history": lambda record: record.history("a", 1),
    "directories": lambda record: record.directories(),
    "log": lambda record: record.log("a", 0, 1),
    "sightings": lambda record: record.sightings(0),
    "outcomes": lambda record: record.outcomes(["a"], 1),
}


async def hang(db: Reader) -> None:
    await db.execute("begin")
    await db.execute("select pg_sleep(600)")


@asynccontextmanager
async def opened(url: str, size: int = 4, timeout_seconds: float = 30) -> AsyncIterator[tuple[Any, PostgresRecord]]:
    """A connection beside the pool, and the record."""
    pool = await connect(url, size)
    beside = await asyncpg.connect(url)
    try:
        yield beside, PostgresRecord(pool, timeout_seconds)
    finally:
        await beside.close()
        await asyncio.wait_for(pool.close(), 10)


async def test_a_read_that_takes_too_long_is_stopped(postgres_url: str) -> None:
    """There, too; and its connection is free for others, as it is when nobody waits for it any more."""
    async with opened(postgres_url, size=2, timeout_seconds=0.3) as (beside, record):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await record._read(hang)
            await until(lambda: _is_zero(beside, RUNNING))
            assert await record.task("a") is None
    async with opened(postgres_url, size=2) as (beside, record):
        for _ in range(3):
            reading = asyncio.create_task(record._read_long(hang))
            await until(lambda: _is_zero(beside, f"select 1 - ({RUNNING})"))
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await asyncio.wait_for(record.waiting(None), 5) == 0


async def _is_zero(db: Any, query: str) -> bool:
    return await db.fetchval(query) == 0


async def test_a_read_that_the_database_stops_has_taken_too_long(postgres_url: str) -> None:
    async def slow(db: Reader) -> None:
        await db.execute("begin; set local statement_timeout = 50; select pg_sleep(600)")

    async with opened(postgres_url) as (_, record):
        with pytest.raises(TimeoutError):
            await record._read(slow)
        assert await record.task("a") is None


@pytest.mark.parametrize("ask", LONG.values(), ids=list(LONG))
async def test_what_may_take_long_leaves_connections_for_the_rest(
    ask: Callable[[Record], Awaitable[object]], postgres_url: str
) -> None:
    """All of it together; to wait for its turn counts as time that it takes."""
    async with opened(postgres_url) as (beside, record):
        long = [asyncio.create_task(record._read_long(hang)) for _ in range(10)]
        await until(lambda: _is_zero(beside, f"select 2 - ({RUNNING})"))
        asked = asyncio.ensure_future(ask(record))
        assert await asyncio.wait_for(record.task("a"), 5) is None
        assert await asyncio.wait_for(record.oldest_waiting(), 5) is None
        assert not asked.done()
        for it in long:
            it.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        await asyncio.wait_for(asked, 5)
    async with opened(postgres_url, timeout_seconds=0.3) as (_, record):
        for _ in range(2):
            await record._long.acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(record), 5)
        record._long.release()
        await asyncio.wait_for(ask(record), 5)


async def test_a_connection_that_was_ended_is_replaced_and_the_read_done_once_more(postgres_url: str) -> None:
    async with opened(postgres_url, size=3) as (beside, record):
        for _ in range(5):
            await asyncio.gather(*(record.task("a") for _ in range(6)))
            await beside.fetch(OTHERS)
            assert await asyncio.gather(*(record.task("a") for _ in range(6))) == [None] * 6


async def test_a_read_is_not_tried_again_and_again(postgres_url: str) -> None:
    """Twice, and whoever asks is told."""
    tries = 0

    async def ended(db: Reader) -> None:
        nonlocal tries
        tries += 1
        await db.execute("select pg_terminate_backend(pg_backend_pid())")

    async with opened(postgres_url) as (_, record):
        with pytest.raises(RecordFailed):
            await record._read_long(ended)
        assert tries == 2
        for _ in range(4):
            assert await asyncio.wait_for(record.page(Filter(), "created_at", 1), 5)


async def test_what_the_database_cannot_do_is_a_failure(postgres_url: str) -> None:
    async def wrong(db: Reader) -> None:
        await db.execute("select * from nothing")

    async with opened(postgres_url) as (_, record):
        with pytest.raises(RecordFailed, match="nothing"):
            await record._read(wrong)
        assert await record.task("a") is None


async def test_reads_fail_while_there_is_no_database_and_succeed_again_afterwards() -> None:
    with postgres() as server:
        name = server.create_database()
        async with opened(server.url(name)) as (_, record):
            assert await record.task("a") is None
            await asyncio.to_thread(server.stop)
            for _ in range(2):
                with pytest.raises(RecordFailed):
                    await record.task("a")
            await asyncio.to_thread(server.start)
            assert await record.task("a") is None


async def test_a_connection_that_does_not_become_free_is_closed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for that."""
    monkeypatch.setattr(postgres_record, "GIVE_BACK_SECONDS", 0.2)

    async def busy(db: Reader) -> None:
        await db.execute("begin")
        monkeypatch.setattr(type(db), "execute", lambda *_, **__: asyncio.sleep(600))

    async with opened(postgres_url, size=1) as (_, record):
        await record._read_long(busy)
        monkeypatch.undo()
        assert await asyncio.wait_for(record.task("a"), 5) is None
