"""The same request said twice is done once: creations by key, claims by name."""

import asyncio
import json

import pytest

from dispatcher.errors import IdempotencyKeyReused
from dispatcher.messages import Claim, Complete, Create, Delete
from tests.dispatcher.test_board import Desk
from tests.web.conftest import TASKS, connected

ON_EVERY_RECORD = True

DAY = 24 * 3600 * 1000


async def create(api, directory, key, **fields):
    body = json.dumps({"work_directory": directory, "prompt": "x", **fields})
    return await api.call(
        "POST", TASKS, data=body, headers={"Content-Type": "application/json", "Idempotency-Key": key}
    )


async def test_a_creation_is_done_once_for_its_key(api, directory):
    """However many say it at the same time; what comes later is told that it was there already."""
    answers = await asyncio.gather(*(create(api, directory, directory) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.data["task_id"] for answer in answers}) == 1
    replays = [answer for answer in answers if answer.status == 200]
    assert {answer.headers["Idempotent-Replayed"] for answer in replays} == {"true"}
    assert (await api.get(TASKS, work_directory=directory)).data["total"] == 1


async def test_a_key_does_not_stand_for_another_request(api, directory):
    first = await create(api, directory, directory)
    refusal = (await create(api, directory, directory, priority="high")).refused(422, "IDEMPOTENCY_KEY_REUSED")
    assert refusal == {"task_id": first.data["task_id"]}
    assert (await api.get(TASKS, work_directory=directory)).data["total"] == 1


async def test_a_key_stands_over_a_restart(server, directory):
    async with connected(server) as api:
        first = await create(api, directory, "once")
    server.kill()
    server.start()
    async with connected(server) as api:
        again = await create(api, directory, "once")
        assert (again.status, again.data) == (200, first.data)


@pytest.mark.parametrize("key", ["", "x" * 256, "t\tb"])
async def test_a_key_that_cannot_be_kept_is_refused(api, directory, key):
    assert (await create(api, directory, key)).refused(400, "VALIDATION_ERROR")["field"] == "Idempotency-Key"


def keyed(desk, now, digest="d"):
    return desk.say(Create(work_directory="/w", prompt="x", idempotency_key="k", request_digest=digest), now)


def test_a_key_stands_for_a_day_and_longer_while_its_task_lives():
    desk = Desk()
    first = keyed(desk, 0).task
    assert keyed(desk, 3 * DAY).replayed
    (task,) = desk.say(Claim(work_directories=("/w",)), 3 * DAY)
    with pytest.raises(IdempotencyKeyReused):
        keyed(desk, 3 * DAY, "other")
    desk.say(Complete(task_id=task.task_id, lease_token=task.lease_token), 3 * DAY)
    second = keyed(desk, 3 * DAY, "other")
    assert (second.replayed, second.task.arrival) == (False, 2)
    assert keyed(desk, 4 * DAY - 1, "other").task == second.task
    assert first.idempotency_key == "k"


def test_a_key_is_free_when_its_task_is_deleted():
    desk = Desk()
    first = keyed(desk, 0).task
    (task,) = desk.say(Claim(work_directories=("/w",)))
    desk.say(Complete(task_id=task.task_id, lease_token=task.lease_token))
    desk.say(Delete(task_id=first.task_id))
    assert keyed(desk, 1).replayed is False


async def test_a_claim_said_again_gets_the_same_tasks_while_their_leases_live(api, directory):
    for _ in range(3):
        await api.create(directory)
    claim = {"work_directory": directory, "limit": 2, "claim_id": directory}
    first = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    again = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert again == first
    assert len(first) == 2
    await api.tell(first[0], "complete")
    assert (await api.post(f"{TASKS}/claim", claim)).data["tasks"] == first[1:]
    await api.tell(first[1], "release")
    anew = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert [task["attempt"] for task in anew] == [2, 1]


