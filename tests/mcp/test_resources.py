"""Resources: tasks, work directories and the queue can be read, by whoever may see them."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.fields import work_directory
from dispatcher.hub import EVERYTHING, about_directory, about_task
from tests.mcp.clients import ADMIN, NEW, OLD, agent, key, read, refused
from tests.web.conftest import connected, running, until
from web.mcp import resources
from web.mcp.uris import URI_CHARACTERS_MAX, topic_of, uri_of

ON_EVERY_RECORD = True

QUEUE = "queue://stats"
NOT_FOUND = {OLD: -32002, NEW: -32602}
INVALID, FORBIDDEN = -32602, -32003
modes = pytest.mark.parametrize("mode", [OLD, NEW])


def has_null(value):
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(has_null, parts))


# What is read


@modes
async def test_a_task_is_read_as_rest_shows_it_without_nulls(shared, api, directory, mode):
    task = await api.claimed(directory, tags=["x"], metadata={"a": {"b": 1}})
    await api.tell(task, "heartbeat", progress={"percent": 5})
    async with agent(shared, mode=mode) as client:
        told = await read(client, f"task://{task['task_id']}")
        shown = await api.show(task)
        assert told["metadata"] == {"a": {"b": 1}}
        assert told["progress"] == {"percent": 5}
        assert not has_null(told)
        assert {name: shown[name] for name in told if name != "progress"} == {
            name: it for name, it in told.items() if name != "progress"
        }
        assert task["lease_token"] not in json.dumps(told)
        await api.tell(task, "complete", result={"said": None})
        told = await read(client, f"task://{task['task_id']}")
        assert (told["status"], told["result"]) == ("completed", {"said": None})  # which is the worker's own


@modes
@pytest.mark.parametrize("path", ["/plain", "/my app/ä/日本", "/50%/a?b#c", "/a%2Fb", "C:\\App\\my app", "/C:/posix"])
async def test_a_directory_is_read_whatever_its_name(shared, api, directory, mode, path):
    path = directory + path if path.startswith("/") and ":" not in path else path
    await api.create(path)
    await api.post(f"/api/v1/work-directories/pause?path={quote(path)}", {"paused_reason": "ill"})
    listed = (await api.get("/api/v1/work-directories")).data["work_directories"]
    (expected,) = [it for it in listed if it["work_directory"] == path]
    async with agent(shared, mode=mode) as client:
        told = await read(client, uri_of(path))
        oldest = told.pop("oldest_waiting_seconds")
        assert oldest >= expected["oldest_waiting_seconds"]
        assert told == {name: it for name, it in expected.items() if it is not None and name in told}
        assert (told["work_directory"], told["paused_reason"]) == (path, "ill")


@modes
async def test_the_queue_is_told_as_the_tool_tells_it(shared, api, directory, mode):
    await api.create(directory)
    async with agent(shared, mode=mode) as client:
        told = await read(client, QUEUE)
        assert told == (await client.call_tool("queue_stats", {})).structured_content
        assert {"work_directory": directory, "waiting": 1}.items() <= {
            **next(it for it in told["work_directories"] if it["work_directory"] == directory)
        }.items()


@modes
@pytest.mark.parametrize(
    "uri",
    [
        "task://nobody",
        "task://",
        "task://a/b",
        "directory:///never/seen",
        "directory://relative",
        "directory:///a/../b",
        "directory:///%ff",
        "directory:///a%00b",
        f"directory:///{'a' * 513}",
        f"directory:///{'a' * URI_CHARACTERS_MAX}",
        "queue://other",
        "file:///etc/passwd",
        "",
    ],
)
async def test_what_is_not_there_is_a_resource_not_found(shared, mode, uri):
    async with agent(shared, mode=mode) as client:
        async with refused(NOT_FOUND[mode]) as caught:
            await client.read_resource(uri)
        assert caught.value.error.data == {"uri": uri}


# What is listed


@modes
async def test_directories_are_listed_page_by_page_behind_the_queue(shared, api, directory, mode):
    made = {f"{directory}/ä {number:03}" for number in range(resources.PAGE_SIZE + 5)}
    await api.post("/api/v1/tasks/batch", {"tasks": [{"work_directory": it, "prompt": "x"} for it in made]})
    async with agent(shared, mode=mode) as client:
        pages = [await client.list_resources()]
        while pages[-1].next_cursor:
            pages.append(await client.list_resources(cursor=pages[-1].next_cursor))
        listed = [it for page in pages for it in page.resources]
        assert max(len(page.resources) for page in pages[1:]) <= resources.PAGE_SIZE
        assert listed[0].uri == QUEUE
        names = [it.name for it in listed[1:]]
        assert made <= set(names)
        assert names == sorted(set(names))
        for it in listed[1:]:
            assert topic_of(it.uri) == about_directory(it.name)
        for uri in (listed[-1].uri, uri_of(min(made))):
            assert (await read(client, uri))["waiting"] >= 0


@modes
@pytest.mark.parametrize("cursor", ["", "x", "ä", "////", "L2E=", "L2E-_w"])
async def test_a_cursor_that_was_not_given_is_refused(shared, mode, cursor):
    async with agent(shared, mode=mode) as client:
        async with refused(INVALID) as caught:
            await client.list_resources(cursor=cursor)
        assert caught.value.error.data["field"] == "cursor"
        async with refused(INVALID):
            await client.list_resource_templates(cursor=cursor)


@modes
async def test_tasks_and_directories_have_templates(shared, mode):
    async with agent(shared, mode=mode) as client:
        templates = (await client.list_resource_templates()).resource_templates
        assert [it.uri_template for it in templates] == ["task://{task_id}", "directory://{+path}"]


# Who sees what


@modes
async def test_what_lies_beyond_the_key_is_as_if_it_were_not_there(locked, admin, directory, name, mode):
    mine, other = f"{directory}/mine", f"{directory}/other"
    tasks = {path: await admin.create(path) for path in (mine, other)}
    limited = await key(admin, name, "read", work_directories=[mine])
    async with agent(locked, limited, mode) as client:
        assert (await read(client, f"task://{tasks[mine]['task_id']}"))["work_directory"] == mine
        assert (await read(client, uri_of(mine)))["waiting"] == 1
        for uri in (f"task://{tasks[other]['task_id']}", uri_of(other)):
            async with refused(NOT_FOUND[mode]):
                await client.read_resource(uri)
        assert [it.name for it in (await client.list_resources()).resources] == ["queue_stats", mine]
        assert [it["work_directory"] for it in (await read(client, QUEUE))["work_directories"]] == [mine]


@modes
async def test_who_may_not_read_is_told_so_and_shown_no_resources(locked, admin, directory, name, mode):
    task = await admin.create(directory)
    async with agent(locked, await key(admin, name, "work", "submit"), mode) as client:
        assert (await client.list_resources()).resources == []
        assert (await client.list_resource_templates()).resource_templates == []
        for uri in (QUEUE, f"task://{task['task_id']}", uri_of(directory), "task://nobody"):
            async with refused(FORBIDDEN) as caught:
                await client.read_resource(uri)
            assert caught.value.error.data == {"code": "FORBIDDEN", "scope": "read"}
            assert "scope read" in caught.value.message


@pytest.mark.once
async def test_whoever_is_turned_away_is_in_the_audit_log(tmp_path):
    with running(tmp_path, API_SECRET_KEY=ADMIN) as server:
        async with connected(server, Authorization=f"Bearer {ADMIN}") as admin:
            async with agent(server, await key(admin, "worker", "work")) as client:
                async with refused(FORBIDDEN):
                    await client.read_resource(QUEUE)
                assert (await client.call_tool("queue_stats", {})).is_error

            async def told():
                entries = (await admin.get("/api/v1/audit", action="access")).data["audit"]
                return {it for entry in entries if entry["who"] == "worker" for it in entry["details"]["operations"]}

            assert "mcp resources/read" in await until(told)
        assert server.terminate() == 0
        server.start()
        async with connected(server, Authorization=f"Bearer {ADMIN}") as admin:
            assert await told() == {"mcp resources/read", "mcp queue_stats"}


@pytest.mark.once
async def test_whoever_reads_too_often_is_told_when_to_come_again(tmp_path):
    with running(tmp_path, APP_RATE_LIMIT_ENABLED="true", APP_RATE_LIMIT_PER_ENDPOINT="read=0.1/3") as server:
        async with agent(server) as client:
            await read(client, QUEUE)
            await client.list_resources()
            await client.list_prompts()
            async with refused(FORBIDDEN) as caught:
                await read(client, QUEUE)
            assert caught.value.error.data["code"] == "RATE_LIMITED"
            assert caught.value.error.data["retry_after_seconds"] > 0


@pytest.mark.once
async def test_secrets_are_hidden_as_they_are_over_rest(tmp_path, directory):
    environ = {"API_SECRET_KEY": ADMIN, "APP_SECURITY_REDACT_PAYLOADS": "true"}
    with running(tmp_path, **environ) as server:
        async with connected(server, Authorization=f"Bearer {ADMIN}") as admin:
            task = await admin.create(directory, "log in with password = hunter2222")
            reader = await key(admin, "reader", "read")
        for mode in (OLD, NEW):
            async with agent(server, reader, mode) as client:
                assert "hunter2222" not in str(await read(client, f"task://{task['task_id']}"))
            async with agent(server, ADMIN, mode) as client:
                assert "hunter2222" in str(await read(client, f"task://{task['task_id']}"))


# Addresses

paths = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60).flatmap(
    lambda rest: st.sampled_from([f"/{rest}", f"C:\\{rest}", f"/C:/{rest}"])
)


@given(paths)
def test_every_directory_has_one_address_that_leads_back_to_it(path):
    try:
        path = work_directory(path)
    except ValueError:
        return
    uri = uri_of(path)
    assert topic_of(uri) == about_directory(path)
    assert uri.isascii()
    assert uri.startswith("directory:///")
    assert len(uri) <= URI_CHARACTERS_MAX


@given(paths)
def test_what_the_template_makes_of_a_path_leads_to_it(path):
    try:
        path = work_directory(path)
    except ValueError:
        return
    expanded = "directory://" + quote(path.replace("%", "%25"), safe=":/?#[]@!$&'()*+,;=-._~%")
    if not path.startswith("/C:/"):  # which is taken for a Windows path
        assert topic_of(expanded) == about_directory(path)


@given(st.text() | st.text().map("directory://".__add__) | st.text().map("task://".__add__))
def test_whatever_is_asked_for_is_an_address_or_none(uri):
    assert topic_of(uri) is None or isinstance(topic_of(uri), tuple)


def test_addresses_stand_for_what_the_hub_tells_of():
    assert topic_of(QUEUE) == EVERYTHING
    assert topic_of("task://a-b_1") == about_task("a-b_1")
    assert topic_of("directory://C:%5Capp") == topic_of("directory:///C:/app") == about_directory("C:\\app")
    assert topic_of("directory:///C%3A/app") == about_directory("/C:/app")
