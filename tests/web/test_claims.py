"""Who gets which task, and when: order, filters, waiting in turn, and a crowd."""

import asyncio
import random
import time
from collections import Counter

import pytest

from tests.web.conftest import TASKS

ON_EVERY_RECORD = ON_ENCRYPTED_RECORD = True

RANK = {"low": 0, "medium": 1, "high": 2}
CLAIMERS, CROWD_TASKS = 200, 1000


def background(coroutine):
    return asyncio.create_task(coroutine)


async def test_the_most_urgent_comes_first_then_the_oldest(api, directory):
    priorities = ["low", "medium", "high", "medium", "low", "high"] * 3
    made = [await api.create(directory, priority=priority) for priority in priorities]
    claimed = [(await api.next(directory))["task_id"] for _ in made]
    assert claimed == [task["task_id"] for task in sorted(made, key=lambda task: -RANK[task["priority"]])]
    assert await api.next(directory) is None


async def test_a_backlog_is_handed_out_in_order_however_it_is_claimed(api, directory):
    """Also far beyond what the server keeps ready in memory."""
    chance = random.Random(1)
    numbered = [(number, chance.choice(["low", "high", "high", "high"])) for number in range(400)]
    for number, priority in numbered:
        await api.create(directory, f"{number}", priority=priority)
    expected = [number for number, _ in sorted(numbered, key=lambda task: -RANK[task[1]])]
    claimed = []
    while len(claimed) < len(expected):
        limit = chance.choice([1, 2, 7, 100])
        tasks = (await api.post(f"{TASKS}/claim", {"work_directory": directory, "limit": limit})).data["tasks"]
        assert len(tasks) == min(limit, len(expected) - len(claimed))
        claimed += [int(task["prompt"]) for task in tasks]
    assert claimed == expected


