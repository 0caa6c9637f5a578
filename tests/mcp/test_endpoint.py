"""The endpoint: what it is without, when it is loaded, and what its sessions are."""

import re
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.conftest import ServerProcess
from tests.mcp.clients import ADMIN, key
from tests.mcp.wire import (
    LATEST_HANDSHAKE,
    MODERN,
    OLD,
    call,
    calling,
    connection,
    initialize,
    message,
    request,
    said_in,
)
from tests.web.conftest import Api, connected, raw, running, text_of, until
from tests.web.honest import resident

SDK = "pydantic_core"  # what it is made with


def is_loaded(server: ServerProcess) -> bool:
    return SDK in Path(f"/proc/{server.pid}/maps").read_text()


async def test_the_sdk_is_loaded_when_somebody_comes(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        async with connected(server) as api:
            await api.create("/w")
        assert not is_loaded(server)
        await call(server.port, MODERN, "queue_stats", {})
        assert is_loaded(server)


async def test_where_it_is_switched_off_it_is_not_there_and_takes_no_memory(tmp_path: Path) -> None:
    with running(tmp_path, APP_MCP_ENABLED="false") as server:
        async with connected(server) as api:
            (await api.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"})).refused(404, "NOT_FOUND")
        assert not is_loaded(server)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
async def test_without_sessions_there_is_nothing_but_post(shared: ServerProcess, method: str) -> None:
    answer = await raw(shared, text_of(method, "/mcp", Accept="text/event-stream"))
    answer.refused(405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "OPTIONS, POST"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":1}{', b'{"a":NaN}'])
async def test_what_is_no_json_is_said_to_be_none(shared: ServerProcess, body: bytes) -> None:
    head = text_of("POST", "/mcp", Content_Length=str(len(body)), Accept="application/json, text/event-stream")
    answer = await raw(shared, head + body)
    said = answer.json
    assert (answer.status, said["error"]["code"], said["id"]) == (400, -32700, None)


async def test_a_batch_and_what_is_too_large_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, APP_SERVER_MAX_BODY_BYTES="100000") as server:
        async with ClientSession() as http:
            headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": OLD}
            batch = [{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(3)]
            async with http.post(f"{server.url}/mcp", json=batch, headers=headers) as response:
                assert response.status == 400
                assert (await response.json())["error"]["code"] in (-32600, -32700, -32602)
            async with http.post(f"{server.url}/mcp", data=b" " * 100_001, headers=headers) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_large_messages_do_not_pile_up(tmp_path: Path) -> None:
    asked = {"name": "queue_stats", "arguments": {}}
    large = request(MODERN, "tools/call", asked, message(MODERN, "tools/call", asked) + b" " * 10_000_000)
    with running(tmp_path) as server:
        await call(server.port, MODERN, "queue_stats", {})
        before = resident(server.pid)
        for _ in range(40):
            async with connection(server.port) as (reader, writer):
                writer.write(large)
                assert said_in(await reader.read())[0] == 200
        assert resident(server.pid) - before < 200_000_000


async def test_requests_are_counted_and_named(shared: ServerProcess, api: Api) -> None:
    async with ClientSession() as http:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        headers = {"Accept": "application/json, text/event-stream", "X-Request-Id": "my-own"}
        async with http.post(f"{shared.url}/mcp", json=body, headers=headers) as response:
            assert (response.status, response.headers["X-Request-Id"]) == (200, "my-own")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            await response.read()

        async def is_counted() -> bool:
            metrics = (await api.get("/metrics")).content.decode()
            return re.search(r'time_seconds_count{method="POST",route="/mcp",status="2xx"} [1-9]', metrics) is not None

        await until(is_counted)


async def begin(server: ServerProcess, headers: str = "") -> str:
    async with connection(server.port) as (reader, writer):
        writer.write(initialize(LATEST_HANDSHAKE).replace(b"Accept:", headers.encode() + b"Accept:", 1))
        found = re.search(rb"Mcp-Session-Id: (\w+)", await reader.read(), re.IGNORECASE)
    assert found
    return found[1].decode()


async def test_a_session_is_for_the_key_that_began_it(tmp_path: Path) -> None:
    with running(tmp_path, API_SECRET_KEY=ADMIN, APP_MCP_SESSIONS="true") as server:
        async with connected(server, Authorization=f"Bearer {ADMIN}") as admin:
            keys = [f"Authorization: Bearer {await key(admin, name, 'read')}\r\n" for name in ("ann", "bob")]
        session = f"Mcp-Session-Id: {await begin(server, keys[0])}\r\n"
        for own, status in zip(keys, (200, 404), strict=True):
            async with connection(server.port) as (reader, writer):
                writer.write(calling(LATEST_HANDSHAKE, "queue_stats", {}, headers=own + session))
                assert said_in(await reader.read())[0] == status


async def test_a_session_ends_when_it_is_deleted(tmp_path: Path) -> None:
    with running(tmp_path, APP_MCP_SESSIONS="true") as server:
        session = await begin(server)
        async with connected(server, **{"Mcp-Session-Id": session}) as api:
            assert (await api.call("DELETE", "/mcp")).status == 200
        async with connection(server.port) as (reader, writer):
            writer.write(calling(LATEST_HANDSHAKE, "queue_stats", {}, headers=f"Mcp-Session-Id: {session}\r\n"))
            status, said = said_in(await reader.read())
        assert (status, "error" in said) == (404, True)
