"""The twelve tools: what they take and say, for whom they are there, and what a model is told that went wrong."""

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import mcp_types as types
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.caller import Scope
from tests.conftest import ServerProcess
from tests.mcp.clients import NEW, OLD, agent, key, refused
from tests.mcp.wire import OLD as OLD_REVISION
from tests.mcp.wire import REVISIONS, request, said_in
from tests.web.conftest import Api, raw, running, until, wire
from web.codec import Invalid, structure
from web.mcp.bodies import Listing, NewTask
from web.mcp.calls import _told
from web.mcp.hints import HINTS
from web.mcp.tools import TOOLS
from web.refusals import REFUSALS

CHARACTERS_PER_TOKEN = 3.2  # two public tokenizers have more in these texts: 3.4 in a list, 4.1 in the tools
SCOPES: dict[Scope, set[str]] = {
    "read": {"queue_stats", "list_tasks", "get_task"},
    "submit": {"create_task", "create_tasks"},
    "work": {"claim_next_task", "heartbeat_task", "complete_task", "fail_task", "release_task"},
    "operate": {"cancel_task", "retry_task"},
}
NAMES = set().union(*SCOPES.values())


def tokens(value: object) -> float:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) / CHARACTERS_PER_TOKEN


@frozen
class Agent:
    """Calls tools, and takes no for an answer only where it is expected."""

    server: ServerProcess
    key: str | None = None
    mode: str = NEW

    async def tools(self) -> Sequence[types.Tool]:
        async with agent(self.server, self.key, self.mode) as client:
            return (await client.list_tools()).tools

    async def call(self, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        async with agent(self.server, self.key, self.mode) as client:
            return await client.call_tool(tool, arguments)

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        said = await self.call(tool, arguments)
        assert not said.is_error, said.content[0].text
        assert json.loads(said.content[0].text) == said.structured_content
        jsonschema.validate(said.structured_content, TOOLS[tool].gives)
        return said.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        said = await self.call(tool, arguments)
        assert said.is_error, said
        return str(said.content[0].text)


@pytest.fixture(params=[OLD, NEW])
def ask(shared: ServerProcess, request: pytest.FixtureRequest) -> Agent:
    return Agent(shared, mode=request.param)


async def with_key(locked: ServerProcess, admin: Api, name: str, *scopes: str, **fields: Any) -> Agent:
    return Agent(locked, await key(admin, name, *scopes, **fields))


# What they are


async def test_there_are_twelve_each_with_schemas_and_all_four_annotations(ask: Agent) -> None:
    listed = await ask.tools()
    assert {tool.name for tool in listed} == NAMES
    for tool in listed:
        for schema in (tool.input_schema, tool.output_schema):
            jsonschema.Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
        said = tool.annotations.model_dump()
        assert None not in {said[f"{what}_hint"] for what in ("read_only", "destructive", "idempotent", "open_world")}
        assert said["read_only_hint"] == (tool.name in SCOPES["read"])
        assert said["destructive_hint"] == (tool.name == "cancel_task")
    assert listed[0].annotations.read_only_hint  # clients try out the first one


def test_all_of_them_take_less_than_4000_tokens() -> None:
    told = [_told(tool).model_dump(mode="json", by_alias=True, exclude_none=True) for tool in TOOLS.values()]
    assert tokens(told) < 4000


async def test_a_list_of_20_tasks_takes_less_than_2000_tokens(ask: Agent, directory: str) -> None:
    tasks = [{"work_directory": directory, "prompt": f"{number} " + "Find out why it fails. " * 40, "priority": "high"}
             for number in range(20)]  # fmt: skip
    await ask("create_tasks", tasks=tasks)
    for number in range(20):
        held = await ask("claim_next_task", work_directory=directory, worker_id=f"agent-{number}-of-20")
        if number % 2:
            lease = {"task_id": held["task"]["task_id"], "lease_token": held["task"]["lease_token"]}
            await ask("fail_task", **lease, error_message="The test that was to show it does not even start. " * 10)
    listed = await ask("list_tasks", work_directory=[directory])
    assert len(listed["tasks"]) == 20
    assert tokens(listed) < 2000


@pytest.mark.parametrize("cls", [Listing, NewTask])
def test_the_brief_schema_lets_through_what_the_rules_let_through(cls: type) -> None:
    takes = next(tool.takes for tool in TOOLS.values() if tool.asks is cls)

    @given(st.fixed_dictionaries({"work_directory": st.just("/w"), "prompt": st.text(min_size=1, max_size=20)},
                                 optional={"tags": st.lists(st.text(max_size=5), max_size=3),
                                           "priority": st.sampled_from(["low", "medium", "high"]),
                                           "limit": st.integers(0, 101)}))  # fmt: skip
    def check(said: dict[str, Any]) -> None:
        said = {name: value for name, value in said.items() if name in takes["properties"]}
        if cls is Listing:
            said |= {name: [said[name]] for name in ("work_directory", "priority") if name in said}
        try:
            structure(said, cls)
        except Invalid:
            return
        jsonschema.validate(said, takes)

    check()


# For whom


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_sees_and_may_use_what_its_scope_is_for(
    locked: ServerProcess, admin: Api, name: str, scope: Scope
) -> None:
    ask = await with_key(locked, admin, name, scope)
    assert {tool.name for tool in await ask.tools()} == SCOPES[scope]
    for tool in NAMES - SCOPES[scope]:
        assert (await ask.refused(tool)).startswith("FORBIDDEN: ")


async def test_a_key_reaches_no_further_than_its_directories(locked: ServerProcess, admin: Api, name: str) -> None:
    beyond = await admin.create(f"/{name}/beyond", "secret plans")
    mine = await admin.create(f"/{name}/mine/app")
    scopes = ("submit", "work", "read", "operate")
    ask = await with_key(locked, admin, name, *scopes, work_directories=[f"/{name}/mine/*"])
    for tool in ("get_task", "cancel_task", "retry_task"):
        assert (await ask.refused(tool, task_id=beyond["task_id"])).startswith("TASK_NOT_FOUND: ")
    entering = {"create_task": {"prompt": "x"}, "claim_next_task": {"wait_seconds": 0}, "queue_stats": {}}
    for tool, more in entering.items():
        assert (await ask.refused(tool, work_directory=f"/{name}/beyond", **more)).startswith("FORBIDDEN: ")
    await ask.refused("claim_next_task", work_directory=f"/{name}/beyond", worker_id=f"{name}.x", wait_seconds=0)
    assert name not in str((await admin.get("/api/v1/workers")).data)
    listed = await ask("list_tasks")
    assert [task["task_id"] for task in listed["tasks"]] == [mine["task_id"]]
    stats = await ask("queue_stats")
    assert (stats["total"], [it["work_directory"] for it in stats["work_directories"]]) == (
        1,
        [f"/{name}/mine/app"],
    )


async def test_nobody_speaks_without_a_key_where_there_are_keys(locked: ServerProcess) -> None:
    for headers in ("", "Authorization: Bearer wrong\r\n"):
        answer = await raw(locked, request(OLD_REVISION, "tools/list", {}, headers=headers))
        answer.refused(401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_what_operators_do_over_it_is_put_into_the_audit_log(
    locked: ServerProcess, admin: Api, name: str
) -> None:
    task = await admin.create(f"/{name}")
    ask = await with_key(locked, admin, name, "operate")
    await ask("cancel_task", task_id=task["task_id"], reason="no longer needed")
    await ask.refused("cancel_task", task_id=task["task_id"])
    entries = (await admin.get("/api/v1/audit", who=name)).data["audit"]
    told = [(it["action"], it["outcome"]) for it in entries]
    assert told == [("cancel_task", "INVALID_STATE"), ("cancel_task", "ok")]
    assert entries[1]["details"]["reason"] == "no longer needed"


async def test_whoever_is_turned_away_by_a_tool_or_a_resource_is_told_of_there(
    locked: ServerProcess, admin: Api, name: str
) -> None:
    ask = await with_key(locked, admin, name, "submit")
    await ask.refused("cancel_task")
    async with agent(locked, ask.key) as client, refused(-32003):
        await client.read_resource("queue://stats")

    async def is_told() -> bool:
        entries = (await admin.get("/api/v1/audit", who=name)).data["audit"]
        told = str([it["details"] for it in entries])
        return "mcp cancel_task" in told and "mcp resources/read" in told

    await until(is_told)


async def test_pages_of_others_and_other_hosts_are_turned_away(shared: ServerProcess) -> None:
    whole = request(OLD_REVISION, "tools/list", {})
    (await raw(shared, whole.replace(b"Host: 127.0.0.1", b"Host: evil.example"))).refused(403, "FORBIDDEN")
    (await raw(shared, whole.replace(b"Accept:", b"Origin: https://evil.example\r\nAccept:"))).refused(403, "FORBIDDEN")


async def test_too_many_calls_of_a_kind_are_slowed_down(tmp_path: Any) -> None:
    environ = {"APP_RATE_LIMIT_ENABLED": "true", "APP_RATE_LIMIT_PER_ENDPOINT": "submit=0.1/2"}
    with running(tmp_path, **environ) as server:
        ask = Agent(server)
        for _ in range(2):
            await ask("create_task", work_directory="/w", prompt="x")
        text = await ask.refused("create_task", work_directory="/w", prompt="x")
        assert text.startswith("RATE_LIMITED: too many requests of this kind")
        await ask("queue_stats")


# What they say


async def test_a_task_is_told_without_nulls_but_with_what_somebody_said(ask: Agent, directory: str) -> None:
    made = await ask("create_task", work_directory=directory, prompt="x", metadata={"a": None, "b": []})
    held = await ask("claim_next_task", work_directory=directory, worker_id="ann")
    assert held["task"]["metadata"] == {"a": None, "b": []}
    assert None not in held["task"].values()
    lease = {"task_id": made["task_id"], "lease_token": held["task"]["lease_token"]}
    await ask("heartbeat_task", **lease, progress={"percent": 50})
    assert (await ask("get_task", task_id=made["task_id"]))["progress"] == {"percent": 50}
    await ask("complete_task", **lease, result={"left": None})
    shown = await ask("get_task", task_id=made["task_id"], include=["history", "logs"])
    assert shown["result"] == {"left": None}
    steps = ["task.created", "task.claimed", "task.progress", "task.completed"]
    assert [line["type"] for line in shown["history"]] == steps
    assert all(None not in line.values() for line in shown["history"])
    assert shown["logs"] == []
    assert "lease_token" not in json.dumps(shown)
    assert None not in shown.values()


async def test_a_list_is_paged_with_a_cursor(ask: Agent, directory: str) -> None:
    made = await ask("create_tasks", tasks=[{"work_directory": directory, "prompt": f"{n}"} for n in range(5)])
    seen, more = [], {}
    while True:
        page = await ask("list_tasks", work_directory=[directory], sort="created_at", limit=2, **more)
        assert page["total"] == 5
        seen += [task["task_id"] for task in page["tasks"]]
        if "next_cursor" not in page:
            break
        more = {"cursor": page["next_cursor"]}
    assert seen == [task["task_id"] for task in made["tasks"]]


async def test_a_batch_tells_what_was_made_and_what_was_not(ask: Agent, directory: str) -> None:
    tasks = [
        {"work_directory": directory, "prompt": "plan", "ref": "plan"},
        {"work_directory": directory, "prompt": "do", "depends_on": ["ref:plan"]},
        {"work_directory": "nowhere", "prompt": "x"},
    ]
    text = await ask.refused("create_tasks", tasks=tasks)
    assert text.startswith("VALIDATION_ERROR: tasks[2].work_directory: ")
    made = await ask("create_tasks", tasks=tasks, atomic=False)
    plan, do = made["tasks"]
    assert (plan["ref"], do["blocked_by"]) == ("plan", [plan["task_id"]])
    assert [(error["index"], error["code"]) for error in made["errors"]] == [(2, "VALIDATION_ERROR")]


async def test_the_same_submission_under_one_key_is_one_task(ask: Agent, directory: str) -> None:
    said = {"work_directory": directory, "prompt": "once", "idempotency_key": directory}
    made = await ask("create_task", **said)
    again = await ask("create_task", **said)
    assert (again["task_id"], again["replayed"]) == (made["task_id"], True)
    assert (await ask.refused("create_task", **{**said, "prompt": "twice"})).startswith("IDEMPOTENCY_KEY_REUSED: ")
    batch = {"tasks": [said | {"idempotency_key": None}], "idempotency_key": f"{directory}/many"}
    batch["tasks"] = [{"work_directory": directory, "prompt": "many"}]
    assert (await ask("create_tasks", **batch))["tasks"] == (await ask("create_tasks", **batch))["tasks"]


async def test_the_next_task_comes_with_the_report_on_the_last(ask: Agent, directory: str) -> None:
    await ask("create_tasks", tasks=[{"work_directory": directory, "prompt": f"{n}"} for n in range(2)])
    held = await ask("claim_next_task", work_directory=directory, worker_id="ann")
    more = {"claim_next": {"work_directory": directory, "worker_id": "ann"}}
    for expected in ("1", None):
        lease = {"task_id": held["task"]["task_id"], "lease_token": held["task"]["lease_token"]}
        done = await ask("complete_task", **lease, **more)
        assert done["status"] == "completed"
        held = done["next"]
        assert (held["task"] and held["task"]["prompt"]) == expected
    assert held["retry"]


@pytest.mark.parametrize("worker_id", [None, "ann"])
async def test_a_report_said_again_gets_the_same_next_task(ask: Agent, directory: str, worker_id: str | None) -> None:
    """Also if the agent has no name; one that it gives with the report is the name of the claim, too."""
    await ask("create_tasks", tasks=[{"work_directory": directory, "prompt": f"{n}"} for n in range(3)])
    held = (await ask("claim_next_task", work_directory=directory, worker_id=worker_id))["task"]
    report = {"task_id": held["task_id"], "lease_token": held["lease_token"], "worker_id": worker_id}
    done, again = [
        (await ask("complete_task", **report, claim_next={"work_directory": directory}))["next"] for _ in range(2)
    ]
    assert (done["task"]["prompt"], done["resumed"], again["resumed"]) == ("1", False, True)
    assert again["task"]["lease_token"] == done["task"]["lease_token"]
    assert (await ask("get_task", task_id=done["task"]["task_id"])).get("worker_id") == worker_id


async def test_it_waits_for_an_outcome(ask: Agent, directory: str) -> None:
    made = await ask("create_task", work_directory=directory, prompt="x")
    waited = await ask("get_task", task_id=made["task_id"], until="terminal", wait_seconds=0.1)
    assert waited["status"] == "waiting"
    await ask("cancel_task", task_id=made["task_id"])
    waited = await ask("get_task", task_id=made["task_id"], until="terminal", wait_seconds=50)
    assert waited["status"] == "cancelled"


# What goes wrong


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("create_task", {}, ["work_directory: is required", "prompt: is required"]),
        (
            "create_task",
            {"work_directory": "/w", "prompt": 5, "x": 1},
            ["prompt: must be a string", "x: unknown field"],
        ),
        (
            "get_task",
            {"wait_seconds": 51, "until": "terminal"},
            ["task_id: is required", "wait_seconds: must be at most 50"],
        ),
        ("claim_next_task", {"work_directory": "/w", "wait_seconds": 51}, ["wait_seconds: must be at most 50"]),
        (
            "claim_next_task",
            {"work_directory": "/w", "worker_id": None, "lease_seconds": 0},
            ["lease_seconds: must be"],
        ),
        ("heartbeat_task", {"task_id": "../x"}, ["task_id: ", "lease_token: is required"]),
        ("list_tasks", {"limit": 101}, ["limit: must be at most 100"]),
        ("complete_task", {"task_id": "a", "claim_next": {}}, ["claim_next.work_directory: is required"]),
        ("queue_stats", {"work_directory": "relative"}, ["work_directory: must be"]),
    ],
)
async def test_bad_arguments_are_all_named_with_their_rules(
    ask: Agent, tool: str, arguments: dict[str, Any], told: list[str]
) -> None:
    text = await ask.refused(tool, **arguments)
    assert text.startswith("VALIDATION_ERROR: ")
    for fault in told:
        assert fault in text
    assert text.endswith(HINTS["VALIDATION_ERROR"])


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud800"', "1e999"])
async def test_values_that_are_no_json_are_refused(shared: ServerProcess, revision: str, value: str) -> None:
    arguments = {"work_directory": "/w", "prompt": "x", "metadata": {"a": "HERE"}}
    whole = request(revision, "tools/call", {"name": "create_task", "arguments": arguments})
    head, _, body = whole.partition(b"\r\n\r\n")
    body = body.replace(b'"HERE"', value.encode())
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    async with wire(shared) as connection:
        await connection.send(head + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        status, said = said_in(await connection.rest())
    assert (status, said["error"]["code"], said["id"]) == (400, -32700, None)


async def test_an_unknown_tool_is_an_error_of_the_protocol(shared: ServerProcess) -> None:
    for revision in REVISIONS:
        async with wire(shared) as connection:
            await connection.send(request(revision, "tools/call", {"name": "drop_table", "arguments": {}}))
            _, said = said_in(await connection.rest())
        assert said["error"]["code"] == -32602
        assert "claim_next_task" in said["error"]["message"]


async def test_a_lost_lease_says_to_stop(ask: Agent, directory: str) -> None:
    await ask("create_task", work_directory=directory, prompt="x")
    held = await ask("claim_next_task", work_directory=directory, worker_id="ann")
    lease = {"task_id": held["task"]["task_id"], "lease_token": held["task"]["lease_token"]}
    await ask("cancel_task", task_id=lease["task_id"], force=True)
    for tool, more in (("heartbeat_task", {}), ("complete_task", {}), ("fail_task", {"error_message": "x"})):
        text = await ask.refused(tool, **lease, **more)
        assert text.startswith("LEASE_LOST: ")
        assert "Stop working on it" in text


def test_a_model_is_told_what_to_do_about_whatever_a_tool_may_refuse() -> None:
    of_requests = {"MALFORMED_JSON", "MALFORMED_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "METHOD_NOT_ALLOWED"}
    of_requests |= {"NOT_ACCEPTABLE", "UNSUPPORTED_MEDIA_TYPE", "EXPECTATION_FAILED"}
    of_what_is_no_tool = {"ALREADY_EXISTS", "LAST_ADMIN", "VERSION_CONFLICT", "FILTER_TOO_WIDE"}
    codes = {refusal.code or name for name, refusal in REFUSALS.items()}
    assert codes - of_requests - of_what_is_no_tool == HINTS.keys()
