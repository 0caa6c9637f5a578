"""A task grows more urgent as it waits, if the server is told so: after so long it is as urgent as a new one of the
next priority, and nothing starves."""

import random
from datetime import datetime

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected
from tests.web.test_explain import edit, explain, reasons

ON_EVERY_RECORD = True

RANK = {"low": 0, "medium": 1, "high": 2}
AGING = 0.2


@pytest.fixture(scope="module")
def shared(tmp_path_factory, record):
    """A server where tasks age fast."""
    environ = {"APP_TASK_PRIORITY_AGING_SECONDS": str(AGING)}
    server = ServerProcess(tmp_path_factory.mktemp("aging"), environ=environ, record=record).start()
    yield server
    assert server.terminate() == 0


def seconds(task):
    return datetime.fromisoformat(task["created_at"]).timestamp()


def turn(task):
    """What claims go by: a task of a higher priority is as a lower one created so much earlier; then the older one."""
    return round(seconds(task) - RANK[task["priority"]] * AGING, 3), task["task_id"]


async def grow_old(api, directory, task, ages):
    """Until a task created now is so much younger than this one."""
    while seconds(await api.create(f"{directory}/clock")) - seconds(task) <= ages * AGING:
        pass


async def created(api, places, chance, count, for_ages):
    """So many tasks, of all priorities, over so long a time."""
    made = []
    for _ in range(count):
        made.append(await api.create(chance.choice(places), priority=chance.choice(list(RANK))))
        if len(made) % (count // 8) == 0:
            await grow_old(api, places[0], made[0], for_ages * len(made) / count)
    return made


async def claim(api, places, limit):
    answer = await api.post(f"{TASKS}/claim", {"work_directories": places, "limit": limit})
    return [task["task_id"] for task in answer.data["tasks"]]


async def test_a_stream_of_urgent_tasks_does_not_starve_an_old_one(api, directory):
    """There is always an urgent one waiting; and no other claims the right one less."""
    low = await api.create(directory, priority="low")
    waiting = {low["task_id"]: low}
    claimed = None
    while claimed != low["task_id"]:
        for _ in range(2 if len(waiting) < 4 else 1):
            high = await api.create(directory, priority="high")
            waiting[high["task_id"]] = high
        first = min(waiting.values(), key=turn)
        claimed = (await api.next(directory))["task_id"]
        assert claimed == first["task_id"]
        del waiting[claimed]
    assert len(waiting) > 1
    (start,) = [line["at"] for line in await api.history(low) if line["type"] == "task.claimed"]
    oldest = min(map(seconds, waiting.values()))
    assert oldest - seconds(low) >= 2 * AGING - 0.001
    assert datetime.fromisoformat(start).timestamp() >= seconds(low) + 2 * AGING


async def test_a_young_task_waits_for_the_urgent_ones(api, directory):
    low, medium, high = [await api.create(directory, priority=priority) for priority in RANK]
    claimed = [(await api.next(directory))["task_id"] for _ in RANK]
    assert claimed == [task["task_id"] for task in sorted((low, medium, high), key=turn)]


async def test_an_old_task_comes_before_new_ones_of_the_priorities_above(api, directory):
    low = await api.create(directory, priority="low")
    await grow_old(api, directory, low, 1)
    medium = await api.create(directory, priority="medium")
    await grow_old(api, directory, medium, 1)
    high = await api.create(directory, priority="high")
    assert [(await api.next(directory))["task_id"] for _ in RANK] == [task["task_id"] for task in (low, medium, high)]


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_a_backlog_is_handed_out_in_that_order(api, directory, limit):
    """Also far beyond what the server keeps ready in memory, and over several directories."""
    places = [directory, f"{directory}/other"]
    made = await created(api, places, random.Random(limit), 480 if limit == 7 else 120, 4)
    claimed = []
    while some := await claim(api, places, limit):
        claimed += some
    assert claimed == [task["task_id"] for task in sorted(made, key=turn)]


async def test_a_long_line_of_one_priority_hides_no_old_task_of_another(api, directory):
    """Longer than what the server keeps ready in memory: old ones before, urgent ones that came late behind."""

    async def line(prompt, priority):
        task = {"work_directory": directory, "prompt": prompt, "priority": priority}
        return (await api.post(f"{TASKS}/batch", {"tasks": [task] * 200})).data["tasks"]

    await line("early", "high")
    await grow_old(api, directory, (await line("old", "low"))[-1], 2)
    await line("late", "high")
    prompts = []
    while tasks := (await api.post(f"{TASKS}/claim", {"work_directory": directory, "limit": 9})).data["tasks"]:
        prompts += [task["prompt"] for task in tasks]
    assert prompts == ["early"] * 200 + ["old"] * 200 + ["late"] * 200


async def test_the_position_goes_by_that_order(api, directory):
    made = await created(api, [directory], random.Random(5), 24, 3)
    expected = sorted(made, key=turn)
    assert [(await explain(api, task))["position"] for task in expected] == list(range(1, 25))
    assert "priority" not in await reasons(api, expected[0])
    assert "priority" in await reasons(api, expected[-1])
    made[-1] = made[-1] | {"priority": "high"}
    await edit(api, made[-1], priority="high")
    expected = sorted(made, key=turn)
    assert [(await explain(api, task))["position"] for task in expected] == list(range(1, 25))
    assert await claim(api, [directory], 100) == [task["task_id"] for task in expected]


async def test_a_task_that_comes_back_has_kept_its_age(api, directory):
    low = await api.create(directory, priority="low")
    held = await api.next(directory)
    await grow_old(api, directory, low, 2)
    await api.create(directory, priority="high")
    await api.tell(held, "release")
    assert (await api.next(directory))["task_id"] == low["task_id"]


async def test_the_order_stands_over_a_restart(tmp_path, own_record, directory):
    server = ServerProcess(tmp_path, environ={"APP_TASK_PRIORITY_AGING_SECONDS": str(AGING)}, record=own_record).start()
    async with connected(server) as api:
        made = await created(api, [directory], random.Random(7), 40, 3)
    server.kill()
    server.start()
    async with connected(server) as api:
        assert await claim(api, [directory], 100) == [task["task_id"] for task in sorted(made, key=turn)]
    assert server.terminate() == 0


async def test_without_ageing_the_order_is_strict(tmp_path, own_record, directory):
    """However old a task is; that is the default."""
    server = ServerProcess(tmp_path, environ={"APP_TASK_PRIORITY_AGING_SECONDS": "0"}, record=own_record).start()
    async with connected(server) as api:
        made = await created(api, [directory], random.Random(9), 40, 3)
        expected = sorted(made, key=lambda task: (-RANK[task["priority"]], task["task_id"]))
        assert [(await explain(api, task))["position"] for task in expected] == list(range(1, 41))
        assert await claim(api, [directory], 100) == [task["task_id"] for task in expected]
    assert server.terminate() == 0
