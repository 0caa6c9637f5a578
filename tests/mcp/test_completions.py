"""What is begun can be completed, with the names that the record knows and the caller may see."""

import mcp_types as types
import pytest

from tests.mcp.clients import NEW, OLD, agent, key, refused
from web.mcp.completions import VALUES_MAX

ON_EVERY_RECORD = True

INVALID, FORBIDDEN = -32602, -32003
modes = pytest.mark.parametrize("mode", [OLD, NEW])

LOOP = types.PromptReference(name="work_loop")
DIRECTORY = types.ResourceTemplateReference(uri="directory://{+path}")
TASK = types.ResourceTemplateReference(uri="task://{task_id}")


async def completed(client, ref, name, value):
    return (await client.complete(ref, {"name": name, "value": value})).completion


@modes
@pytest.mark.parametrize(("ref", "name"), [(LOOP, "work_directory"), (DIRECTORY, "path")])
async def test_directories_are_completed_from_their_beginning_and_from_within(shared, api, directory, mode, ref, name):
    unique = directory.rpartition("/")[2]
    for path in (f"{directory}/b", f"{directory}/a", f"/z/Orders-{unique}"):
        await api.create(path)
    async with agent(shared, mode=mode) as client:
        found = await completed(client, ref, name, directory)
        assert (found.values, found.total, found.has_more) == ([f"{directory}/a", f"{directory}/b"], 2, False)
        assert (await completed(client, ref, name, f"orders-{unique}")).values == [f"/z/Orders-{unique}"]
        assert (await completed(client, ref, name, f"{directory}/c")).values == []
        assert (await completed(client, ref, name, "x" * 5000)).values == []
        assert (await completed(client, ref, name, "\0")).values == []


@modes
async def test_of_many_a_hundred_are_given_and_all_are_counted(shared, api, directory, mode):
    paths = [f"{directory}/{number:03}" for number in range(VALUES_MAX + 7)]
    tags = [f"{directory}:{number:03}" for number in range(VALUES_MAX + 7)]
    tasks = [{"work_directory": path, "prompt": "x", "tags": [tag]} for path, tag in zip(paths, tags, strict=True)]
    await api.post("/api/v1/tasks/batch", {"tasks": tasks})
    async with agent(shared, mode=mode) as client:
        for name, expected in (("work_directory", paths), ("tags", tags)):
            found = await completed(client, LOOP, name, directory)
            assert found.values == expected[:VALUES_MAX]
            assert (found.total, found.has_more) == (VALUES_MAX + 7, True)


@modes
async def test_the_last_tag_of_a_list_is_completed(shared, api, directory, mode):
    await api.create(directory, tags=[f"{directory}b", f"{directory}a", "other"])
    async with agent(shared, mode=mode) as client:
        assert (await completed(client, LOOP, "tags", directory)).values == [f"{directory}a", f"{directory}b"]
        assert (await completed(client, LOOP, "tags", f"x,y,{directory}a")).values == [f"x,y,{directory}a"]


@modes
async def test_other_arguments_have_no_completions(shared, mode):
    async with agent(shared, mode=mode) as client:
        for ref, name in ((LOOP, "worker_id"), (types.PromptReference(name="submit_task"), "goal"), (TASK, "task_id")):
            found = await completed(client, ref, name, "")
            assert (found.values, found.total, found.has_more) == ([], 0, False)


@modes
@pytest.mark.parametrize(
    ("ref", "name", "field"),
    [
        (LOOP, "nothing", "argument.name"),
        (DIRECTORY, "work_directory", "argument.name"),
        (types.PromptReference(name="nothing"), "work_directory", "name"),
        (types.ResourceTemplateReference(uri="file://{path}"), "path", "ref.uri"),
    ],
)
async def test_what_nobody_knows_cannot_be_completed(shared, mode, ref, name, field):
    async with agent(shared, mode=mode) as client:
        async with refused(INVALID) as caught:
            await completed(client, ref, name, "")
        assert caught.value.error.data["field"] == field


@modes
async def test_a_key_is_offered_only_what_it_may_see(locked, admin, directory, name, mode):
    await admin.create(f"{directory}/mine", tags=[f"{directory}:mine", f"{directory}:both"])
    await admin.create(f"{directory}/other", tags=[f"{directory}:other", f"{directory}:both"])
    async with agent(locked, await key(admin, name, "read", work_directories=[f"{directory}/m*"]), mode) as client:
        found = await completed(client, LOOP, "work_directory", directory)
        assert (found.values, found.total) == ([f"{directory}/mine"], 1)
        found = await completed(client, LOOP, "tags", directory)
        assert (found.values, found.total) == ([f"{directory}:both", f"{directory}:mine"], 2)
    async with agent(locked, await key(admin, f"{name}.worker", "work"), mode) as client, refused(FORBIDDEN):
        await completed(client, LOOP, "work_directory", "")
