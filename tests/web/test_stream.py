"""The worker's event stream: who is sent what, how much of it, and what becomes of it when somebody leaves."""

import asyncio
import socket
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise

import pytest

from tests.web.conftest import TASKS, paused, text_of, until, wire
from tests.web.test_contract import CLAIMED

ON_EVERY_RECORD = True

WORKERS = [{}, {"worker_id": "w1"}]


async def test_a_stream_is_one_of_events_from_the_start(api, directory):
    """Before there is any task."""
    async with api.stream(directory) as events:
        headers = events.response.headers
        assert headers["Content-Type"].split(";")[0] == "text/event-stream"
        assert "no-" in headers["Cache-Control"]
        assert headers["X-Request-Id"]


@pytest.mark.parametrize(("query", "lease_seconds"), [({}, 60), ({"lease_seconds": 7.5}, 7.5)])
async def test_a_task_is_sent_as_a_claim_tells_it(api, directory, query, lease_seconds):
    made = await api.create(directory, tags=["a"], metadata={"b": "c"}, timeout_seconds=1000)
    async with api.stream(directory, worker_id="w1", **query) as events:
        task = await events.task()
    assert task.keys() >= CLAIMED
    assert (task["task_id"], task["tags"], task["metadata"]) == (made["task_id"], ["a"], {"b": "c"})
    shown = await api.show(made)
    started, expires = (datetime.fromisoformat(moment) for moment in (shown["started_at"], task["lease_expires_at"]))
    assert (expires - started).total_seconds() == lease_seconds
    assert (shown["worker_id"], shown["status"]) == ("w1", "working")
    assert (await api.tell(task, "complete")).data["status"] == "completed"


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
async def test_no_more_is_sent_than_there_are_hands(api, directory, worker):
    """And the next task as soon as a hand is free, however it came to be so."""
    made = [await api.create(directory, f"{number}") for number in range(7)]
    async with api.stream(directory, capacity=3, **worker) as events:
        held = [await events.task() for _ in range(3)]
        endings = [("complete", {}), ("fail", {"error_message": "no"}), ("release", {"delay_seconds": 1000})]
        for number, (verb, said) in enumerate(endings, start=3):
            assert [await api.status(task) for task in made[number:]] == ["waiting"] * (7 - number)
            assert (await api.tell(held.pop(0), verb, **said)).status == 200
            held.append(await events.task())
    assert [task["prompt"] for task in held] == ["3", "4", "5"]
    assert await api.life(made[6]) == ["created"]


async def test_the_most_urgent_comes_first_then_the_oldest(api, directory):
    priorities = ["low", "high", "medium", "high"]
    made = [await api.create(directory, f"{number}", priority=priority) for number, priority in enumerate(priorities)]
    async with api.stream(directory) as events:
        for expected in "1320":
            task = await events.task()
            assert task["prompt"] == expected
            await api.tell(task, "complete")
    assert [await api.status(task) for task in made] == ["completed"] * 4


async def test_only_tasks_with_all_its_tags_are_sent(api, directory):
    await api.create(directory, "one", tags=["a"])
    async with api.stream(directory, tags="a,b") as events:
        await api.create(directory, "other", tags=["b"])
        both = await api.create(directory, tags=["b", "a"])
        assert (await events.task())["task_id"] == both["task_id"]
    assert [(await api.next(directory))["prompt"] for _ in range(2)] == ["one", "other"]


async def test_a_worker_that_comes_again_is_sent_no_more_than_it_has_hands(api, directory):
    """Nor has it lost what it held, and what it claimed by other ways counts too."""
    await api.create(directory)
    async with api.stream(directory, worker_id="w1", capacity=3) as events:
        first = await events.task()
    await api.create(directory)
    await api.next(directory, worker_id="w1")
    made = [await api.create(directory) for _ in range(3)]
    async with api.stream(directory, worker_id="w1", capacity=3) as events:
        assert (await events.task())["task_id"] == made[0]["task_id"]
        assert [await api.status(task) for task in made] == ["working", "waiting", "waiting"]
        assert (await api.tell(first, "complete")).status == 200
        assert (await events.task())["task_id"] == made[1]["task_id"]
        assert await api.status(made[2]) == "waiting"
    (*_, completed), (_, claimed) = await api.history(first), await api.history(made[1])
    assert claimed["seq"] > completed["seq"]


