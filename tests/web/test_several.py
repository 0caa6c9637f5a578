"""Two servers that share a PostgreSQL are one: what is told at either holds at both."""

import asyncio
import json
import random
from contextlib import suppress

import pytest
from aiohttp import ClientError

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, Api, connected, on_record, until
from tests.web.tails import last_seq
from tests.web.test_directories import background, listed, most_at_once, record, rule, tell
from tests.web.test_explain import reasons
from tests.web.test_limits import most_of_all

CLAIMERS = 30
CONFIG = "/api/v1/config"


def path_of(task):
    return f"{TASKS}/{task['task_id']}"


async def claim(api: Api, directory, **fields):
    return (await api.post(f"{TASKS}/claim", {"work_directory": directory, **fields})).data["tasks"]


async def holds(api: Api, key, value):
    return (await api.get(CONFIG)).data["settings"][key]["value"] == value


async def change(api: Api, changes):
    return await api.call("PATCH", CONFIG, json={"changes": changes})


# Keys


async def test_a_key_holds_at_both_and_is_revoked_at_both_at_once(here, there, directory):
    """Whoever came in with it at the other server is sent away, too."""
    name = directory.strip("/").replace("/", ".")
    made = (await here.post("/api/v1/keys", {"name": name, "scopes": ["work"]})).data
    assert name in [key["name"] for key in (await there.get("/api/v1/keys")).data["keys"]]
    async with there.session.get(
        f"{there.url}{TASKS}/stream?work_path={directory}&worker_id=w", headers={"X-API-Key": made["key"]}
    ) as stream:
        assert stream.status == 200
        asked = {"headers": {"X-API-Key": made["key"]}}
        assert (await there.call("GET", f"{TASKS}/next?work_path={directory}", **asked)).status == 200
        assert (await here.call("DELETE", f"/api/v1/keys/{name}")).status == 200
        await ended(stream)
        (await there.call("GET", f"{TASKS}/next?work_path={directory}", **asked)).refused(401, "UNAUTHORIZED")


async def ended(stream):
    with suppress(ClientError):
        async with asyncio.timeout(5):
            await stream.content.read()


# Every verb at the other


@pytest.mark.parametrize(
    ("verb", "said", "status", "life"),
    [
        ("complete", {"result": {"n": 1}}, "completed", ["completed"]),
        ("fail", {"error_message": "no", "retryable": False}, "failed", ["failed"]),
        ("fail", {"error_message": "no", "retryable": True}, "waiting", ["retried"]),
        ("release", {}, "waiting", ["released"]),
        ("heartbeat", {"progress": {"percent": 5}}, "working", ["progress"]),
        ("logs", {"lines": ["a"]}, "working", []),
    ],
)
async def test_a_worker_may_report_at_the_other(here, there, directory, verb, said, status, life):
    task = await here.claimed(directory)
    first = await there.tell(task, verb, **said)
    assert first.status == 200
    shown = await here.show(task)
    assert shown["status"] == status
    assert (await here.life(task))[2:] == life
    assert await there.show(task) == shown
    if status != "working":
        again = await here.tell(task, verb, **said)
        assert again.status == (409 if verb == "release" else 200)
        assert await here.life(task) == ["created", "claimed", *life]


async def test_every_other_verb_may_be_told_at_the_other(here, there, directory):
    task = await here.create(directory)
    headers = {"If-Match": '"1"', "Content-Type": "application/json"}
    edited = await there.call("PATCH", path_of(task), data=json.dumps({"priority": "high"}), headers=headers)
    assert edited.data["priority"] == "high"
    lost = await here.call("PATCH", path_of(task), data=json.dumps({"priority": "low"}), headers=headers)
    lost.refused(409, "VERSION_CONFLICT")
    assert (await there.next(directory))["task_id"] == task["task_id"]
    assert (await here.post(f"{path_of(task)}/cancel", {})).status == 409
    assert (await here.post(f"{path_of(task)}/cancel", {"force": True})).data["status"] == "cancelled"
    assert (await there.call("DELETE", path_of(task))).status == 200
    (await here.get(path_of(task))).refused(404, "TASK_NOT_FOUND")
    failed = await there.claimed(directory)
    assert (await here.tell(failed, "fail", error_message="no", retryable=False)).status == 200
    assert (await there.post(f"{path_of(failed)}/retry", {})).data["status"] == "waiting"
    assert (await here.next(directory))["task_id"] == failed["task_id"]


