"""Many tasks in one request: all or none of them, or each for itself; and how they name each other."""

import asyncio
import json

import pytest

from tests.web.conftest import TASKS, footprint
from tests.web.test_contract import TASK

ON_EVERY_RECORD = True

BATCH = f"{TASKS}/batch"
LIMIT = 1000


async def send(api, tasks, *, key=None, **said):
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    return await api.call("POST", BATCH, data=json.dumps({"tasks": tasks, **said}), headers=headers)


async def made(api, tasks, **said):
    """The ids of tasks that are all created."""
    data = (await send(api, tasks, **said)).data
    assert data["errors"] == []
    assert [told["index"] for told in data["tasks"]] == list(range(len(tasks)))
    return [told["task_id"] for told in data["tasks"]]


def faults(answer, status, code):
    """The fields that a refusal names; the first one stands in front."""
    details = answer.refused(status, code)
    first = details["errors"][0]
    assert (details["field"], details["reason"]) == (first["field"], first["reason"])
    assert all(error["field"] and error["reason"] for error in details["errors"])
    return [error["field"] for error in details["errors"]]


async def total(api, directory):
    return (await api.get(TASKS, work_directory=directory)).data["total"]


async def claim_all(api, directory, limit=100):
    tasks = []
    while some := (await api.post(f"{TASKS}/claim", {"work_directory": directory, "limit": limit})).data["tasks"]:
        tasks += some
    return tasks


@pytest.fixture
def task(directory):
    """Makes what is to be a task, told apart by its prompt; `after` are the refs that it depends on."""

    def draft(prompt="Tidy up", *after, **fields):
        depends_on = {"depends_on": [f"ref:{name}" for name in after]} if after else {}
        return {"work_directory": directory, "prompt": prompt, **depends_on, **fields}

    return draft


async def test_a_thousand_tasks_are_made_in_one_request_and_in_its_order(api, directory, task):
    ids = await made(api, [task(f"{number}") for number in range(LIMIT)])
    assert len(set(ids)) == LIMIT
    assert [claimed["task_id"] for claimed in await claim_all(api, directory)] == ids
    assert await total(api, directory) == LIMIT


async def test_a_task_of_a_batch_is_like_any_other(api, directory, task):
    fields = {"priority": "high", "tags": ["a"], "metadata": {"b": 1}, "max_retries": 7, "delay_seconds": 1000}
    answer = await send(api, [task(), task(**fields)])
    assert answer.status == 201
    plain, special = answer.data["tasks"]
    for told, body in ((plain, task()), (special, task(**fields))):
        shown, single = await api.show(told), (await api.post(TASKS, body)).data
        assert shown.keys() >= TASK
        assert (told["status"], told["created_at"]) == ("waiting", shown["created_at"])
        own = {"task_id", "created_at", "updated_at", "available_at"}
        assert {name for name in shown if shown[name] != single[name]} <= own
    assert await api.life(plain) == ["created"]


async def test_a_batch_goes_where_its_tasks_belong(api, directory):
    """To several directories, and in each by priority."""
    tasks = [
        {"work_directory": f"{directory}/{number % 2}", "prompt": f"{number}", "priority": priority}
        for number, priority in enumerate(["low", "low", "high", "medium"])
    ]
    await made(api, tasks)
    assert [claimed["prompt"] for claimed in await claim_all(api, f"{directory}/0")] == ["2", "0"]
    assert [claimed["prompt"] for claimed in await claim_all(api, f"{directory}/1")] == ["3", "1"]


async def walk(api, directory):
    """Claim and complete one after the other; the prompts in that order, and what each was told."""
    walked = []
    while claimed := await api.next(directory):
        walked.append((claimed["prompt"], [told["result"] for told in claimed["dependencies"]]))
        await api.tell(claimed, "complete", result=claimed["prompt"])
    return walked


@pytest.mark.parametrize("atomic", [True, False])
async def test_tasks_name_each_other_also_those_that_come_later(api, directory, task, atomic):
    tasks = [task("last", "middle"), task("first", ref="first"), task("middle", "first", ref="middle")]
    ids = await made(api, tasks, atomic=atomic)
    assert [(await api.show({"task_id": id_}))["depends_on"] for id_ in ids] == [[ids[2]], [], [ids[1]]]
    assert await walk(api, directory) == [("first", []), ("middle", ["first"]), ("last", ["middle"])]