async def test_a_worker_that_comes_again_with_full_hands_is_sent_nothing(api, directory):
    await api.create(directory)
    async with api.stream(directory, worker_id="w1") as events:
        held = await events.task()
    async with api.stream(directory, worker_id="w1") as events, api.stream(directory, worker_id="w1") as twin:
        made = await api.create(directory)
        other = await api.next(directory, worker_id="w2", wait_seconds=10)
        assert (other["task_id"], other["attempt"]) == (made["task_id"], 1)
        await api.tell(held, "complete")
        last = await api.create(directory)
        first, *rest = [asyncio.create_task(stream.task()) for stream in (events, twin)]
        done, waiting = await asyncio.wait([first, *rest], return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()["task_id"] for task in done] == [last["task_id"]]
        for task in waiting:
            task.cancel()


async def test_a_worker_is_told_of_the_lease_it_has_lost(api, directory):
    """Its hand is free again then, and the task may come a second time; a report shows that somebody is there."""
    made = await api.create(directory)
    async with api.stream(directory, lease_seconds=0.3) as events:
        for attempt in (1, 2):
            task = await events.task()
            assert (task["task_id"], task["attempt"]) == (made["task_id"], attempt)
            if attempt == 1:
                assert await events.next() == ("cancel", {"task_id": made["task_id"], "reason": "expired"})
        assert (await api.tell(task, "complete")).status == 200
        last = await api.create(directory)
        assert (await events.task())["task_id"] == last["task_id"]
        assert await events.next() == ("cancel", {"task_id": last["task_id"], "reason": "expired"})
        assert (await events.task())["attempt"] == 2


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
async def test_a_stream_on_which_nobody_is_heard_ends_before_it_uses_up_the_retries(api, directory, worker):
    """A hung worker, or one that sleeps with its machine, must not fail one task after the other."""
    made = await api.create(directory)
    async with api.stream(directory, lease_seconds=0.05, **worker) as events:
        kinds = [(await events.next())[0] for _ in range(5)]
        assert kinds == ["task", "cancel", "task", "cancel", "drain"]
        assert await events.next() is None
    shown = await api.show(made)
    assert (shown["status"], shown["retry_count"]) == ("waiting", 2)


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
async def test_a_task_that_fails_for_its_lost_lease_is_no_sign_of_life(api, directory, worker):
    """Nobody has reported that: else a hung worker would fail all tasks that may not be retried."""
    made = [await api.create(directory, max_retries=0) for _ in range(3)]
    async with api.stream(directory, lease_seconds=0.05, **worker) as events:
        kinds = [(await events.next())[0] for _ in range(5)]
        assert kinds == ["task", "cancel", "task", "cancel", "drain"]
        assert await events.next() is None
    assert [await api.status(task) for task in made] == ["failed", "failed", "waiting"]


@pytest.mark.parametrize("said", [{}, {"progress": {"percent": 50}}])
async def test_a_heartbeat_is_a_sign_of_life_with_or_without_progress(api, directory, said):
    """Leases may be lost one after the other as long as the worker is heard in between."""
    await api.create(directory, max_retries=10)
    async with api.stream(directory, lease_seconds=5) as events:
        for _ in range(4):
            task = await events.task()
            assert (await api.tell(task, "heartbeat", lease_seconds=0.02, **said)).status == 200
            assert (await events.next())[0] == "cancel"


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
@pytest.mark.parametrize("how", ["expired", "released", "failed"])
async def test_a_task_that_has_gone_to_another_worker_holds_no_hand(api, directory, worker, how):
    await api.create(directory)
    async with api.stream(directory, lease_seconds=0.2 if how == "expired" else 60, **worker) as events:
        task = await events.task()
        poll = asyncio.create_task(api.next(directory, wait_seconds=20, worker_id="w2"))
        if how == "expired":
            assert await events.next() == ("cancel", {"task_id": task["task_id"], "reason": "expired"})
        else:
            await api.busy_with(2)
            said = {"error_message": "no", "retryable": True, "retry_after_seconds": 0} if how == "failed" else {}
            assert (await api.tell(task, "fail" if how == "failed" else "release", **said)).status == 200
        assert (await poll)["task_id"] == task["task_id"]
        made = await api.create(directory)
        assert (await events.task())["task_id"] == made["task_id"]


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
async def test_leases_lost_while_the_worker_did_not_read_are_told_and_free_their_hands(api, directory, worker):
    number = 40
    for _ in range(number):
        await api.create(directory, metadata={"filling": "x" * 60_000}, max_retries=100)
    async with api.stream(directory, capacity=number, lease_seconds=0.3, **worker) as events:
        told = set()
        while len(told) < number:  # more than the system keeps for a reader: some leases end before they are sent
            kind, data = await events.next()
            assert kind in ("task", "cancel")
            told |= {data["task_id"]} if kind == "cancel" else set()


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
async def test_a_worker_is_told_when_its_task_is_cancelled_and_sent_the_next(api, directory, worker):
    first, second = await api.create(directory), await api.create(directory)
    async with api.stream(directory, **worker) as events:
        assert (await events.task())["task_id"] == first["task_id"]
        await api.post(f"{TASKS}/{first['task_id']}/cancel", {"force": True})
        assert await events.next() == ("cancel", {"task_id": first["task_id"], "reason": "cancelled"})
        assert (await events.task())["task_id"] == second["task_id"]