async def test_what_lost_its_lease_is_told_so_at_both(here, there, directory):
    task = await here.claimed(directory, lease_seconds=0.1)

    async def is_over():
        return await there.status(task) == "waiting"

    await until(is_over)
    for api in (here, there):
        (await api.tell(task, "complete")).refused(409, "LEASE_LOST")
    again = await there.next(directory)
    assert again["lease_token"] != task["lease_token"]
    assert (await here.tell(again, "complete")).status == 200


# Once


async def test_a_claim_of_the_same_name_gets_the_same_tasks_at_the_other(here, there, directory):
    for _ in range(5):
        await here.create(directory)
    named = {"claim_id": directory, "worker_id": "w", "limit": 2}
    answers = await asyncio.gather(*(claim(api, directory, **named) for api in (here, there) * 5))
    assert len({tuple(sorted(task["lease_token"] for task in tasks)) for tasks in answers}) == 1
    assert len(answers[0]) == 2
    assert len(await claim(there, directory, limit=5)) == 3


async def test_claims_of_one_name_that_wait_at_both_get_the_same_task(here, there, directory):
    named = {"claim_id": directory, "worker_id": "w", "wait_seconds": 20}
    waiting = [background(claim(api, directory, **named)) for api in (here, there)]
    await here.busy_with(1)
    await there.busy_with(1)
    task = await here.create(directory)
    await here.create(directory)
    tokens = {tasks[0]["lease_token"] for tasks in await asyncio.gather(*waiting)}
    assert len(tokens) == 1
    assert await here.life(task) == ["created", "claimed"]
    assert len(await claim(here, directory, limit=5)) == 1


async def test_an_idempotency_key_makes_one_task_wherever_it_is_said(here, there, directory):
    body = json.dumps({"work_directory": directory, "prompt": "x"})
    headers = {"Content-Type": "application/json", "Idempotency-Key": directory}
    asking = (api.call("POST", TASKS, data=body, headers=headers) for api in (here, there) * 10)
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.data["task_id"] for answer in answers}) == 1
    other = json.dumps({"work_directory": directory, "prompt": "y"})
    (await there.call("POST", TASKS, data=other, headers=headers)).refused(422, "IDEMPOTENCY_KEY_REUSED")


# Limits


async def worked_off(here, there, directories):
    """Claimers at both until every task is completed; some wait, some come and go."""
    rng, over = random.Random(5), asyncio.Event()

    async def claimer(api):
        while not over.is_set():
            query = {"wait_seconds": rng.choice([0, 0.2]), "lease_seconds": 20}
            task = await api.next(rng.choice(directories), **query)
            if task is None:
                await asyncio.sleep(rng.random() / 20)
            else:
                told = rng.choice([here, there])
                assert (await told.tell(task, rng.choice(["complete", "complete", "release"]))).status == 200

    async def all_ended():
        counts = [await listed(there, directory) for directory in directories]
        return all(count["waiting"] == count["working"] == 0 for count in counts)

    async with asyncio.TaskGroup() as group:
        for number in range(CLAIMERS):
            group.create_task(claimer((here, there)[number % 2]))
        await until(all_ended)
        over.set()


async def nobody_works(here, there):
    """Any more."""
    for task in (await here.get(TASKS, status="working", limit=1000)).data["tasks"]:
        await there.post(f"{path_of(task)}/cancel", {"force": True})