async def test_a_claims_name_is_known_after_a_restart(server, directory):
    claim = {"work_directory": directory, "claim_id": "mine"}
    async with connected(server) as api:
        await api.create(directory)
        (first,) = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    server.kill()
    server.start()
    async with connected(server) as api:
        (again,) = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
        assert (again["task_id"], again["lease_token"]) == (first["task_id"], first["lease_token"])


async def test_a_report_and_the_next_claim_are_one_round_trip(api, directory):
    """Said again, it gets the stored outcome and the same task."""
    first, second = [await api.create(directory, f"{number}") for number in range(2)]
    task = await api.next(directory)
    report = {"result": 1, "claim_next": {"work_directory": directory, "worker_id": "w1", "lease_seconds": 50}}
    answer = (await api.tell(task, "complete", **report)).data
    assert (answer["task_id"], answer["status"]) == (first["task_id"], "completed")
    assert (answer["next"]["task_id"], answer["next"]["attempt"]) == (second["task_id"], 1)
    assert (await api.show(second))["worker_id"] == "w1"
    assert (await api.tell(task, "complete", **report)).data == answer
    last = (await api.tell(answer["next"], "complete", claim_next={"work_directory": directory})).data
    assert (last["status"], last["next"]) == ("completed", None)


async def test_a_report_may_wait_for_the_next_task(api, directory):
    task = await api.claimed(directory)
    waits = {"work_directory": directory, "wait_seconds": 20}
    report = asyncio.create_task(api.tell(task, "complete", claim_next=waits))
    shown = await api.get(f"{TASKS}/{task['task_id']}", until="terminal", wait_seconds=20)
    assert shown.data["status"] == "completed"
    created = await api.create(directory)
    assert (await report).data["next"]["task_id"] == created["task_id"]


async def test_a_refused_report_claims_nothing(api, directory):
    task, other = await api.claimed(directory), await api.create(directory)
    said = {"lease_token": "wrong", "claim_next": {"work_directory": directory}}
    (await api.tell(task, "complete", **said)).refused(409, "LEASE_LOST")
    faults = {"claim_next": {"work_directories": [directory], "limit": 2}}
    answer = await api.tell(task, "complete", **faults)
    assert {error["field"] for error in answer.json["error"]["details"]["errors"]} == {
        "claim_next.work_directory",
        "claim_next.work_directories",
        "claim_next.limit",
    }
    assert await api.status(other) == "waiting"


async def test_a_claims_name_is_its_workers_own(api, directory):
    """Nor does it stand for other directories."""
    await api.create(directory)
    claim = {"work_directory": directory, "claim_id": "1", "worker_id": "ann"}
    assert len((await api.post(f"{TASKS}/claim", claim)).data["tasks"]) == 1
    for other in ({"worker_id": "bob"}, {"work_directory": f"{directory}/other"}):
        assert (await api.post(f"{TASKS}/claim", claim | other)).data["tasks"] == []


async def test_a_claim_said_again_takes_the_place_of_the_one_that_waits(api, directory):
    claim = {"work_directory": directory, "claim_id": "1", "wait_seconds": 30}
    older = asyncio.create_task(api.post(f"{TASKS}/claim", claim))
    await api.busy_with(1)
    newer = asyncio.create_task(api.post(f"{TASKS}/claim", claim))
    assert (await older).data["tasks"] == []
    created = [await api.create(directory) for _ in range(2)]
    assert [task["task_id"] for task in (await newer).data["tasks"]] == [created[0]["task_id"]]
    assert await api.status(created[1]) == "waiting"


async def test_a_named_claim_whose_caller_left_is_not_taken_from_the_one_who_said_it_again(server, directory):
    claim = {"work_directory": directory, "claim_id": "1", "wait_seconds": 30}
    for _ in range(20):
        async with connected(server) as gone, connected(server) as api:
            older = asyncio.create_task(gone.post(f"{TASKS}/claim", claim))
            await api.busy_with(1)
            created = asyncio.create_task(api.create(directory))
            again = asyncio.create_task(api.post(f"{TASKS}/claim", claim))
            older.cancel()
            await created
            (task,) = (await again).data["tasks"]
            assert (await api.tell(task, "complete")).status == 200