async def test_a_claim_on_several_directories_takes_the_best_of_all(api, directory):
    places = [f"{directory}/{name}" for name in "abc"]
    made = [
        await api.create(places[number % 2], priority=priority) for number, priority in enumerate(["low", "high"] * 3)
    ]
    claim = {"work_directories": places, "limit": 4}
    claimed = [task["task_id"] for _ in range(2) for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"]]
    assert claimed == [task["task_id"] for task in sorted(made, key=lambda task: -RANK[task["priority"]])]


async def test_a_claim_gets_only_tasks_of_its_very_directory(api, directory):
    await api.create(f"{directory}/below")
    await api.create(directory.upper())
    assert await api.next(directory) is None


async def test_a_claim_with_tags_gets_only_tasks_that_bear_them_all(api, directory):
    await api.create(directory, "one", tags=["a"], priority="high")
    await api.create(directory, "other", tags=["B", "a"], priority="high")
    await api.create(directory, "both", tags=["c", "b", "a"])
    await api.create(directory, "more", tags=["a", "b"], priority="high")
    assert [(await api.next(directory, tags="a,b"))["prompt"] for _ in range(2)] == ["more", "both"]
    assert await api.next(directory, tags="a,b") is None
    claim = {"work_directory": directory, "tags": ["a"], "limit": 100}
    assert [task["prompt"] for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"]] == ["one", "other"]


async def test_the_worker_is_named_from_claim_to_end(api, directory):
    task = await api.create(directory)
    await api.next(directory, worker_id="w1")
    assert (await api.show(task))["worker_id"] == "w1"


@pytest.mark.parametrize("how", ["next", "claim"])
async def test_whoever_waits_is_answered_by_the_next_task(api, directory, how):
    if how == "next":
        waiting = background(api.next(directory, wait_seconds=20))
    else:
        claim = {"work_directories": [f"{directory}/other", directory], "wait_seconds": 20, "limit": 5}
        waiting = background(api.post(f"{TASKS}/claim", claim))
    await api.busy_with(1)
    task = await api.create(directory)
    told = await waiting
    claimed = told if how == "next" else told.data["tasks"][0]
    assert claimed["task_id"] == task["task_id"]
    assert await api.life(task) == ["created", "claimed"]


async def test_those_who_wait_are_served_in_turn(api, directory):
    waiting = []
    for number in range(5):
        waiting.append(background(api.next(directory, wait_seconds=20, worker_id=f"w{number}")))
        await api.busy_with(number + 1)
    made = [(await api.create(directory))["task_id"] for _ in waiting]
    assert [task["task_id"] for task in await asyncio.gather(*waiting)] == made


async def test_those_who_wait_for_tags_let_others_pass(api, directory):
    picky = background(api.next(directory, wait_seconds=20, tags="a"))
    await api.busy_with(1)
    easy = background(api.next(directory, wait_seconds=20))
    await api.busy_with(2)
    plain = await api.create(directory)
    assert (await easy)["task_id"] == plain["task_id"]
    tagged = await api.create(directory, tags=["b", "a"])
    assert (await picky)["task_id"] == tagged["task_id"]


@pytest.mark.parametrize("queries", [[{"tags": "a"}, {}, {"tags": "b,a"}], [{}, {"tags": "b"}, {"tags": "a"}]])
async def test_a_task_that_several_kinds_would_take_goes_to_the_first_of_them_all(api, directory, queries):
    waiting = []
    for query in queries:
        waiting.append(background(api.next(directory, wait_seconds=20, **query)))
        await api.busy_with(len(waiting))
    made = [(await api.create(directory, tags=["a", "b"]))["task_id"] for _ in queries]
    assert [task["task_id"] for task in await asyncio.gather(*waiting)] == made


@pytest.mark.parametrize("how", ["released", "expired", "failed"])
async def test_a_task_that_comes_back_goes_to_whoever_waits(api, directory, how):
    task = await api.claimed(directory, lease_seconds=0.3 if how == "expired" else None)
    waiting = background(api.next(directory, wait_seconds=20))
    if how != "expired":
        await api.busy_with(1)
        said = {"error_message": "no", "retryable": True, "retry_after_seconds": 0} if how == "failed" else {}
        await api.tell(task, "fail" if how == "failed" else "release", **said)
    again = await waiting
    assert (again["task_id"], again["attempt"]) == (task["task_id"], 2)


async def test_a_wait_without_a_task_ends_with_null(api, directory):
    for wait_seconds in (0, 0.3):
        began = time.monotonic()
        assert await api.next(directory, wait_seconds=wait_seconds) is None
        claim = {"work_directory": directory, "wait_seconds": wait_seconds}
        assert (await api.post(f"{TASKS}/claim", claim)).data == {"tasks": []}
        assert time.monotonic() - began >= 2 * wait_seconds
    task = await api.create(directory)
    assert (await api.next(directory))["task_id"] == task["task_id"]


async def test_until_terminal_is_answered_as_soon_as_there_is_an_outcome(api, directory):
    task = await api.claimed(directory)
    path = f"{TASKS}/{task['task_id']}"
    waiting = background(api.get(path, until="terminal", wait_seconds=20))
    await api.busy_with(1)
    await api.tell(task, "heartbeat")
    await api.tell(task, "fail", error_message="no", retryable=True, retry_after_seconds=0)
    again = await api.next(directory)
    assert not waiting.done()
    await api.tell(again, "complete", result="done")
    told = (await waiting).data
    assert (told["status"], told["result"]) == ("completed", "done")
    assert told == await api.show(task)
    assert (await api.get(path, until="terminal", wait_seconds=20)).data == told


@pytest.mark.parametrize("query", [{"wait_seconds": 0.3}, {}])
async def test_until_terminal_tells_the_present_state_when_the_time_is_over(api, directory, query):
    task = await api.claimed(directory)
    began = time.monotonic()
    told = (await api.get(f"{TASKS}/{task['task_id']}", until="terminal", **query)).data
    assert time.monotonic() - began >= query.get("wait_seconds", 0)
    assert told == await api.show(task)
    assert told["status"] == "working"


async def test_a_crowd_gets_every_task_once_and_in_order(api, directory):
    """200 claimers at a time, one by one, in heaps or waiting, on 1,000 tasks of three directories and priorities."""
    chance = random.Random(2)
    places = [f"{directory}/{name}" for name in "abc"]
    wanted = (
        chance.choices(places, weights=[6, 3, 1], k=CROWD_TASKS),
        chance.choices(list(RANK), [1, 6, 1], k=CROWD_TASKS),
    )
    made = await asyncio.gather(*(api.create(place, priority=rank) for place, rank in zip(*wanted, strict=True)))
    claimed = []

    async def claimer(number):
        place = places[number % 3]
        mine = {"worker_id": f"w{number}", "wait_seconds": number % 5 and 0.2}
        while True:
            if number % 2:
                task = await api.next(place, **mine)
                tasks = [task] if task else []
            else:
                among = {"work_directories": places} if number % 4 else {"work_directory": place}
                tasks = (await api.post(f"{TASKS}/claim", {**among, **mine, "limit": 1 + number % 3})).data["tasks"]
            if not tasks:
                return
            claimed.extend((task["task_id"], task["lease_token"]) for task in tasks)

    await asyncio.gather(*map(claimer, range(CLAIMERS)))
    assert Counter(task_id for task_id, _ in claimed) == Counter(task["task_id"] for task in made)
    assert len({token for _, token in claimed}) == CROWD_TASKS
    lives = await asyncio.gather(*map(api.history, made))
    assert all([line["type"] for line in life] == ["task.created", "task.claimed"] for life in lives)
    assert max(created["seq"] for created, _ in lives) < min(handed["seq"] for _, handed in lives)
    for place in places:
        line = [
            (life[1]["seq"], -RANK[task["priority"]], life[0]["seq"])
            for task, life in zip(made, lives, strict=True)
            if task["work_directory"] == place
        ]
        assert [order[1:] for order in sorted(line)] == sorted(order[1:] for order in line)


async def test_claiming_and_creating_at_once_loses_nothing(api, directory):
    got = []

    async def claimer(number):
        while len(got) < 300:
            if task := await api.next(directory, wait_seconds=0.2, worker_id=f"w{number}"):
                got.append(task["task_id"])
                await api.tell(task, "complete")

    claimers = [background(claimer(number)) for number in range(50)]
    made = await asyncio.gather(*(api.create(directory, f"{number}") for number in range(300)))
    await asyncio.gather(*claimers)
    assert sorted(got) == sorted(task["task_id"] for task in made)
    page = (await api.get(TASKS, work_directory=directory, limit=1000)).data["tasks"]
    assert Counter(task["status"] for task in page) == {"completed": 300}
    assert {task["attempt"] for task in page} == {1}