async def test_a_diamond_is_walked_from_top_to_bottom(api, directory, task):
    tasks = [task("bottom", "right", "left"), task("left", "top", ref="left"), task("right", "top", ref="right")]
    await made(api, [*tasks, task("top", ref="top")])
    expected = [("top", []), ("left", ["top"]), ("right", ["top"]), ("bottom", ["right", "left"])]
    assert await walk(api, directory) == expected


async def test_a_chain_of_a_thousand_is_one_request(api, directory, task):
    tasks = [task("0", ref="0")] + [task(f"{n}", f"{n - 1}", ref=f"{n}") for n in range(1, LIMIT)]
    ids = await made(api, tasks[::-1])
    assert [(await api.next(directory))["task_id"], await api.next(directory)] == [ids[-1], None]


async def test_a_task_may_depend_on_others_of_the_batch_and_on_those_before_it(api, directory, task):
    before = await api.claimed(f"{directory}/before")
    await made(api, [task("one", ref="one"), task("two", depends_on=["ref:one", before["task_id"]])])
    assert [prompt for prompt, _ in await walk(api, directory)] == ["one"]
    await api.tell(before, "complete", result="before")
    assert await walk(api, directory) == [("two", ["one", "before"])]


async def test_a_name_means_nothing_in_another_batch(api, directory, task):
    ids = [*await made(api, [task("a", ref="same")]), *await made(api, [task("b", ref="same"), task("c", "same")])]
    assert (await api.show({"task_id": ids[2]}))["depends_on"] == [ids[1]]
    assert faults(await send(api, [task("d", "same")]), 422, "DEPENDENCY_NOT_FOUND") == ["tasks[0].depends_on[0]"]


async def test_what_is_cancelled_as_it_is_made_cancels_those_after_it(api, directory, task):
    """It depends on one that failed long before."""
    failed = await api.claimed(f"{directory}/failed")
    await api.tell(failed, "fail", error_message="no")
    cancel = {"on_dependency_failure": "cancel"}
    tasks = [task("last", "second", **cancel), task("second", "first", ref="second", **cancel)]
    tasks += [task("first", ref="first", depends_on=[failed["task_id"]], **cancel)]
    for task_id in await made(api, tasks):
        told = (await api.get(f"{TASKS}/{task_id}", until="terminal", wait_seconds=10)).data
        assert told["status"] == "cancelled"
        assert (await api.history(told))[-1]["details"]["reason"] == "dependency_failed"


# What is wrong with some tasks: the code, and the fields that the answer names.
WRONG = [
    ([{}, {"prompt": ""}], "VALIDATION_ERROR", ["tasks[1].prompt"]),
    ([{"prompt": ""}, {}, {"colour": 1, "tags": ["a", ""]}], "VALIDATION_ERROR", ["0.prompt", "2.tags[1]", "2.colour"]),
    ([{"work_directory": "x", "priority": "urgent"}], "VALIDATION_ERROR", ["0.priority", "0.work_directory"]),
    ([{"run_at": "2999-01-01T00:00:00Z", "delay_seconds": 1}], "VALIDATION_ERROR", ["0.delay_seconds"]),
    ([{}, {"depends_on": ["ref:"]}], "VALIDATION_ERROR", ["1.depends_on[0]"]),
    ([{}, {"ref": ""}], "VALIDATION_ERROR", ["1.ref"]),
    ([{"ref": "a"}, {"ref": "b"}, {"ref": "a"}], "VALIDATION_ERROR", ["2.ref"]),
    ([{"ref": "a", "prompt": ""}, {"ref": "a"}], "VALIDATION_ERROR", ["0.prompt", "1.ref"]),
    ([{"ref": "a", "depends_on": ["ref:b", "nobody"]}], "DEPENDENCY_NOT_FOUND", ["0.depends_on[0]", "0.depends_on[1]"]),
    ([{}, {"depends_on": ["nobody"]}], "DEPENDENCY_NOT_FOUND", ["1.depends_on[0]"]),
    ([{"depends_on": ["ref:A"]}, {"ref": "a"}], "DEPENDENCY_NOT_FOUND", ["0.depends_on[0]"]),
    ([{"ref": "a", "depends_on": ["ref:a"]}, {}], "DEPENDENCY_CYCLE", ["0.depends_on"]),
    (
        [
            {"ref": "a", "depends_on": ["ref:c"]},
            {"ref": "b", "depends_on": ["ref:a"]},
            {},
            {"ref": "c", "depends_on": ["ref:b"]},
        ],
        "DEPENDENCY_CYCLE",
        ["0.depends_on", "1.depends_on", "3.depends_on"],
    ),
    ([{"prompt": ""}, {"depends_on": ["nobody"]}], "VALIDATION_ERROR", ["0.prompt", "1.depends_on[0]"]),
    ([{"depends_on": ["nobody"]}, {"prompt": ""}], "DEPENDENCY_NOT_FOUND", ["0.depends_on[0]", "1.prompt"]),
    (
        [{"ref": "a", "depends_on": ["ref:a"]}, {"prompt": ""}, {"depends_on": ["ref:x"]}],
        "DEPENDENCY_CYCLE",
        ["0.depends_on", "1.prompt", "2.depends_on[0]"],
    ),
    ([{"ref": "a", "prompt": ""}, {"depends_on": ["ref:a"]}], "VALIDATION_ERROR", ["0.prompt"]),
]


