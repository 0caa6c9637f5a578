"""Why is a task not being worked on? Every reason there is, its place in the line, and how long that may last."""

import asyncio
import json

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, until
from tests.web.test_directories import awaited, background, rule, soon, tell

ON_EVERY_RECORD = True

KINDS = {"paused", "run_at", "dependency", "directory_limit", "global_limit", "priority", "no_worker"}


async def explain(api, task):
    data = (await api.get(f"{TASKS}/{task['task_id']}/explain")).data
    assert data.keys() >= {"status", "position", "blocked_by", "estimated_wait_seconds"}
    for reason in data["blocked_by"]:
        assert reason["kind"] in KINDS
        assert isinstance(reason["detail"], str)
        assert reason["detail"]
    return data


async def reasons(api, task):
    """By kind: the detail."""
    blocked_by = (await explain(api, task))["blocked_by"]
    assert len({reason["kind"] for reason in blocked_by}) == len(blocked_by)
    return {reason["kind"]: reason["detail"] for reason in blocked_by}


async def edit(api, task, **fields):
    headers = {"Content-Type": "application/json"}
    answer = await api.call("PATCH", f"{TASKS}/{task['task_id']}", data=json.dumps(fields), headers=headers)
    assert answer.status == 200


@pytest.fixture(scope="module")
def narrow(tmp_path_factory, other_record):
    """A server that has one task worked on at a time."""
    environ = {"APP_TASK_MAX_CONCURRENT_TASKS": "1"}
    server = ServerProcess(tmp_path_factory.mktemp("narrow"), environ=environ, record=other_record).start()
    yield server
    assert server.terminate() == 0


async def test_a_task_that_nobody_waits_for_lacks_a_worker(api, directory):
    """Also when somebody waits for others, by their directory or their tags."""
    task = await api.create(directory, tags=["a"])
    assert (await explain(api, task)) | {"estimated_wait_seconds": None, "blocked_by": []} == {
        "task_id": task["task_id"],
        "status": "waiting",
        "position": 1,
        "estimated_wait_seconds": None,
        "blocked_by": [],
    }
    assert (await reasons(api, task)).keys() == {"no_worker"}
    polls = [
        background(api.next(directory, wait_seconds=20, tags="a,b")),
        background(api.next(f"{directory}/other", wait_seconds=20)),
    ]
    await api.busy_with(2)
    assert (await reasons(api, task)).keys() == {"no_worker"}
    for poll in polls:
        poll.cancel()


async def test_a_task_in_a_paused_directory_is_told_why_and_until_when(api, directory):
    """Who waits there would take it."""
    task = await api.create(directory, tags=["a", "b"])
    end = soon(1000)
    await tell(api, directory, "pause", paused_reason="the disk is being cleaned", paused_until=end)
    poll = background(api.next(directory, wait_seconds=20, tags="b"))
    await awaited(api, directory, 1)
    told = await reasons(api, task)
    assert told.keys() == {"paused"}
    assert "the disk is being cleaned" in told["paused"]
    assert end in told["paused"]
    poll.cancel()


async def test_a_task_in_a_drained_directory_is_told_so(api, directory):
    task = await api.create(directory)
    await tell(api, directory, "drain")
    assert "drain" in (await reasons(api, task))["paused"]
    await tell(api, directory, "resume")
    assert "paused" not in await reasons(api, task)


@pytest.mark.parametrize("how", ["put off", "failed", "released"])
async def test_a_task_whose_time_has_not_come_is_told_when_it_comes(api, directory, how):
    if how == "put off":
        task = await api.create(directory, delay_seconds=1000)
    else:
        task = await api.claimed(directory)
        retried = {"error_message": "no", "retryable": True, "retry_after_seconds": 1000}
        said = retried if how == "failed" else {"delay_seconds": 1000}
        assert (await api.tell(task, "fail" if how == "failed" else "release", **said)).status == 200
    told = await reasons(api, task)
    assert told.keys() == {"run_at"}
    assert (await api.show(task))["available_at"] in told["run_at"]
    assert (await explain(api, task))["position"] is None


