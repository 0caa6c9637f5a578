"""What servers that share a PostgreSQL tell of each other: events, logs, streams, webhooks; in one order, and all."""

import asyncio
import random
import time
from contextlib import AsyncExitStack

import asyncpg
import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import connected, until
from tests.web.tails import cycle, last_seq, page, pages, tail
from tests.web.test_directories import background
from tests.web.test_logs import following, printed
from tests.web.test_several import path_of
from tests.web.test_webhooks import listening


async def busy(apis, directory, number):
    """So many tasks live, each verb told wherever it happens to be."""
    rng = random.Random(directory)
    for _ in range(number):
        task = await rng.choice(apis).create(directory)
        claimed = await rng.choice(apis).next(directory)
        assert claimed["task_id"] == task["task_id"]
        assert (await rng.choice(apis).tell(claimed, "complete")).status == 200


async def test_both_tell_the_same_events_in_one_order_without_a_gap(here, there, directory):
    start = await last_seq(here)
    async with tail(here, after=start) as one, tail(there, after=start) as other:
        await asyncio.gather(*(busy([here, there], f"{directory}/{number}", 10) for number in range(6)))
        seen = await one.take(180), await other.take(180)
    assert seen[0] == seen[1]
    assert [event["seq"] for event in seen[0]] == list(range(start + 1, start + 181))
    assert await pages(here, after=start) == await pages(there, after=start) == seen[0]


async def test_who_comes_and_goes_between_both_sees_each_event_once(here, there, directory):
    start, rng, seen = await last_seq(here), random.Random(3), []

    async def read():
        while len(seen) < 150:
            last = seen[-1]["seq"] if seen else start
            async with tail(rng.choice([here, there]), last_event_id=last) as feed:
                seen.extend(await feed.take(min(rng.choice([1, 2, 5, 30]), 150 - len(seen))))

    await asyncio.gather(read(), *(busy([here, there], f"{directory}/{number}", 10) for number in range(5)))
    assert [event["seq"] for event in seen] == list(range(start + 1, start + 151))


async def test_a_reader_of_a_server_that_is_killed_goes_on_at_another(here, mortal: ServerProcess, directory):
    async with connected(mortal) as api:
        start = await last_seq(api)
        async with tail(api, after=start) as feed:
            working = background(busy([here], directory, 20))
            seen = await feed.take(10)
            mortal.kill()
    async with tail(here, last_event_id=seen[-1]["seq"]) as feed:
        seen += await feed.take(50)
    await working
    assert [event["seq"] for event in seen] == list(range(start + 1, start + 61))


@pytest.mark.parametrize("numbered", [True, False])
async def test_nobody_sees_an_event_before_those_below_it(here, there, shared_url, directory, numbered):
    """However long a transaction is held open: one that has taken a number holds up all numbers behind it, and one that
    has not holds up nothing."""
    start = await last_seq(here)
    db = await asyncpg.connect(shared_url)
    try:
        async with tail(here, after=start) as one, tail(there, after=start) as other:
            await db.execute("begin")
            await db.execute("select pg_current_xact_id()")  # it is older than what follows
            if numbered:
                await db.execute("update last_numbers set seq = seq + 1")
                sql = """insert into history (seq, type, work_directory, attempt, at, details)
                    select seq, 'server.draining', '', 0, 0, '{}' from last_numbers"""
                await db.execute(sql)
            made = [background(api.create(f"{directory}/{name}")) for name, api in (("a", here), ("b", there))]
            if numbered:
                await here.busy_with(2)
                await there.busy_with(2)
                assert [(await page(api, after=start))["events"] for api in (here, there)] == [[], []]
                await db.execute("commit")
            await asyncio.gather(*made)
            seen = await one.take(2 + numbered), await other.take(2 + numbered)
    finally:
        await db.close()
    assert seen[0] == seen[1]
    assert [event["seq"] for event in seen[0]] == list(range(start + 1, start + 3 + numbered))
    assert (seen[0][0]["type"] == "server.draining") is numbered