async def test_no_two_are_in_one_checkout_whichever_server_they_ask(here, there, pair, directory):
    await rule(here, directory, max_working=1)
    for number in range(40):
        await (here, there)[number % 2].create(directory)
    await worked_off(here, there, [directory])
    assert most_at_once(pair[0], directory) == {directory: 1}


async def test_no_more_are_worked_on_in_all_than_there_may_be(here, there, pair, directory):
    await nobody_works(here, there)
    assert (await change(here, {"task.max_concurrent_tasks": 3})).status == 200
    await until(lambda: holds(there, "task.max_concurrent_tasks", 3))
    before = await last_seq(here)
    try:
        directories = [f"{directory}/{number}" for number in range(4)]
        for number in range(40):
            await (here, there)[number % 2].create(directories[number % 4])
        await worked_off(here, there, directories)
    finally:
        assert (await change(there, {"task.max_concurrent_tasks": None})).status == 200
    assert most_of_all(pair[0], before) == 3


async def test_the_last_slot_of_all_goes_to_who_waits_at_the_other(here, there, directory):
    """Also for another directory than that where it came free."""
    await nobody_works(here, there)
    assert (await change(here, {"task.max_concurrent_tasks": 1})).status == 200
    try:
        await until(lambda: holds(there, "task.max_concurrent_tasks", 1))
        held = await here.claimed(f"{directory}/a")
        task = await here.create(f"{directory}/b")
        waiting = background(there.next(f"{directory}/b", wait_seconds=20))
        await there.busy_with(1)
        assert (await here.tell(held, "complete")).status == 200
        assert (await waiting)["task_id"] == task["task_id"]
    finally:
        assert (await change(there, {"task.max_concurrent_tasks": None})).status == 200


# Directories


async def test_a_pause_told_at_one_holds_at_both_at_once(here, there, pair, directory):
    """Nothing is claimed after its answer; and what is resumed at the other is handed out at both."""
    stop = asyncio.Event()

    async def claimer(api):
        while not stop.is_set():
            await api.create(directory)
            await api.next(directory, wait_seconds=0.1)

    claimers = [background(claimer(api)) for api in (here, there) * 4]
    try:
        for _ in range(5):
            await asyncio.sleep(0.1)
            await tell(here, directory, "pause")
            query = f"select count(*) from history where type = 'task.claimed' and work_directory = '{directory}'"
            before = await asyncio.to_thread(on_record, pair[0], query)
            await asyncio.sleep(0.2)
            assert await asyncio.to_thread(on_record, pair[0], query) == before
            assert (await listed(there, directory))["paused"]
            await tell(there, directory, "resume")
    finally:
        stop.set()
        await asyncio.gather(*claimers)


async def test_who_waits_at_the_other_is_served_once_it_is_resumed(here, there, directory):
    await tell(here, directory, "pause")
    task = await here.create(directory)
    waiting = background(there.next(directory, wait_seconds=20))
    await there.busy_with(1)
    await tell(here, directory, "resume")
    assert (await waiting)["task_id"] == task["task_id"]


async def test_a_drain_over_both_ends_once(here, there, pair, directory):
    held = [await api.claimed(directory) for api in (here, there) * 5]
    await tell(here, directory, "drain")
    await there.create(directory)
    assert [await api.next(directory) for api in (here, there)] == [None, None]
    told = (api.tell(task, "complete") for api, task in zip((there, here) * 5, held, strict=True))
    assert [answer.status for answer in await asyncio.gather(*told)] == [200] * 10
    assert record(pair[0], directory) == ["draining", "drained"]


async def test_a_slot_that_comes_free_at_one_goes_to_who_waits_at_the_other(here, there, directory):
    await rule(here, directory, max_working=1)
    held = await here.claimed(directory)
    task = await here.create(directory)
    waiting = background(there.next(directory, wait_seconds=20))
    await there.busy_with(1)
    await here.tell(held, "complete")
    assert (await waiting)["task_id"] == task["task_id"]