@pytest.mark.parametrize(("changes", "code", "fields"), WRONG)
async def test_one_fault_anywhere_and_nothing_is_made(api, shared, task, changes, code, fields):
    """The first fault decides the code; all are named by their paths."""
    before = footprint(shared)
    expected = [field if field.startswith("tasks") else "tasks[{}].{}".format(*field.split(".")) for field in fields]
    for said in ({}, {"atomic": True}):
        answer = await send(api, [task() | change for change in changes], **said)
        told = faults(answer, 400 if code == "VALIDATION_ERROR" else 422, code)
        assert sorted(told) == sorted(expected)
        assert told[0].split(".")[0] == expected[0].split(".")[0]
    assert footprint(shared) == before


@pytest.mark.parametrize("wrong", [5, None, "x", [], True])
@pytest.mark.once
async def test_what_is_not_a_task_is_named_by_its_place(api, shared, task, wrong):
    before = footprint(shared)
    assert faults(await send(api, [task(), wrong]), 400, "VALIDATION_ERROR") == ["tasks[1]"]
    assert footprint(shared) == before


async def test_the_list_of_faults_is_cut_at_50(api, task):
    assert len(faults(await send(api, [task("")] * 200), 400, "VALIDATION_ERROR")) == 50
    nobody = [f"nobody{number}" for number in range(100)]
    answer = await send(api, [task(depends_on=nobody)] * 2)
    assert len(faults(answer, 422, "DEPENDENCY_NOT_FOUND")) == 50


async def test_a_batch_of_too_many_or_no_tasks_is_refused(api, directory, task):
    for tasks in ([task()] * (LIMIT + 1), []):
        assert (await send(api, tasks)).faults() == ["tasks"]
        assert (await send(api, tasks, atomic=False)).faults() == ["tasks"]
    assert await total(api, directory) == 0


async def test_without_atomic_each_task_stands_for_itself(api, directory, task):
    """Who depends on one that is refused is refused with it."""
    ring = [task(ref="x", depends_on=["ref:y"]), task(ref="y", depends_on=["ref:x"])]
    tasks = [task("good", ref="good"), task("", ref="bad"), task("after bad", "bad"), task("after good", "good")]
    tasks += [task(depends_on=["nobody"], ref="orphan"), task("after orphan", "orphan", "good"), *ring, 5]
    answer = await send(api, tasks, atomic=False)
    assert answer.status == 201
    assert [told["index"] for told in answer.data["tasks"]] == [0, 3]
    errors = answer.data["errors"]
    assert all(error.keys() >= {"index", "code", "message", "details"} and error["message"] for error in errors)
    missing, cycle, invalid = "DEPENDENCY_NOT_FOUND", "DEPENDENCY_CYCLE", "VALIDATION_ERROR"
    assert [(error["index"], error["code"], error["details"]["field"]) for error in errors] == [
        (1, invalid, "tasks[1].prompt"),
        (2, missing, "tasks[2].depends_on[0]"),
        (4, missing, "tasks[4].depends_on[0]"),
        (5, missing, "tasks[5].depends_on[0]"),
        (6, cycle, "tasks[6].depends_on"),
        (7, cycle, "tasks[7].depends_on"),
        (8, invalid, "tasks[8]"),
    ]
    assert [prompt for prompt, _ in await walk(api, directory)] == ["good", "after good"]
    assert await total(api, directory) == 2