async def test_a_task_that_waits_for_others_is_told_for_which_and_how_they_are(api, directory):
    parents = {
        "waiting": await api.create(f"{directory}/waiting"),
        "working": await api.claimed(f"{directory}/working"),
        "failed": await api.claimed(f"{directory}/failed"),
        "completed": await api.claimed(f"{directory}/completed"),
    }
    await api.tell(parents["failed"], "fail", error_message="no")
    await api.tell(parents["completed"], "complete")
    task = await api.create(directory, depends_on=[parent["task_id"] for parent in parents.values()])
    told = await explain(api, task)
    assert told["position"] is None
    assert [reason["kind"] for reason in told["blocked_by"]] == ["dependency"] * 3
    for reason, status in zip(told["blocked_by"], ["waiting", "working", "failed"], strict=True):
        assert parents[status]["task_id"] in reason["detail"]
        assert status in reason["detail"]


async def test_a_task_in_a_directory_that_is_full_is_told_its_limit(api, directory):
    held = [await api.claimed(directory) for _ in range(2)]
    task = await api.create(directory)
    await rule(api, directory, max_working=3)
    assert "directory_limit" not in await reasons(api, task)
    await rule(api, directory, max_working=2)
    assert "2" in (await reasons(api, task))["directory_limit"]
    await api.tell(held[0], "complete")
    assert "directory_limit" not in await reasons(api, task)


async def test_a_task_on_a_server_that_is_full_is_told_its_limit(narrow, directory):
    async with connected(narrow) as api:
        task = await api.create(directory)
        assert "global_limit" not in await reasons(api, task)
        held = await api.claimed(f"{directory}/elsewhere")
        poll = background(api.next(directory, wait_seconds=20))
        await awaited(api, directory, 1)
        told = await reasons(api, task)
        assert told.keys() == {"global_limit"}
        assert "1" in told["global_limit"]
        await api.tell(held, "complete")
        assert (await poll)["task_id"] == task["task_id"]
        await api.tell(await poll, "complete")


async def test_a_task_behind_others_is_told_how_many(api, directory):
    """Those that are more urgent, and those that are older; not those elsewhere or whose time has not come."""
    for priority, count in (("high", 2), ("medium", 3), ("low", 4)):
        for _ in range(count):
            await api.create(directory, priority=priority)
            await api.create(f"{directory}/other", priority=priority)
    await api.create(directory, priority="high", delay_seconds=1000)
    await api.create(directory, priority="high", expires_at="2000-01-01T00:00:00Z")
    task = await api.create(directory)
    await api.create(directory)

    async def told():  # until the task that expires is gone
        data = await explain(api, task)
        return data if data["position"] == 6 else None

    blocked_by = (await until(told))["blocked_by"]
    (detail,) = [reason["detail"] for reason in blocked_by if reason["kind"] == "priority"]
    assert "2" in detail
    assert "3" in detail


async def test_all_reasons_are_told_at_once(narrow, directory):
    async with connected(narrow) as api:
        await rule(api, directory, max_working=1)
        parent = await api.create(f"{directory}/parent")
        blocked = await api.create(directory, depends_on=[parent["task_id"]], delay_seconds=1000)
        await api.create(directory)
        ready = await api.create(directory)
        held = await api.next(directory)
        older = await api.create(directory, priority="high")
        await tell(api, directory, "pause", paused_until=soon(1000))
        assert (await reasons(api, blocked)).keys() == KINDS - {"priority", "no_worker"}
        assert (await reasons(api, ready)).keys() == KINDS - {"run_at", "dependency"}
        assert (await reasons(api, older)).keys() == KINDS - {"run_at", "dependency", "priority"}
        await api.tell(held, "complete")


