"""Saying a task differently, and forgetting it: who may, when, and of which version."""

import asyncio
import json

import pytest

from tests.web.conftest import TASKS, connected

ON_EVERY_RECORD = True


def path_of(task):
    return f"{TASKS}/{task['task_id']}"


async def edit(api, task, method="PATCH", if_match=None, **fields):
    headers = {"Content-Type": "application/json"} | ({"If-Match": if_match} if if_match else {})
    return await api.call(method, path_of(task), data=json.dumps(fields), headers=headers)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_what_is_said_changes_and_what_is_not_stays(api, directory, method):
    task = await api.create(directory, tags=["a"], metadata={"n": 1}, max_retries=5)
    answer = await edit(api, task, method, priority="high", prompt="Tidy up well", tags=["b"])
    assert answer.headers["ETag"] == '"2"'
    changed = {"priority": "high", "prompt": "Tidy up well", "tags": ["b"], "version": 2}
    assert answer.data == {**task, **changed, "updated_at": answer.data["updated_at"]}
    assert await api.show(task) == answer.data
    last = (await api.history(task))[-1]
    assert (last["type"], last["details"]) == ("task.updated", {"changed": ["priority", "prompt", "tags"]})
    claimed = await api.next(directory, tags="b")
    assert (claimed["task_id"], claimed["prompt"], claimed["metadata"]) == (task["task_id"], "Tidy up well", {"n": 1})


async def test_a_new_priority_moves_a_task_to_its_place_at_once(api, directory):
    first, second, third = [await api.create(directory) for _ in range(3)]
    await edit(api, third, priority="high")
    await edit(api, first, priority="low")
    assert [(await api.next(directory))["task_id"] for _ in range(3)] == [
        task["task_id"] for task in (third, second, first)
    ]


async def test_a_task_is_put_off_and_brought_forward(api, directory):
    task = await api.create(directory)
    await edit(api, task, run_at="2999-01-01T00:00:00Z")
    assert await api.next(directory) is None
    waiting = asyncio.create_task(api.next(directory, wait_seconds=20))
    await api.busy_with(1)
    assert (await edit(api, task, run_at=None)).status == 200
    assert (await waiting)["task_id"] == task["task_id"]


@pytest.mark.parametrize("field", [{"prompt": "x"}, {"priority": "low"}, {"max_retries": 0}, {"run_at": None}])
async def test_once_it_is_worked_on_only_tags_and_metadata_change(api, directory, field):
    task = await api.claimed(directory)
    assert (await edit(api, task, tags=["late"], metadata={"n": 2})).data["tags"] == ["late"]
    before = await api.show(task)
    refusal = (await edit(api, task, **field)).refused(409, "INVALID_STATE")
    assert refusal == {"status": "working", "allowed_from": ["waiting", "failed"]}
    assert await api.show(task) == before
    assert (await api.tell(task, "complete")).status == 200


async def test_an_edit_of_another_version_is_refused(api, directory):
    task = await api.create(directory)
    etag = (await api.get(path_of(task))).headers["ETag"]
    assert (await edit(api, task, if_match=etag, priority="high")).status == 200
    refusal = (await edit(api, task, if_match=etag, priority="low")).refused(409, "VERSION_CONFLICT")
    assert refusal == {"expected": 1, "version": 2}
    assert (await edit(api, task, if_match="*", tags=["x"])).data["version"] == 3
    for wrong in ("3", 'W/"3"', '"x"', '"0"', '"\N{ARABIC-INDIC DIGIT THREE}"'.encode().decode("latin-1")):
        assert (await edit(api, task, if_match=wrong)).refused(400, "VALIDATION_ERROR")["field"] == "If-Match"


@pytest.mark.parametrize("field", ["tags", "metadata", "priority", "prompt", "max_retries"])
async def test_null_is_not_a_way_to_say_nothing(api, directory, field):
    task = await api.create(directory)
    assert (await edit(api, task, **{field: None})).refused(400, "VALIDATION_ERROR")["field"] == field
    for name in ("status", "task_id", "if_version", "work_directory"):
        assert (await edit(api, task, **{name: "x"})).refused(400, "VALIDATION_ERROR")["reason"].startswith("unknown")
    assert (await edit(api, task)).data == task


@pytest.mark.parametrize("ending", ["complete", "fail", "cancel"])
async def test_a_task_that_is_over_is_deleted(api, directory, ending):
    """And it is as if it had never been, but for its number."""
    task = await api.claimed(directory)
    (await api.call("DELETE", path_of(task))).refused(409, "INVALID_STATE")
    said = {"fail": {"error_message": "no"}, "cancel": {"force": True, "lease_token": None}}.get(ending, {})
    assert (await api.tell(task, ending, **said)).status == 200
    (await api.call("DELETE", path_of(task), headers={"If-Match": '"1"'})).refused(409, "VERSION_CONFLICT")
    assert (await api.call("DELETE", path_of(task))).data == {"task_id": task["task_id"], "deleted": True}
    for method, path in (("GET", ""), ("GET", "/history"), ("DELETE", "")):
        (await api.call(method, path_of(task) + path)).refused(404, "TASK_NOT_FOUND")
    listed = (await api.get(TASKS, work_directory=directory)).data
    assert (listed["tasks"], listed["total"]) == ([], 0)


async def test_the_number_of_a_deleted_task_is_not_given_out_again(server, directory):
    async with connected(server) as api:
        task = await api.claimed(directory)
        await api.tell(task, "complete")
        await api.call("DELETE", path_of(task))
    server.terminate()
    server.start()
    async with connected(server) as api:
        # Created, claimed, completed, deleted, and the end of the server stand before it.
        assert (await api.history(await api.create(directory)))[0]["seq"] == 6
        (await api.get(path_of(task))).refused(404, "TASK_NOT_FOUND")


async def test_an_edit_of_a_boolean_to_a_number_is_an_edit(api, directory):
    """Python holds 1 and true to be equal, JSON does not."""
    task = await api.create(directory, metadata={"a": 1, "b": 0})
    assert (await edit(api, task, metadata={"a": True, "b": False})).status == 200
    assert json.dumps((await api.show(task))["metadata"]) == '{"a": true, "b": false}'