@pytest.mark.parametrize("worker", WORKERS, ids=["unnamed", "named"])
@pytest.mark.parametrize("said", [{}, {"status": "failed", "error_message": "no"}])
async def test_a_worker_is_not_told_of_what_it_has_done_itself(api, directory, worker, said):
    made = [await api.create(directory, f"{number}") for number in range(3)]
    async with api.stream(directory, **worker) as events:
        for task in made:
            assert (await events.task())["task_id"] == task["task_id"]
            await api.post(f"{TASKS}/{task['task_id']}/complete", said)


async def test_a_heartbeat_keeps_what_was_streamed(api, directory):
    await api.create(directory)
    async with api.stream(directory, lease_seconds=20) as events:
        task = await events.task()
        renewed = (await api.tell(task, "heartbeat", lease_seconds=0.05)).data["lease_expires_at"]
        assert renewed < task["lease_expires_at"]
        assert await events.next() == ("cancel", {"task_id": task["task_id"], "reason": "expired"})


async def test_two_streams_are_served_in_turn(api, directory):
    got = asyncio.Queue()

    async def read(name, events):
        while True:
            got.put_nowait((name, await events.task()))

    async def served():
        """Whom the next new task goes to."""
        task = await api.create(directory)
        name, sent = await asyncio.wait_for(got.get(), 10)
        assert sent["task_id"] == task["task_id"]
        return name

    async with api.stream(directory, capacity=50) as one, api.stream(directory, capacity=50) as other:
        readers = [asyncio.create_task(read(name, events)) for name, events in (("one", one), ("other", other))]
        first = last = await served()
        while last == first:  # until both are there
            last = await served()
        turns = [last, *[await served() for _ in range(8)]]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    assert all(one != other for one, other in pairwise(turns))
    assert got.empty()


async def test_fifty_streams_get_one_task_each(api, directory):
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(api.stream(directory)) for _ in range(50)]
        made = await asyncio.gather(*(api.create(directory) for _ in streams))
        sent = await asyncio.gather(*(events.task() for events in streams))
    assert {task["task_id"] for task in sent} == {task["task_id"] for task in made}
    assert {task["attempt"] for task in sent} == {1}


async def test_streams_and_polls_wait_in_one_line(api, directory):
    async with api.stream(directory) as events:
        await api.busy_with(1)
        poll = asyncio.create_task(api.next(directory, wait_seconds=20))
        await api.busy_with(2)
        made = [await api.create(directory) for _ in range(2)]
        assert (await events.task())["task_id"] == made[0]["task_id"]
        assert (await poll)["task_id"] == made[1]["task_id"]


def asking(how, directory):
    if how == "claim":
        return text_of("POST", f"{TASKS}/claim", {"work_directory": directory, "wait_seconds": 60, "limit": 3})
    query = f"work_path={directory}" + ("&wait_seconds=60" if how == "next" else "&capacity=2&worker_id=gone")
    return text_of("GET", f"{TASKS}/{how}?{query}")


@pytest.mark.parametrize("how", ["stream", "next", "claim"])
@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_worker_that_has_left_is_given_nothing(api, shared, directory, how, abruptly):
    """The task goes to the next in line at once."""
    async with wire(shared) as gone:
        await gone.send(asking(how, directory))
        await api.busy_with(1)
        poll = asyncio.create_task(api.next(directory, wait_seconds=20))
        await api.busy_with(2)
        await gone.leave(abruptly=abruptly)
    await api.busy_with(1)
    task = await api.create(directory)
    assert (await poll)["attempt"] == 1
    assert await api.life(task) == ["created", "claimed"]