# Dependencies


async def test_who_depends_on_a_task_that_ends_at_the_other_is_handed_out(here, there, directory):
    parents = [await api.claimed(f"{directory}/parents") for api in (here, there)]
    child = await there.create(directory, depends_on=[task["task_id"] for task in parents])
    waiting = background(here.next(directory, wait_seconds=20))
    await here.busy_with(1)
    for api, task in zip((there, here), parents, strict=True):
        await api.tell(task, "complete")
    assert (await waiting)["task_id"] == child["task_id"]
    doomed = await here.create(directory, depends_on=[child["task_id"]], on_dependency_failure="cancel")
    await there.post(f"{path_of(child)}/cancel", {"force": True})

    async def is_cancelled():
        return await there.status(doomed) == "cancelled"

    await until(is_cancelled)


# Settings


async def test_settings_told_at_one_hold_at_the_other(here, there):
    assert (await change(here, {"task.max_task_retries": 7})).status == 200
    await until(lambda: holds(there, "task.max_task_retries", 7))


async def test_settings_told_at_both_at_once_follow_each_other(here, there):
    keys = ["task.max_task_retries", "task.priority_aging_seconds", "task.restart_grace_seconds"]
    first = (await here.get(CONFIG)).data["version"]
    changes = [{keys[number % 3]: 8 + number} for number in range(12)]  # none is what is set already
    telling = (change((here, there)[number % 2], it) for number, it in enumerate(changes))
    answers = await asyncio.gather(*telling)
    versions = [answer.data["version"] for answer in answers]
    assert sorted(versions) == list(range(first + 1, first + 13))
    last = {}
    for _, it in sorted(zip(versions, changes, strict=True), key=lambda pair: pair[0]):
        last |= it

    async def agree():
        views = [(await api.get(CONFIG)).data for api in (here, there)]
        said = [{key: view["settings"][key]["value"] for key in keys} for view in views]
        return said == [last, last] and {view["version"] for view in views} == {first + 12}

    await until(agree)
    assert (await change(here, dict.fromkeys(keys))).status == 200


# A server is killed


async def test_what_it_was_to_see_to_is_seen_to_when_a_server_is_killed(here, mortal: ServerProcess, directory):
    """Leases that end, and tasks whose time comes."""
    async with connected(mortal) as api:
        held = await api.claimed(f"{directory}/held", lease_seconds=1)
        late = await api.create(f"{directory}/late", delay_seconds=1)
        waiting = background(here.next(f"{directory}/late", wait_seconds=20))
        await here.busy_with(1)
    mortal.kill()
    assert (await waiting)["task_id"] == late["task_id"]

    async def is_over():
        return await here.life(held) == ["created", "claimed", "lease_expired"]

    await until(is_over)
    assert (await here.next(f"{directory}/held"))["attempt"] == 2


async def test_what_was_claimed_at_a_server_that_is_killed_is_completed_at_another(here, mortal, directory):
    async with connected(mortal) as api:
        task = await api.claimed(directory)
    mortal.kill()
    assert (await here.tell(task, "heartbeat")).status == 200
    assert (await here.tell(task, "complete")).status == 200


# Who waits where


async def test_who_waits_at_the_other_is_known(here, there, directory):
    task = await here.create(directory)
    await tell(here, directory, "pause")
    name = directory.rpartition("/")[2]
    waiting = background(there.next(directory, wait_seconds=20, worker_id=name))

    async def known():
        workers = (await here.get("/api/v1/workers")).data["workers"]
        return (await listed(here, directory))["waiting_workers"] == 1 and name in [it["worker_id"] for it in workers]

    await until(known)
    assert (await reasons(here, task)).keys() == {"paused"}
    await tell(here, directory, "resume")
    assert (await waiting)["task_id"] == task["task_id"]