async def test_the_position_is_the_place_in_the_line(api, directory):
    """Also after priorities were edited, and as the line moves on."""
    priorities = ["low", "high", "medium", "high", "low", "medium"]
    made = [await api.create(directory, priority=priority) for priority in priorities]
    assert [(await explain(api, task))["position"] for task in made] == [5, 1, 3, 2, 6, 4]
    await edit(api, made[4], priority="high")
    await edit(api, made[1], priority="low")
    positions = [(await explain(api, task))["position"] for task in made]
    assert positions == [5, 6, 3, 1, 2, 4]
    for expected in range(1, 7):
        claimed = await api.next(directory)
        assert claimed["task_id"] == made[positions.index(expected)]["task_id"]
        left = [(await explain(api, task))["position"] for task in made]
        assert sorted(position for position in left if position) == list(range(1, 7 - expected))


async def test_who_is_not_waiting_has_no_place_and_no_reasons(api, directory):
    tasks = {"working": await api.claimed(directory)}
    for status, verb in (("completed", "complete"), ("failed", "fail")):
        tasks[status] = await api.claimed(directory)
        await api.tell(tasks[status], verb, **({"error_message": "no"} if verb == "fail" else {}))
    tasks["cancelled"] = await api.create(directory)
    await api.post(f"{TASKS}/{tasks['cancelled']['task_id']}/cancel", {})
    await tell(api, directory, "pause")
    for status, task in tasks.items():
        told = await explain(api, task)
        assert (told["status"], told["position"], told["blocked_by"]) == (status, None, [])
        assert told["estimated_wait_seconds"] is None


async def test_a_task_that_does_not_exist_is_not_explained(api, directory):
    (await api.get(f"{TASKS}/nobody/explain")).refused(404, "TASK_NOT_FOUND")
    gone = await api.create(directory)
    await api.post(f"{TASKS}/{gone['task_id']}/cancel", {})
    await api.call("DELETE", f"{TASKS}/{gone['task_id']}")
    (await api.get(f"{TASKS}/{gone['task_id']}/explain")).refused(404, "TASK_NOT_FOUND")


async def wait_of(api, task):
    return (await explain(api, task))["estimated_wait_seconds"]


async def test_nobody_knows_how_long_a_task_waits_where_nothing_was_ever_done(api, directory):
    assert await wait_of(api, await api.create(directory)) is None


async def test_the_wait_is_estimated_from_how_long_tasks_have_taken(api, directory):
    """The longer the line, the longer; with more workers, the shorter."""
    for _ in range(3):
        task = await api.claimed(directory)
        await asyncio.sleep(0.02)  # so long does the work take
        assert (await api.tell(task, "complete")).status == 200
    await api.claimed(directory)
    tasks = [await api.create(directory) for _ in range(10)]
    waits = [await wait_of(api, task) for task in tasks]
    assert waits == sorted(waits)
    assert 0.01 < waits[0] < 10
    assert waits[9] == pytest.approx(10 * waits[0], rel=0.1)
    await api.next(directory)
    assert await wait_of(api, tasks[9]) < waits[9] * 0.7


async def test_the_wait_is_at_least_until_the_time_that_is_set(api, directory):
    task = await api.create(directory, delay_seconds=1000)
    assert 990 < await wait_of(api, task) <= 1000
    await tell(api, directory, "pause", paused_until=soon(2000))
    assert 1990 < await wait_of(api, task) <= 2000
    now = await api.create(directory)
    poll = background(api.next(directory, wait_seconds=20))
    await awaited(api, directory, 1)
    assert 1990 < await wait_of(api, now) <= 2000
    poll.cancel()


@pytest.mark.parametrize("how", ["dependency", "pause", "drain"])
async def test_the_wait_for_what_has_no_set_end_is_not_known(api, directory, how):
    parent = await api.create(f"{directory}/parent")
    task = await api.create(directory, depends_on=[parent["task_id"]] if how == "dependency" else [])
    if how != "dependency":
        await tell(api, directory, how)
    assert await wait_of(api, task) is None


async def test_an_explanation_changes_nothing(api, directory):
    task = await api.create(directory)
    before = await api.show(task)
    await explain(api, task)
    assert await api.show(task) == before
    assert await api.life(task) == ["created"]