@pytest.mark.parametrize("how", ["stream", "next", "claim"])
@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize("first", ["worker", "task"])
async def test_a_task_that_comes_just_as_its_worker_leaves_is_not_lost(api, shared, directory, how, abruptly, first):
    """The server finds both at once when it looks; within a second somebody else has the task."""
    for _ in range(3):
        async with wire(shared) as worker, wire(shared) as submitter:
            await worker.send(asking(how, directory))
            await api.busy_with(1)
            with paused(shared):
                if first == "worker":
                    await worker.leave(abruptly=abruptly)
                await submitter.send(text_of("POST", TASKS, {"work_directory": directory, "prompt": "x"}))
                if first == "task":
                    await worker.leave(abruptly=abruptly)
            created = (await submitter.answer()).data
            task = await api.next(directory, wait_seconds=1)
        assert task["task_id"] == created["task_id"]
        assert task["retry_count"] == 0
        assert await api.life(task) in (["created", "claimed"], ["created", "claimed", "released", "claimed"])


@pytest.mark.parametrize("how", ["stream", "claim"])
async def test_what_a_worker_could_not_read_before_it_left_is_given_back(api, shared, directory, how):
    """It was handed a hundred large tasks at once, read none, and has gone."""
    large = {"metadata": {"a": "x" * 65_000}}
    made = await asyncio.gather(*(api.create(directory, **large) for _ in range(100)))
    query = f"work_path={directory}&capacity=100"
    body = {"work_directory": directory, "limit": 100}
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", shared.port))
        ask = ("GET", f"{TASKS}/stream?{query}") if how == "stream" else ("POST", f"{TASKS}/claim", body)
        deaf.sendall(text_of(*ask))

        async def handed_out():
            return await api.status(made[-1]) == "working"

        await until(handed_out)
    again = await api.next(directory, wait_seconds=10)
    assert (again["attempt"], again["retry_count"]) == (2, 0)


async def test_a_reader_who_leaves_between_tasks_costs_nothing(api, shared, directory):
    """Streams that come and go in a hurry while tasks are made: in the end each task is somebody's or waits."""
    stop = asyncio.Event()

    async def fickle():
        while not stop.is_set():
            async with wire(shared) as worker:
                await worker.send(asking("stream", directory))
                await worker.head()

    visitors = [asyncio.create_task(fickle()) for _ in range(3)]
    made = [await api.create(directory) for _ in range(50)]
    stop.set()
    await asyncio.gather(*visitors)
    await api.busy_with(0)
    page = (await api.get(TASKS, work_directory=directory, limit=1000)).data["tasks"]
    assert len(page) == len(made)
    assert {task["status"] for task in page} <= {"waiting", "working"}
    while await api.next(directory):
        pass
    page = (await api.get(TASKS, work_directory=directory, limit=1000)).data["tasks"]
    assert {task["status"] for task in page} == {"working"}


async def test_who_wants_only_the_news_is_told_how_many_wait(api, directory):
    async with api.stream(directory, mode="notify") as events:

        async def told(waiting):
            while True:
                kind, data = await events.next()
                assert kind == "available"
                assert data.keys() >= {"work_directory", "waiting"}
                assert data["work_directory"] == directory
                if data["waiting"] == waiting:
                    return

        await api.create(f"{directory}/other")
        made = [await api.create(directory) for _ in range(3)]
        await told(3)
        claimed = await api.next(directory)
        await told(2)
        await api.tell(claimed, "release")
        await told(3)
    assert [await api.life(task) for task in made[1:]] == [["created"]] * 2


async def test_the_news_begin_with_what_waits_already(api, directory):
    await api.create(directory)
    async with api.stream(directory, mode="notify") as events:
        assert await events.next() == ("available", {"work_directory": directory, "waiting": 1})


async def test_the_path_of_a_stream_is_taken_in_its_normal_form(api, directory):
    async with api.stream(f"{directory}/./", mode="notify") as news, api.stream(f"/{directory}//") as events:
        task = await api.create(directory)
        assert (await events.task())["task_id"] == task["task_id"]
        await api.create(directory)
        assert (await news.next())[1]["work_directory"] == directory


async def test_nothing_is_left_of_streams_that_have_gone(api, directory):
    """Neither open requests nor waiting claims: a task made now waits."""
    for worker in (*WORKERS, {"mode": "notify"}):
        async with api.stream(directory, **worker):
            await api.busy_with(1)
        await api.busy_with(0)
    task = await api.create(directory)

    async def untouched():
        return await api.life(task) == ["created"]

    await until(untouched)
