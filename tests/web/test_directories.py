"""The rules of work directories: pauses, drains and limits, who lays them down, and what they do to those who wait."""

import asyncio
import json
import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tests.web.conftest import TASKS, connected, footprint, on_record, until

ON_EVERY_RECORD = True

DIRECTORIES = "/api/v1/work-directories"
FIELDS = {
    *("work_directory", "waiting", "working", "completed", "failed", "cancelled", "oldest_waiting_seconds", "paused"),
    *("paused_reason", "paused_until", "draining", "max_working", "waiting_workers"),
}
UNRULED = {"paused": False, "paused_reason": None, "paused_until": None, "draining": False, "max_working": None}
VERBS = ["pause", "resume", "drain"]


def background(coroutine):
    return asyncio.create_task(coroutine)


def soon(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def ask(api, method, query, body=None, verb=""):
    data = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    return await api.call(method, f"{DIRECTORIES}{verb and f'/{verb}'}{query}", data=data, headers=headers)


async def rule(api, directory, **fields):
    return (await ask(api, "PATCH", f"?path={quote(directory)}", fields)).data


async def tell(api, directory, verb, **fields):
    return (await ask(api, "POST", f"?path={quote(directory)}", fields, verb)).data


async def listed(api, directory):
    """What the list says of a directory; None if it is not there."""
    directories = (await api.get(DIRECTORIES)).data["work_directories"]
    return next((found for found in directories if found["work_directory"] == directory), None)


async def awaited(api, directory, workers):
    """Until so many wait for a task of a directory that has tasks or rules: a claim is parked after it has arrived."""

    async def are_waiting():
        return (await listed(api, directory))["waiting_workers"] == workers

    await until(are_waiting)


def rules_of(view):
    return {name: view[name] for name in UNRULED}


def record(server, directory):
    """What the history says about the directory itself, oldest first."""
    lines = f"select type from history where work_directory = '{directory}' and task_id is null order by seq"
    return [type_.removeprefix("directory.") for (type_,) in on_record(server, lines)]


def most_at_once(server, below):
    """By directory: how many tasks were ever worked on at the same time, as the history tells it."""
    query = "select task_id, work_directory, status from history where task_id is not null order by seq"
    working, most = {}, {}
    for task_id, directory, status in on_record(server, query):
        if directory.startswith(below):
            tasks = working.setdefault(directory, set())
            (tasks.add if status == "working" else tasks.discard)(task_id)
            most[directory] = max(most.get(directory, 0), len(tasks))
    return most


async def test_a_directory_is_told_with_its_tasks_and_those_who_wait(api, directory):
    held, *_ = [await api.claimed(directory) for _ in range(4)]
    for verb, said in (("complete", {}), ("fail", {"error_message": "no"})):
        await api.tell(await api.claimed(directory), verb, **said)
    doomed = await api.create(directory)
    await api.post(f"{TASKS}/{doomed['task_id']}/cancel", {})
    before = await listed(api, directory)
    expected = {"waiting": 0, "working": 4, "completed": 1, "failed": 1, "cancelled": 1, "oldest_waiting_seconds": None}
    assert before == {"work_directory": directory, **expected, **UNRULED, "waiting_workers": 0}
    for _ in range(2):
        await api.create(directory, delay_seconds=1000)
    waiting = [background(api.next(directory, wait_seconds=20)), background(api.next(directory, wait_seconds=20))]
    async with api.stream(directory, worker_id="w"):
        await awaited(api, directory, 3)
        view = await listed(api, directory)
        assert view.keys() >= FIELDS
        assert view["waiting"] == 2
        assert 0 <= view["oldest_waiting_seconds"] < 100
        await api.tell(held, "release")
        await awaited(api, directory, 2)
    for poll in waiting:
        poll.cancel()


async def test_the_age_of_the_oldest_is_told_in_seconds(api, directory):
    first = await api.create(directory)
    await api.create(directory)
    answer = await api.get(DIRECTORIES)
    (view,) = [found for found in answer.data["work_directories"] if found["work_directory"] == directory]
    age = datetime.fromisoformat(answer.json["timestamp"]) - datetime.fromisoformat(first["created_at"])
    assert view["oldest_waiting_seconds"] == age.total_seconds()


async def test_directories_are_listed_once_each_and_by_name(api, directory):
    places = [f"{directory}/{name}" for name in ("b", "a", "c")]
    for place in places * 2:
        await api.create(place)
    names = [found["work_directory"] for found in (await api.get(DIRECTORIES)).data["work_directories"]]
    assert names == sorted(set(names))
    assert [name for name in names if name.startswith(f"{directory}/")] == sorted(places)


async def test_a_directory_may_get_its_rules_before_its_first_task(api, directory):
    assert await listed(api, directory) is None
    await rule(api, directory, max_working=2)
    assert (await listed(api, directory))["max_working"] == 2


async def test_what_is_said_of_a_directory_changes_and_what_is_not_stays(api, shared, directory):
    assert rules_of(await rule(api, directory, max_working=3)) == UNRULED | {"max_working": 3}
    until_when = soon(1000)
    paused = {"paused": True, "paused_reason": "lunch", "paused_until": until_when}
    assert rules_of(await rule(api, directory, **paused)) == UNRULED | {"max_working": 3} | paused
    assert rules_of(await rule(api, directory, max_working=None)) == UNRULED | paused
    await tell(api, directory, "drain")
    paused |= {"max_working": 5, "draining": True}
    assert rules_of(await rule(api, directory, max_working=5)) == UNRULED | paused
    assert rules_of(await rule(api, directory, paused=False)) == UNRULED | {"max_working": 5, "draining": True}
    view = await rule(api, directory)
    assert view == await listed(api, directory)
    expected = ["updated", "paused", "updated", "draining", "drained", "updated", "resumed"]
    assert record(shared, directory) == expected


async def test_a_pause_may_have_a_reason_and_an_end(api, shared, directory):
    """And may be said again with others."""
    assert rules_of(await tell(api, directory, "pause")) == UNRULED | {"paused": True}
    said = {"paused_reason": "<b>\N{PILE OF POO}\n", "paused_until": soon(1000)}
    assert rules_of(await tell(api, directory, "pause", **said)) == UNRULED | {"paused": True} | said
    assert rules_of(await tell(api, directory, "resume")) == UNRULED
    assert record(shared, directory) == ["paused", "paused", "resumed"]


async def test_what_is_so_already_leaves_no_trace(api, shared, directory):
    await api.create(directory)
    for verb in ("resume", "pause", "drain"):
        once = await tell(api, directory, verb)
        before = footprint(shared)
        again = await tell(api, directory, verb)
        assert rules_of(again) == rules_of(once)
        assert footprint(shared) == before


@pytest.mark.parametrize(("given", "normal"), [("{}/a/./b//", "{}/a/b"), ("/{}/ä b/%41+c", "{}/ä b/%41+c")])
async def test_a_directory_is_known_by_its_normal_form(api, directory, given, normal):
    given, normal = given.format(directory), normal.format(directory)
    await api.create(given)
    await rule(api, given, max_working=1)
    for verb in VERBS:
        assert (await tell(api, given, verb))["work_directory"] == normal
    await tell(api, given, "pause")
    view = await listed(api, normal)
    assert (view["waiting"], view["paused"], view["max_working"]) == (1, True, 1)


async def test_a_windows_directory_is_known_by_its_normal_form(api, directory):
    name = directory.rpartition("/")[2]
    assert (await rule(api, f"c:/{name}//x/", max_working=1))["work_directory"] == f"C:\\{name}\\x"


@pytest.mark.parametrize("how", ["pause", "drain"])
async def test_nobody_is_given_a_task_where_it_is_closed(api, directory, how):
    held = await api.claimed(directory)
    await api.create(directory)
    await tell(api, directory, how)
    assert await api.next(directory) is None
    claim = {"work_directories": [directory, f"{directory}/other"], "limit": 5, "wait_seconds": 0.1}
    assert (await api.post(f"{TASKS}/claim", claim)).data == {"tasks": []}
    done = await api.tell(held, "complete", claim_next={"work_directory": directory})
    assert (done.data["status"], done.data["next"]) == ("completed", None)


@pytest.mark.parametrize("how", ["pause", "drain"])
async def test_who_holds_a_task_where_it_is_closed_goes_on(api, directory, how):
    await api.create(directory)
    claim = {"work_directory": directory, "worker_id": "w", "claim_id": directory}
    (held,) = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    await tell(api, directory, how)
    assert (await api.tell(held, "heartbeat")).status == 200
    (again,) = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert again["lease_token"] == held["lease_token"]
    assert (await api.tell(held, "complete")).status == 200


@pytest.mark.parametrize("closed", ["pause", "drain", "limit"])
@pytest.mark.parametrize("how", ["next", "stream"])
async def test_whoever_waits_is_served_as_soon_as_it_is_open_again(api, directory, closed, how):
    held = await api.claimed(directory)
    if closed == "limit":
        await rule(api, directory, max_working=1)
    else:
        await tell(api, directory, closed)
    tasks = [await api.create(directory) for _ in range(2)]
    async with AsyncExitStack() as stack:
        if how == "stream":
            waiting = background((await stack.enter_async_context(api.stream(directory))).task())
        else:
            waiting = background(api.next(directory, wait_seconds=20))
        await api.busy_with(1)
        tasks.append(await api.create(directory))
        assert {await api.status(task) for task in tasks} == {"waiting"}
        assert not waiting.done()
        if closed == "limit":
            await api.tell(held, "complete")
        else:
            await tell(api, directory, "resume")
        assert (await waiting)["task_id"] == tasks[0]["task_id"]


async def test_opening_one_door_of_two_serves_nobody(api, directory):
    """A directory that is paused and full, or paused and drained, is open when neither holds any more."""
    await api.create(directory)
    await rule(api, directory, max_working=1)
    await tell(api, directory, "pause")
    held = await api.create(f"{directory}/x")
    await rule(api, directory, max_working=None)
    assert await api.next(directory) is None
    await tell(api, directory, "drain")
    await rule(api, directory, paused=False)
    assert await api.next(directory) is None
    await tell(api, directory, "resume")
    assert await api.next(directory) is not None
    assert await api.status(held) == "waiting"


async def test_a_pause_ends_by_itself(api, shared, directory):
    task = await api.create(directory)
    end = soon(0.4)
    await tell(api, directory, "pause", paused_reason="a moment", paused_until=end)
    assert (await api.next(directory, wait_seconds=10))["task_id"] == task["task_id"]
    assert (await api.show(task))["started_at"] >= end
    assert rules_of(await listed(api, directory)) == UNRULED
    assert record(shared, directory) == ["paused", "resumed"]


async def test_a_pause_that_is_said_again_ends_when_it_was_last_said(api, shared, directory):
    await api.create(directory)
    await tell(api, directory, "pause", paused_until=soon(0.1))
    await tell(api, directory, "pause")
    other = f"{directory}/other"
    await api.create(other)
    await tell(api, other, "pause", paused_until=soon(1000))
    end = soon(0.3)
    await tell(api, other, "pause", paused_until=end)
    assert await api.next(other, wait_seconds=10) is not None
    assert (await listed(api, directory))["paused"] is True
    assert await api.next(directory) is None
    assert record(shared, directory) == ["paused", "paused"]


async def test_a_pause_into_the_past_is_over_at_once(api, directory):
    task = await api.create(directory)
    await tell(api, directory, "pause", paused_until="2000-01-01T00:00:00Z")
    assert (await api.next(directory, wait_seconds=10))["task_id"] == task["task_id"]
    assert rules_of(await listed(api, directory)) == UNRULED


@pytest.mark.parametrize("ending", ["complete", "fail", "release", "cancel", "expire"])
async def test_a_drain_is_over_when_the_last_has_ended(api, shared, directory, ending):
    """However it ends; and that is said once."""
    held = [await api.claimed(directory) for _ in range(2)]
    waiting = await api.create(directory)
    view = await tell(api, directory, "drain")
    assert (view["draining"], view["working"], view["waiting"]) == (True, 2, 1)
    said = {"fail": {"error_message": "no"}, "cancel": {"force": True, "lease_token": None}}
    said["expire"] = {"lease_seconds": 0.05}
    for task in held:
        assert record(shared, directory) == ["draining"]
        verb = "heartbeat" if ending == "expire" else ending
        assert (await api.tell(task, verb, **said.get(ending, {}))).status == 200
    await until(lambda: record(shared, directory) == ["draining", "drained"])
    assert await api.next(directory) is None
    assert await api.status(waiting) == "waiting"
    assert (await listed(api, directory))["draining"] is True
    assert rules_of(await tell(api, directory, "resume")) == UNRULED
    assert await api.next(directory) is not None
    assert record(shared, directory) == ["draining", "drained", "resumed"]


async def test_a_drain_of_a_directory_where_nobody_works_is_over_at_once(api, shared, directory):
    await api.create(directory)
    await tell(api, directory, "drain")
    assert record(shared, directory) == ["draining", "drained"]


async def test_a_drain_that_is_ended_before_its_time_is_never_over(api, shared, directory):
    task = await api.claimed(directory)
    await tell(api, directory, "drain")
    await tell(api, directory, "resume")
    await api.tell(task, "complete")
    assert record(shared, directory) == ["draining", "resumed"]


async def test_a_lower_limit_stops_nobody(api, directory):
    held = [await api.claimed(directory) for _ in range(3)]
    await api.create(directory)
    assert (await rule(api, directory, max_working=1))["working"] == 3
    for task in held:
        assert await api.next(directory) is None
        assert (await api.tell(task, "heartbeat")).status == 200
        assert (await api.tell(task, "complete")).status == 200
    assert await api.next(directory) is not None


async def test_a_higher_limit_serves_as_many_as_it_allows_in_turn(api, directory):
    await rule(api, directory, max_working=1)
    await api.claimed(directory)
    waiting = []
    for number in range(4):
        waiting.append(background(api.next(directory, wait_seconds=20, worker_id=f"w{number}")))
        await api.busy_with(number + 1)
    tasks = [await api.create(directory) for _ in waiting]
    await rule(api, directory, max_working=3)
    claimed = await asyncio.gather(*waiting[:2])
    assert [task["task_id"] for task in claimed] == [task["task_id"] for task in tasks[:2]]
    assert [await api.status(task) for task in tasks[2:]] == ["waiting", "waiting"]
    await rule(api, directory, max_working=None)
    assert [task["task_id"] for task in await asyncio.gather(*waiting[2:])] == [task["task_id"] for task in tasks[2:]]


async def test_no_claim_takes_more_than_the_limit_leaves(api, directory):
    await rule(api, directory, max_working=3)
    for _ in range(5):
        await api.create(directory)
        await api.create(f"{directory}/open", priority="low")
    claim = {"work_directories": [directory, f"{directory}/open"], "limit": 7}
    claimed = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert [task["work_directory"] for task in claimed] == [directory] * 3 + [f"{directory}/open"] * 4


@pytest.mark.parametrize("how", ["complete", "fail", "release", "cancel", "expire", "retry"])
async def test_a_slot_set_free_serves_those_who_wait_in_turn(api, directory, how):
    await rule(api, directory, max_working=1)
    held = await api.claimed(directory, max_retries=1)
    waiting = []
    for number in range(2):
        waiting.append(background(api.next(directory, wait_seconds=20, worker_id=f"w{number}")))
        await api.busy_with(number + 1)
    await api.create(directory)
    retried = {"error_message": "no", "retryable": True, "retry_after_seconds": 0}
    said = {"fail": {"error_message": "no"}, "retry": retried, "cancel": {"force": True, "lease_token": None}}
    said["expire"] = {"lease_seconds": 0.05}
    verb = {"retry": "fail", "expire": "heartbeat"}.get(how, how)
    assert (await api.tell(held, verb, **said.get(how, {}))).status == 200
    first = await waiting[0]
    assert not waiting[1].done()
    assert (await listed(api, directory))["working"] == 1
    await api.create(directory)
    await api.tell(first, "complete")
    assert (await waiting[1])["task_id"] != first["task_id"]
    assert (await listed(api, directory))["working"] == 1


async def test_who_waits_for_several_directories_is_served_from_those_that_are_open(api, directory):
    paused, full, open_one = (f"{directory}/{name}" for name in ("paused", "full", "open"))
    await tell(api, paused, "pause")
    await rule(api, full, max_working=1)
    held = await api.claimed(full)
    await api.create(paused, priority="high")
    await api.create(full, priority="high")
    claim = {"work_directories": [paused, full, open_one], "wait_seconds": 20}
    waiting = [background(api.post(f"{TASKS}/claim", claim))]
    await api.busy_with(1)
    waiting.append(background(api.post(f"{TASKS}/claim", claim)))
    await api.busy_with(2)
    await api.create(open_one, priority="low")
    assert (await waiting[0]).data["tasks"][0]["work_directory"] == open_one
    assert not waiting[1].done()
    await api.tell(held, "complete")
    assert (await waiting[1]).data["tasks"][0]["work_directory"] == full
    waiting.append(background(api.post(f"{TASKS}/claim", claim)))
    await api.busy_with(1)
    await tell(api, paused, "resume")
    assert (await waiting[2]).data["tasks"][0]["work_directory"] == paused


CLAIMERS, SOLO_TASKS = 30, 45


async def end_somehow(api, task, chance):
    """As workers do, and as those do who look after them; some are never heard of again."""
    match chance.choice(["complete"] * 4 + ["fail", "again", "release", "vanish", "cancel"]):
        case "complete":
            await api.tell(task, "complete", result=task["attempt"])
        case "fail":
            await api.tell(task, "fail", error_message="no", retryable=False)
        case "again":
            await api.tell(task, "fail", error_message="no", retryable=True, retry_after_seconds=0)
        case "release":
            await api.tell(task, "release")
        case "cancel":
            await api.post(f"{TASKS}/{task['task_id']}/cancel", {"force": True})


@pytest.mark.parametrize("limit", [1, 2])
async def test_no_two_are_ever_in_one_checkout(api, shared, directory, limit):
    """Thirty at a time, who complete, fail, give up, vanish or are stopped, in three directories of this limit."""
    places = [f"{directory}/{name}" for name in "abc"]
    for place in places:
        await rule(api, place, max_working=limit)
    batch = [{"work_directory": places[number % 3], "prompt": f"{number}"} for number in range(SOLO_TASKS)]
    assert (await api.post(f"{TASKS}/batch", {"tasks": batch})).status == 201
    over = asyncio.Event()

    async def claimer(number):
        chance = random.Random(number)
        wanted = places if number % 2 else [places[number % 3]]
        claim = {"work_directories": wanted, "wait_seconds": 0.3, "lease_seconds": 0.1, "limit": 1 + number % 2}
        while not over.is_set():
            for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"]:
                await end_somehow(api, task, chance)

    async def all_ended():
        views = [await listed(api, place) for place in places]
        assert all(view["working"] <= limit for view in views)
        return not any(view["waiting"] + view["working"] for view in views)

    async with asyncio.TaskGroup() as group:
        for number in range(CLAIMERS):
            group.create_task(claimer(number))
        await until(all_ended)
        over.set()
    assert most_at_once(shared, f"{directory}/") == dict.fromkeys(places, limit)


@pytest.mark.parametrize("how", ["told to stop", "killed"])
async def test_rules_stand_over_a_restart(server, directory, how):
    """Also the drain that was not over yet; and a pause whose end came meanwhile is over."""
    paused, brief, draining, full = (f"{directory}/{name}" for name in ("paused", "brief", "draining", "full"))
    async with connected(server) as api:
        held = [await api.claimed(place) for place in (draining, full)]
        for place in (paused, brief, draining, full):
            await api.create(place)
        await tell(api, paused, "pause", paused_reason="why", paused_until=soon(1000))
        await tell(api, brief, "pause", paused_until=soon(0.2))
        await tell(api, draining, "drain")
        await rule(api, full, max_working=1)
        before = [rules_of(await listed(api, place)) for place in (paused, draining, full)]
    server.kill() if how == "killed" else server.terminate()
    server.start()
    async with connected(server) as api:
        assert [rules_of(await listed(api, place)) for place in (paused, draining, full)] == before
        assert [await api.next(place) for place in (paused, draining, full)] == [None] * 3
        assert await api.next(brief, wait_seconds=10) is not None
        for task in held:
            assert (await api.tell(task, "complete")).status == 200
        assert record(server, draining) == ["draining", "drained"]
        assert record(server, brief) == ["paused", "resumed"]
        assert await api.next(draining) is None
        assert await api.next(full) is not None
        await tell(api, paused, "resume")
        assert await api.next(paused) is not None


async def test_a_pause_is_edited_field_by_field(api, directory):
    """What is not given stays; what is said about a pause that is not there is refused."""
    until_when = soon(1000)
    await tell(api, directory, "pause", paused_reason="lunch", paused_until=until_when)
    view = await rule(api, directory, paused_reason="dinner")
    assert (view["paused_reason"], view["paused_until"]) == ("dinner", until_when)
    view = await rule(api, directory, paused=True)
    assert (view["paused_reason"], view["paused_until"]) == ("dinner", until_when)
    view = await rule(api, directory, paused_until=None)
    assert (view["paused_reason"], view["paused_until"]) == ("dinner", None)
    await tell(api, directory, "resume")
    answer = await ask(api, "PATCH", f"?path={quote(directory)}", {"paused_until": until_when})
    assert answer.faults() == ["paused_until"]


async def test_an_empty_body_is_of_any_type(api, directory):
    """Clients put a type on it that nobody asked them for."""
    path = f"{DIRECTORIES}/pause?path={directory}"
    answer = await api.call("POST", path, headers={"Content-Type": "application/octet-stream"})
    assert answer.data["paused"] is True
    answer = await api.call("POST", path, data=b"{}", headers={"Content-Type": "application/octet-stream"})
    answer.refused(415, "UNSUPPORTED_MEDIA_TYPE")