async def test_a_log_is_followed_at_the_other(here, there, directory):
    task = await here.claimed(directory)
    async with following(here, task) as log:
        for number in range(5):
            await printed(there, task, f"line {number}")
            assert [line["line"] for line in await log.lines(1)] == [f"line {number}"]
        await there.tell(task, "complete")
        await log.end()


async def test_who_waits_for_the_end_of_a_task_hears_it_from_the_other(here, there, directory):
    task = await here.claimed(directory)
    waiting = background(here.get(path_of(task), wait_seconds=20, until="terminal"))
    await here.busy_with(1)
    assert (await there.tell(task, "complete", result=1)).status == 200
    assert (await waiting).data["status"] == "completed"


async def test_a_worker_is_told_at_its_stream_what_is_done_at_the_other(here, there, directory):
    async with here.stream(directory, lease_seconds=60) as events:
        made = await there.create(directory)
        task = await events.task()
        assert task["task_id"] == made["task_id"]
        assert (await there.post(f"{path_of(task)}/cancel", {"force": True})).status == 200
        assert await events.next() == ("cancel", {"task_id": task["task_id"], "reason": "cancelled"})
        made = await there.create(directory)
        task = await events.task()
        assert (await there.tell(task, "complete")).status == 200
        made = await there.create(directory)
        assert (await events.task())["task_id"] == made["task_id"]


async def test_a_worker_is_told_at_its_stream_of_a_lost_lease(here, there, directory):
    async with here.stream(directory, lease_seconds=0.5) as events:
        made = await there.create(directory, max_retries=1)
        task = await events.task()
        assert await events.next() == ("cancel", {"task_id": made["task_id"], "reason": "expired"})
        assert (await there.tell(task, "complete")).status == 409


async def test_news_of_what_waits_come_from_both(here, there, directory):
    async with here.stream(directory, mode="notify") as events:
        await there.create(directory)
        assert await events.next() == ("available", {"work_directory": directory, "waiting": 1})


# Webhooks


async def test_each_event_is_told_once_however_many_servers_there_are(
    tmp_path_factory, cluster, directory: str
) -> None:
    """And it goes on when the one that tells is killed."""
    name = cluster.create_database()
    url = cluster.url(name)
    async with listening() as receiver, AsyncExitStack() as stack:
        environ = receiver.environ()
        places = [tmp_path_factory.mktemp(it) for it in ("telling", "other")]
        servers = [ServerProcess(place, environ=environ, record=url).start() for place in places]
        try:
            apis = [await stack.enter_async_context(connected(server)) for server in servers]
            await asyncio.gather(*(busy(apis, f"{directory}/{number}", 5) for number in range(4)))
            end = await last_seq(apis[0])
            await until(lambda: receiver.seqs == list(range(1, end + 1)))
            assert len(receiver.events) == end
            servers[0].kill()
            for _ in range(5):
                await cycle(apis[1], directory)
            end = await last_seq(apis[1])
            await until(lambda: receiver.seqs == list(range(1, end + 1)))
        finally:
            for server in servers:
                if server.process.poll() is None:
                    server.terminate()
            cluster.drop_database(name)


# Hand-over


async def test_who_waits_is_given_what_is_made_at_the_other(here, there, directory):
    """By notification, mostly; how long that takes is printed: from the question, and from the answer to it."""

    async def claimed():
        return await there.next(directory, wait_seconds=20), time.perf_counter()

    took, behind = [], []
    for _ in range(40):
        waiting = background(claimed())
        await there.busy_with(1)
        asked = time.perf_counter()
        made = await here.create(directory)
        answered = time.perf_counter()
        task, arrived = await waiting
        assert task["task_id"] == made["task_id"]
        took.append(1000 * (arrived - asked))
        behind.append(1000 * (arrived - answered))
    for name, times in (("created and claimed", sorted(took)), ("behind the answer", sorted(behind))):
        print(f"{name}: p50 {times[19]:.1f} ms, p95 {times[37]:.1f} ms")
