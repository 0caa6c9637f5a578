"""Prompts: a person lets an agent begin with one; what it says is fit for the queue as it is."""

import json

import mcp_types as types
import pytest

from tests.mcp.clients import ADMIN, NEW, OLD, agent, key, refused
from tests.web.conftest import connected, running
from web.mcp.prompts import CHARACTERS_MAX, FAILURES_MAX
from web.mcp.tools import TOOLS

ON_EVERY_RECORD = True

INVALID, FORBIDDEN = -32602, -32003
modes = pytest.mark.parametrize("mode", [OLD, NEW])


async def said(client, prompt, **arguments):
    (message,) = (await client.get_prompt(prompt, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, types.TextContent)
    return message.content.text


def failures_in(text):
    (line,) = [line for line in text.splitlines() if line.startswith("[")]
    return json.loads(line)


async def fail(api, directory, message="it broke", prompt="Tidy up", **fields):
    task = await api.claimed(directory, prompt=prompt, **fields)
    await api.tell(task, "fail", error_message=message, retryable=False)
    return task


@modes
async def test_there_are_three_and_each_names_its_arguments(shared, mode):
    async with agent(shared, mode=mode) as client:
        prompts = {it.name: {a.name: a.required for a in it.arguments} for it in (await client.list_prompts()).prompts}
        assert prompts == {
            "work_loop": {"work_directory": True, "worker_id": False, "tags": False},
            "submit_task": {"work_directory": True, "goal": True, "tags": False},
            "review_failures": {"work_directory": False, "tags": False},
        }
        async with refused(INVALID):
            await client.list_prompts(cursor="x")


@modes
async def test_the_work_loop_names_the_tools_and_what_to_claim(shared, directory, mode):
    async with agent(shared, mode=mode) as client:
        text = await said(client, "work_loop", work_directory=directory, worker_id='ann "{x}"', tags="a,b")
        for tool in ("claim_next_task", "heartbeat_task", "complete_task", "fail_task", "release_task"):
            assert tool in TOOLS
            assert tool in text
        claim = text[text.index("{") : text.index("}. It waits") + 1]
        asked = json.loads(claim)
        assert asked == {"work_directory": directory, "worker_id": 'ann "{x}"', "tags": ["a", "b"]}
        assert (await client.call_tool("claim_next_task", {**asked, "wait_seconds": 0})).is_error is False


@modes
async def test_what_is_to_be_submitted_is_in_the_prompt_word_for_word(shared, directory, mode):
    async with agent(shared, mode=mode) as client:
        text = await said(client, "submit_task", work_directory=directory, goal="Ä goal\nwith {braces}", tags="x")
        assert "Ä goal\nwith {braces}" in text
        assert json.dumps({"work_directory": directory, "tags": ["x"]}, separators=(",", ":")) in text
        assert "create_task" in text
        asked = {"work_directory": directory, "status": ["waiting", "working"]}
        assert all(json.dumps(it) in text or it == directory for it in asked.values())
        assert (await client.call_tool("list_tasks", asked)).is_error is False


@modes
async def test_failures_are_told_with_their_errors_the_latest_first(shared, api, directory, mode):
    first = await fail(api, directory, "disk full")
    second = await fail(api, directory, "network\ndown", tags=["net"])
    await fail(api, f"{directory}/other")
    await api.create(directory)
    async with agent(shared, mode=mode) as client:
        text = await said(client, "review_failures", work_directory=directory)
        assert text.startswith(f"Tasks of {directory} that have failed: 2. ")
        told = failures_in(text)
        assert [it["task_id"] for it in told] == [second["task_id"], first["task_id"]]
        assert told[0]["error_message"] == "network\ndown"
        assert (told[0]["prompt"], told[0]["attempts"], told[0]["tags"]) == ("Tidy up", 1, ["net"])
        tagged = await said(client, "review_failures", work_directory=directory, tags="net")
        assert [it["task_id"] for it in failures_in(tagged)] == [second["task_id"]]
        assert "No tasks of /never have failed" in await said(client, "review_failures", work_directory="/never")
        assert second["task_id"] in await said(client, "review_failures")


async def test_no_more_failures_are_told_than_fit(shared, api, directory):
    for _ in range(FAILURES_MAX + 2):
        await fail(api, directory, "ä" * 2000, "long " * 1000)
    async with agent(shared) as client:
        text = await said(client, "review_failures", work_directory=directory)
        assert text.startswith(
            f"Tasks of {directory} that have failed: {FAILURES_MAX + 2}; these are the last {FAILURES_MAX}. "
        )
        told = failures_in(text)
        assert len(told) == FAILURES_MAX
        assert {(len(it["error_message"]), len(it["prompt"])) for it in told} == {(CHARACTERS_MAX, CHARACTERS_MAX)}


@modes
@pytest.mark.parametrize(
    ("prompt", "arguments", "fields"),
    [
        ("work_loop", {}, ["work_directory"]),
        ("work_loop", {"work_directory": "relative", "tags": "a,a"}, ["work_directory", "tags"]),
        ("work_loop", {"work_directory": "/a", "worker_id": "x" * 101}, ["worker_id"]),
        ("work_loop", {"work_directory": "/a", "directory": "/b"}, ["directory"]),
        ("submit_task", {"work_directory": "/a", "goal": " "}, ["goal"]),
        ("submit_task", {"work_directory": "/a/../b", "goal": "x" * 10_001}, ["work_directory", "goal"]),
        ("review_failures", {"work_directory": ""}, ["work_directory"]),
        ("nothing", {}, ["name"]),
    ],
)
async def test_wrong_arguments_are_named_with_their_rules(shared, mode, prompt, arguments, fields):
    async with agent(shared, mode=mode) as client:
        async with refused(INVALID) as caught:
            await client.get_prompt(prompt, arguments)
        error = caught.value.error
        assert sorted(it["field"] for it in error.data["errors"]) == sorted(fields)
        assert error.message.startswith(f"{error.data['field']}: ")


@modes
async def test_a_key_is_offered_what_it_is_for(locked, admin, directory, name, mode):
    await fail(admin, directory)
    worker = await key(admin, name, "work", work_directories=[directory])
    async with agent(locked, worker, mode) as client:
        assert [it.name for it in (await client.list_prompts()).prompts] == ["work_loop"]
        assert directory in await said(client, "work_loop", work_directory=directory)
        for prompt, arguments in (
            ("review_failures", {}),
            ("submit_task", {"work_directory": directory, "goal": "x"}),
            ("work_loop", {"work_directory": "/elsewhere"}),
        ):
            async with refused(FORBIDDEN) as caught:
                await client.get_prompt(prompt, arguments)
            assert caught.value.error.data["code"] == "FORBIDDEN"
    reader = await key(admin, f"{name}.reader", "read", work_directories=[f"{directory}/x"])
    async with agent(locked, reader, mode) as client:
        assert "No tasks have failed" in await said(client, "review_failures")
        async with refused(FORBIDDEN):
            await client.get_prompt("review_failures", {"work_directory": directory})


@pytest.mark.once
async def test_secrets_in_errors_are_hidden_as_they_are_over_rest(tmp_path, directory):
    with running(tmp_path, API_SECRET_KEY=ADMIN, APP_SECURITY_REDACT_PAYLOADS="true") as server:
        async with connected(server, Authorization=f"Bearer {ADMIN}") as admin:
            await fail(admin, directory, "login with password=hunter2222 failed", "use password=hunter3333")
            reader = await key(admin, "reader", "read")
        async with agent(server, reader) as client:
            told = await said(client, "review_failures", work_directory=directory)
            assert "failed" in told
            assert "hunter" not in told
        async with agent(server, ADMIN) as client:
            assert "hunter2222" in await said(client, "review_failures", work_directory=directory)
