"""`task-orchestrator mcp`: what passes between its standard input and output and a server's `/mcp`."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from task_orchestrator.mcp.forwarding import REQUESTS_MAX
from task_orchestrator.mcp.pipes import LINE_BYTES_MAX
from tests.client.mcp_client import Speaking, speak
from tests.client.mcp_server import FakeMcp, park, result, stream
from tests.client.processes import environment, run_cli, until

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}

PROGRAM = "task_orchestrator.__main__"
Speak = Callable[..., Awaitable[Speaking]]


@pytest.fixture
async def fake() -> AsyncIterator[FakeMcp]:
    fake = await FakeMcp().start()
    yield fake
    assert fake.server is not None
    await fake.server.close()


@pytest.fixture
async def speaking() -> AsyncIterator[Speak]:
    started: list[Speaking] = []

    async def begin(url: str | None, *options: str, **environ: str) -> Speaking:
        started.append(await speak(url, *options, environ=environ))
        return started[-1]

    yield begin
    for each in started:
        await each.stop()


async def test_messages_pass_as_they_are(fake: FakeMcp, speaking: Speak) -> None:
    it = await speaking(fake.url)
    line = b'{"jsonrpc":"2.0",  "id":1, "method":"ping","params":{"text":"\xc3\xa4 \\u00e4", "number": 1.50}}'
    it.send_line(line + b"\r")
    assert (await it.answer(1))["result"] == {"text": "ä ä", "number": 1.5}
    assert fake.asked[0].body == line
    assert fake.asked[0].headers["Accept"] == "application/json, text/event-stream"
    assert fake.asked[0].headers["Content-Type"] == "application/json"
    assert not it.complaints


async def test_events_come_out_one_a_line_and_before_the_answer(fake: FakeMcp, speaking: Speak) -> None:
    async def work(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
        spread = json.dumps(result(message, done=True), indent=1).replace("\n", "\ndata: ")
        return await stream(request, progress, progress, spread)

    fake.handlers["tools/call"] = work
    it = await speaking(fake.url)
    assert (await it.ask("a", "tools/call", name="x"))["result"] == {"done": True}
    assert [each.get("method") for each in it.said] == ["notifications/progress", "notifications/progress", None]


async def test_many_requests_go_at_once(fake: FakeMcp, speaking: Speak) -> None:
    everybody = asyncio.Event()

    async def wait(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        if fake.open == 300:
            everybody.set()
        await everybody.wait()
        return web.json_response(result(message))

    fake.handlers["wait"] = wait
    it = await speaking(fake.url)
    for number in range(300):
        it.send(id=number, method="wait")
    for number in range(300):
        await it.answer(number)
    assert len(it.said) == 300


async def test_too_many_at_once_are_refused_and_the_others_go_on(fake: FakeMcp, speaking: Speak) -> None:
    fake.handlers["park"] = park
    it = await speaking(fake.url)
    for number in range(REQUESTS_MAX):
        it.send(id=number, method="park")
    assert "wait for one of them" in (await it.ask("x", "ping"))["error"]["message"]
    it.send(method="notifications/cancelled", params={"requestId": 0})
    assert (await it.ask("y", "ping"))["result"] == {}
    await until(lambda: fake.open == REQUESTS_MAX - 1)
    assert [each["id"] for each in it.said] == ["x", "y"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_can_be_stopped_while_it_starts(number: int) -> None:
    """As soon as our first line runs."""
    program = f"import os, sys, {PROGRAM} as it; sys.argv[1:] = ['mcp']; sys.modules['task_orchestrator.cli'] = None"
    program += f"\ntry: it.main()\nexcept ImportError: os.kill(os.getpid(), {int(number)})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0


async def test_after_initialize_every_message_bears_what_was_agreed(fake: FakeMcp, speaking: Speak) -> None:
    async def initialize(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, result(message, protocolVersion="2025-06-18"))

    fake.handlers["initialize"] = initialize
    it = await speaking(fake.url)
    await it.ask(0, "initialize", protocolVersion="2025-11-25")
    it.send(method="notifications/initialized")
    await it.ask(1, "tools/list")
    first, told, listed = fake.asked
    assert "MCP-Protocol-Version" not in first.headers
    assert told.message["method"] == "notifications/initialized"
    assert {each.headers["MCP-Protocol-Version"] for each in (told, listed)} == {"2025-06-18"}
    assert "Mcp-Method" not in listed.headers
    assert "Mcp-Session-Id" not in listed.headers


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "claim_next_task"}, "claim_next_task"),
        ("prompts/get", {"name": "work_loop"}, "work_loop"),
        ("resources/read", {"uri": "directory:///srv/ä"}, "=?base64?ZGlyZWN0b3J5Oi8vL3Nydi/DpA==?="),
        ("tools/list", {}, None),
    ],
)
async def test_a_message_that_names_its_revision_is_described_in_the_headers(
    fake: FakeMcp, speaking: Speak, method: str, params: dict[str, Any], name: str | None
) -> None:
    it = await speaking(fake.url)
    await it.ask(1, method, **params, _meta=META)
    headers = fake.asked[0].headers
    assert (headers["MCP-Protocol-Version"], headers["Mcp-Method"]) == ("2026-07-28", method)
    assert headers.get("Mcp-Name") == name


async def test_a_session_is_kept_and_ended(fake: FakeMcp, speaking: Speak) -> None:
    async def initialize(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(result(message, protocolVersion="2025-11-25"), headers={"Mcp-Session-Id": "s-1"})

    fake.handlers |= {"initialize": initialize, "park": park}
    fake.news = [{"jsonrpc": "2.0", "method": "notifications/resources/updated"}]
    it = await speaking(fake.url)
    await it.ask(0, "initialize")
    it.send(method="notifications/initialized")
    await until(lambda: it.said[1:] == fake.news)
    it.send(id=1, method="park")
    await until(lambda: fake.open)
    it.send(method="notifications/cancelled", params={"requestId": 1})
    await until(lambda: fake.hung_up)
    await until(lambda: fake.of("notifications/cancelled"))
    it.hang_up()
    assert await it.ended() == 0
    assert [each.headers.get("Mcp-Session-Id") for each in fake.asked] == [None] + ["s-1"] * 5
    assert [each.method for each in fake.asked] == ["POST", "POST", "GET", "POST", "POST", "DELETE"]
    assert not fake.listening


async def test_an_agent_is_somebody_and_stays_so_when_its_command_is_started_again(
    fake: FakeMcp, speaking: Speak
) -> None:
    for _ in range(2):
        await (await speaking(fake.url)).ask(1, "ping")
    await (await speaking(fake.url, "--worker-id", "agent-7")).ask(1, "ping")
    await (await speaking(fake.url, TASK_ORCHESTRATOR_WORKER_ID="agent-8")).ask(1, "ping")
    names = [each.headers["X-Worker-Id"] for each in fake.asked]
    assert names == [f"{socket.gethostname()[:80]}-{os.getpid()}"] * 2 + ["agent-7", "agent-8"]


async def test_the_key_is_sent_and_never_said(fake: FakeMcp, speaking: Speak) -> None:
    it = await speaking(fake.url, TASK_ORCHESTRATOR_API_KEY="k-123")
    await it.ask(1, "ping")
    assert fake.asked[0].headers["Authorization"] == "Bearer k-123"
    it = await speaking(fake.url, TASK_ORCHESTRATOR_API_KEY="")
    await it.ask(1, "ping")
    assert "Authorization" not in fake.asked[1].headers


async def test_cancelling_ends_the_request_it_names_and_no_other(fake: FakeMcp, speaking: Speak) -> None:
    fake.handlers["park"] = park
    it = await speaking(fake.url)
    it.send(id=1, method="park", params={"_meta": META})
    it.send(id="1", method="park", params={"_meta": META})
    await until(lambda: fake.open == 2)
    it.send(method="notifications/cancelled", params={"requestId": 1, "_meta": META})
    it.send(method="notifications/cancelled", params={"requestId": 99, "_meta": META})
    await until(lambda: fake.hung_up == 1)
    assert (await it.ask(2, "ping"))["result"] == {}
    assert (fake.open, fake.hung_up) == (1, 1)
    assert not fake.of("notifications/cancelled")
    assert [each["id"] for each in it.said] == [2]


REFUSALS = [
    (401, "UNAUTHORIZED", {}, "TASK_ORCHESTRATOR_API_KEY"),
    (403, "FORBIDDEN", {}, "what the key lacks"),
    (404, "NOT_FOUND", {}, "mcp.enabled"),
    (413, "PAYLOAD_TOO_LARGE", {}, "Send less"),
    (429, "RATE_LIMITED", {"Retry-After": "7"}, "Wait 7 s"),
    (500, "INTERNAL_ERROR", {}, "look with get_task"),
    (503, "UNAVAILABLE", {"Retry-After": "2"}, "Wait 2 s and call again"),
]


@pytest.mark.parametrize(("status", "code", "headers", "advice"), REFUSALS)
async def test_a_refusal_tells_the_model_what_to_do(
    fake: FakeMcp, speaking: Speak, status: int, code: str, headers: dict[str, str], advice: str
) -> None:
    async def refuse(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        envelope = {"success": False, "data": None, "error": {"code": code, "message": "because", "details": {}}}
        return web.json_response(envelope, status=status, headers=headers)

    fake.handlers["tools/call"] = refuse
    it = await speaking(fake.url)
    error = (await it.ask("x", "tools/call"))["error"]
    assert error["message"].startswith(f"The server refused this ({status} {code}): because. ")
    assert advice in error["message"]
    assert error["code"] == -32000
    assert (error["data"]["status"], error["data"]["code"]) == (status, code)


async def test_a_json_rpc_error_passes_with_the_id_of_its_request(fake: FakeMcp, speaking: Speak) -> None:
    async def refuse(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32022, "message": "Unsupported", "data": {"a": 1}}},
            status=400,
        )

    fake.handlers["server/discover"] = refuse
    it = await speaking(fake.url)
    answer = await it.ask(5, "server/discover")
    assert answer["error"] == {"code": -32022, "message": "Unsupported", "data": {"a": 1}}


async def cut(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    response = await stream(request, {"jsonrpc": "2.0", "method": "notifications/progress"})
    assert request.transport is not None
    request.transport.close()
    return response


async def nonsense(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text="<html>Welcome!</html>", content_type="text/html")


async def accepted(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=202)


async def elsewhere(fake: FakeMcp, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/mcp"})


@pytest.mark.parametrize("handler", [cut, nonsense, accepted, elsewhere])
async def test_whatever_else_comes_the_request_is_answered(fake: FakeMcp, speaking: Speak, handler: Any) -> None:
    fake.handlers["tools/call"] = handler
    it = await speaking(fake.url)
    assert "error" in await it.ask(1, "tools/call")
    assert (await it.ask(2, "ping"))["result"] == {}


async def test_a_server_that_is_away_is_an_error_and_then_it_is_back(speaking: Speak) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    it = await speaking(url)
    error = (await it.ask(1, "tools/call"))["error"]
    assert error["code"] == -32000
    assert error["message"].startswith(f"cannot reach {url}: connection refused. Wait 5 s and call again.")
    assert "task-orchestrator serve" in error["message"]
    it.send(method="notifications/initialized")
    await until(lambda: b"notifications/initialized did not reach the server" in it.complaints)
    assert len(it.said) == 1


@pytest.mark.parametrize("method", ["initialize", "server/discover"])
async def test_the_first_request_waits_for_a_server_that_is_just_being_started(speaking: Speak, method: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    it = await speaking(f"http://127.0.0.1:{port}")
    it.send(id=1, method=method)
    assert "cannot reach" in (await it.ask(2, "tools/list"))["error"]["message"]
    assert len(it.said) == 1
    fake = await FakeMcp().start(port)
    try:
        assert "result" in await it.answer(1)
    finally:
        assert fake.server is not None
        await fake.server.close()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"1", -32600),
        (b'"' + b"x" * LINE_BYTES_MAX + b'"', -32600),
    ],
    ids=["cut", "bytes", "deep", "list", "number", "long"],
)
async def test_a_line_that_is_no_message_is_answered_and_the_next_one_counts(
    fake: FakeMcp, speaking: Speak, line: bytes, code: int
) -> None:
    it = await speaking(fake.url)
    it.send_line(line)
    it.send_line(b"")
    assert (await it.ask(1, "ping"))["result"] == {}
    assert [(each["id"], each.get("error", {}).get("code")) for each in it.said] == [(None, code), (1, None)]
    assert len(fake.asked) == 1


async def test_long_messages_pass_whole(fake: FakeMcp, speaking: Speak) -> None:
    it = await speaking(fake.url)
    assert (await it.ask(1, "ping", text="ä" * 1_000_000))["result"]["text"] == "ä" * 1_000_000


async def test_what_is_asked_last_is_still_answered_when_the_input_ends(fake: FakeMcp) -> None:
    requests = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"ping"}'
    done = await run_cli("mcp", url=fake.url, stdin=requests)
    assert (done.code, done.err) == (0, "")
    assert sorted(json.loads(line)["id"] for line in done.out.splitlines()) == [1, 2]


@pytest.mark.parametrize("way", ["input", "output", signal.SIGTERM, signal.SIGINT])
async def test_with_the_client_everything_ends(fake: FakeMcp, speaking: Speak, way: Any) -> None:
    fake.handlers["park"] = park
    it = await speaking(fake.url)
    for number in range(20):
        it.send(id=number, method="park")
    await until(lambda: fake.open == 20)
    if way == "input":
        it.hang_up()
    elif way == "output":
        it.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        it.send(id=99, method="ping")
    else:
        it.process.send_signal(way)
    assert await it.ended(5) == 0
    await until(lambda: not fake.open)
    assert fake.hung_up == 20
    assert not it.said


async def test_a_client_that_reads_nothing_can_still_end_it(fake: FakeMcp) -> None:
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"text": "x" * 100_000}}).encode()
    command = [sys.executable, "-m", "task_orchestrator", "mcp"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(fake.url), **pipes) as it:  # noqa: ASYNC220
        assert it.stdin is not None
        for number in range(20):
            it.stdin.write(request.replace(b'"id": 1', b'"id": %d' % number) + b"\n")
            it.stdin.flush()
            await until(lambda number=number: len(fake.asked) > number)
        it.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(it.wait, 5) == 0


@pytest.mark.parametrize("worker_id", ["", " a", "ä", "x" * 101, "a\nb"])
async def test_a_worker_id_that_no_header_holds_is_refused(worker_id: str) -> None:
    done = await run_cli("mcp", "--worker-id", worker_id, url="http://127.0.0.1:1")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1


async def test_it_starts_without_the_sdk() -> None:
    program = "import sys, task_orchestrator.mcp.command, task_orchestrator.mcp.forwarding; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    loaded = set(out.decode().split())
    assert "task_orchestrator.mcp.forwarding" in loaded
    assert loaded.isdisjoint({"mcp", "pydantic", "anyio", "starlette", "cattrs"})
