"""Who works here: what a worker must do to be listed, and what is told of it."""

import asyncio
from datetime import datetime

import pytest

from tests.web.conftest import TASKS, connected, until

ON_EVERY_RECORD = True

WORKERS = "/api/v1/workers"


@pytest.fixture
def name(directory):
    """Of a worker of this test alone."""
    return directory.rpartition("/")[2]


async def listed(api, *prefixes):
    """The workers of this test."""
    workers = (await api.get(WORKERS)).data["workers"]
    assert [worker["worker_id"] for worker in workers] == sorted(worker["worker_id"] for worker in workers)
    return [worker for worker in workers if worker["worker_id"].startswith(prefixes)]


async def the_one(api, name):
    (worker,) = await listed(api, name)
    return worker


async def a_moment_passes(api):
    """On the clock of the server, which counts milliseconds."""
    now = (await api.get(WORKERS)).json["timestamp"]

    async def is_later():
        return (await api.get(WORKERS)).json["timestamp"] > now

    await until(is_later)


def seen_at(worker):
    return datetime.fromisoformat(worker["last_seen_at"])


async def test_a_worker_is_listed_with_what_it_does(api, directory, name):
    made = [await api.create(directory) for _ in range(2)]
    await api.create(f"{directory}/sub")
    for path in (directory, directory, f"{directory}/sub", f"{directory}/empty"):
        await api.next(path, worker_id=name)
    worker = await the_one(api, name)
    assert worker.keys() == {"worker_id", "work_directories", "working", "last_seen_at", "connection"}
    assert worker["work_directories"] == [directory, f"{directory}/empty", f"{directory}/sub"]
    assert worker["working"][:2] == [task["task_id"] for task in made]
    assert len(worker["working"]) == 3
    assert worker["connection"] == "poll"
    answer = await api.get(WORKERS)
    assert seen_at(worker) <= datetime.fromisoformat(answer.json["timestamp"])


async def test_who_gives_no_name_is_nobody(api, directory):
    task = await api.claimed(directory)
    async with api.stream(directory):
        await api.tell(task, "heartbeat")
        assert all(directory not in worker["work_directories"] for worker in (await api.get(WORKERS)).data["workers"])


async def test_several_stand_in_order_each_by_itself(api, directory, name):
    for number in (3, 1, 2):
        await api.next(f"{directory}/{number}", worker_id=f"{name}-{number}")
    workers = await listed(api, name)
    assert [(worker["worker_id"], worker["work_directories"]) for worker in workers] == [
        (f"{name}-{number}", [f"{directory}/{number}"]) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("heartbeat", {}),
        ("logs", {"lines": ["a"]}),
        ("complete", {}),
        ("fail", {"error_message": "no"}),
        ("release", {}),
        ("complete", {"lease_token": None}),
    ],
)
async def test_whatever_it_says_of_its_task_is_a_sign_of_life(api, directory, name, verb, said):
    await api.create(directory)
    task = await api.next(directory, worker_id=name)
    first = seen_at(await the_one(api, name))
    await a_moment_passes(api)
    await api.tell(task, verb, **said)
    assert seen_at(await the_one(api, name)) > first


async def test_what_others_do_to_its_task_is_none(api, directory, name):
    await api.create(directory)
    task = await api.next(directory, worker_id=name)
    before = await the_one(api, name)
    await a_moment_passes(api)
    await api.post(f"{TASKS}/{task['task_id']}/heartbeat", {"lease_token": "unknown"})
    await api.post(f"{TASKS}/{task['task_id']}/cancel", {"force": True})
    assert await the_one(api, name) == before | {"working": []}


async def test_who_reports_under_a_name_is_seen(api, directory, name):
    task = await api.claimed(directory)
    await api.tell(task, "complete", worker_id=name)
    worker = await the_one(api, name)
    assert (worker["connection"], worker["working"]) == ("none", [])


@pytest.mark.parametrize("mode", ["assign", "notify"])
async def test_a_stream_is_told_of_as_long_as_it_is_open(api, directory, name, mode):
    """And its worker is seen all the while."""
    async with api.stream(directory, worker_id=name, mode=mode):
        worker = await until(lambda: listed(api, name))
        assert [(it["connection"], it["work_directories"]) for it in worker] == [("stream", [directory])]
        first = seen_at(worker[0])
        await a_moment_passes(api)
        assert seen_at(await the_one(api, name)) > first
        async with api.stream(f"{directory}/2", worker_id=name, mode=mode):
            assert (await the_one(api, name))["work_directories"] == [directory, f"{directory}/2"]
        await api.busy_with(1)
        assert (await the_one(api, name))["connection"] == "stream"
    await api.busy_with(0)
    gone = await the_one(api, name)
    assert gone["connection"] == "none"
    assert await the_one(api, name) == gone


async def test_a_long_poll_is_told_of_as_long_as_it_is_parked(api, directory, name):
    poll = asyncio.create_task(api.next(directory, worker_id=name, wait_seconds=30))
    worker = (await until(lambda: listed(api, name)))[0]
    assert (worker["connection"], worker["work_directories"]) == ("poll", [directory])
    await a_moment_passes(api)
    made = await api.create(directory)
    assert (await poll)["task_id"] == made["task_id"]
    after = await the_one(api, name)
    assert (after["working"], after["connection"]) == ([made["task_id"]], "poll")
    assert seen_at(after) > seen_at(worker)


async def test_after_a_restart_whoever_was_here_still_is(server):
    """Killed or not; by what it holds, and by what it has done."""
    async with connected(server) as api:
        for name in ("holds", "did", "only-asked"):
            if name != "only-asked":
                await api.create(f"/{name}")
            task = await api.next(f"/{name}", worker_id=name)
            if name == "did":
                await api.tell(task, "complete")
            if name == "holds":
                held = task
        before = await listed(api, "holds", "did")
    server.kill()
    server.start()
    async with connected(server) as api:
        after = await listed(api, "")
    assert held["task_id"] in before[1]["working"]
    assert [worker | {"connection": "poll"} for worker in after] == before
    assert [worker["connection"] for worker in after] == ["none", "none"]


async def test_names_come_back_as_they_were_given(api, directory, name):
    names = [f"{name}{odd}" for odd in (" ", "'", '"', "\u00fc", "\U0001f4a9", "\n", "<b>", "%00")]
    for odd in names:
        answer = await api.post(f"{TASKS}/claim", {"work_directory": directory, "worker_id": odd})
        assert answer.data == {"tasks": []}
    assert {worker["worker_id"] for worker in await listed(api, name)} == set(names)