async def test_without_atomic_all_may_be_refused(api, shared, task):
    before = footprint(shared)
    data = (await send(api, [task(""), task(depends_on=["nobody"])], atomic=False)).data
    assert (data["tasks"], [error["index"] for error in data["errors"]]) == ([], [0, 1])
    assert footprint(shared) == before


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_batch_said_again_with_its_key_is_made_once(api, directory, task, atomic):
    tasks = [task("one", ref="one"), task("two", "one"), task("three", priority="high")]
    first = await send(api, tasks, key=directory, atomic=atomic)
    again = await send(api, tasks, key=directory, atomic=atomic)
    assert (first.status, again.status) == (201, 200)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.data == first.data
    assert await total(api, directory) == 3


async def test_a_batch_said_by_many_at_once_with_its_key_is_made_once(api, directory, task):
    answers = await asyncio.gather(*(send(api, [task()] * 3, key=directory) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert len({json.dumps(answer.data) for answer in answers}) == 1
    assert await total(api, directory) == 3


async def test_a_batch_in_part_refused_is_repeated_as_it_was(api, directory, task):
    tasks = [task(""), task("one"), task(depends_on=["nobody"]), task("two")]
    first, again = [await send(api, tasks, key=directory, atomic=False) for _ in range(2)]
    assert (first.status, again.status, again.headers["Idempotent-Replayed"]) == (201, 200, "true")
    assert again.data == first.data
    assert await total(api, directory) == 2


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_the_key_of_a_batch_does_not_stand_for_another_one(api, directory, task, atomic, count):
    """Whether that is shorter, as long or longer: nothing of it is made."""
    assert (await send(api, [task("one"), task("two")], key=directory, atomic=atomic)).status == 201
    other = await send(api, [task("other")] * count, key=directory, atomic=atomic)
    other.refused(422, "IDEMPOTENCY_KEY_REUSED")
    assert await total(api, directory) == 2


async def test_the_key_of_a_batch_stands_for_another_one_neither_if_its_first_tasks_were_refused(api, directory, task):
    assert (await send(api, [task(""), task("two")], key=directory, atomic=False)).status == 201
    other = await send(api, [task("other")], key=directory, atomic=False)
    other.refused(422, "IDEMPOTENCY_KEY_REUSED")
    assert await total(api, directory) == 1


async def test_the_key_of_a_batch_stands_over_what_became_of_its_tasks(api, directory, task):
    tasks = [task("one", ref="one"), task("two", "one")]
    first = await send(api, tasks, key=directory)
    await walk(api, directory)
    again = await send(api, tasks, key=directory)
    assert again.status == 200
    assert [told["task_id"] for told in again.data["tasks"]] == [told["task_id"] for told in first.data["tasks"]]
    assert await total(api, directory) == 2


async def test_whoever_waits_gets_one_each_in_turn(api, directory, task):
    waiting = []
    for number in range(5):
        waiting.append(asyncio.create_task(api.next(directory, wait_seconds=20, worker_id=f"w{number}")))
        await api.busy_with(number + 1)
    ids = await made(api, [task(f"{number}") for number in range(7)])
    assert [claimed["task_id"] for claimed in await asyncio.gather(*waiting)] == ids[:5]
    assert [claimed["task_id"] for claimed in await claim_all(api, directory)] == ids[5:]


async def test_streams_are_filled_by_a_batch(api, directory, task):
    async with api.stream(directory, capacity=2) as one, api.stream(directory) as two:
        await api.busy_with(2)
        ids = await made(api, [task(f"{number}") for number in range(4)])
        got = [await one.task(), await one.task(), await two.task()]
    assert {claimed["task_id"] for claimed in got} == set(ids[:3])
