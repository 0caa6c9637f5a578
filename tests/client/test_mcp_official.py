"""The official client drives `task-orchestrator mcp` against a real server, on both kinds of revisions."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client as McpClient
from mcp import MCPDeprecationWarning, MCPError, StdioServerParameters, stdio_client

from task_orchestrator import Client
from tests.client.processes import environment, until
from tests.conftest import ServerProcess

MODES = ["legacy", "auto", "2026-07-28"]


@asynccontextmanager
async def agent(url: str, *options: str, mode: Any = "auto", **more: Any) -> AsyncIterator[McpClient]:
    arguments = ["-m", "task_orchestrator", "mcp", "--url", url, *options]
    command = StdioServerParameters(command=sys.executable, args=arguments, env=environment())
    async with McpClient(stdio_client(command), mode=mode, **more) as client:
        yield client


async def call(client: McpClient, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    said: dict[str, Any] = answer.structured_content or {}
    return said


@pytest.mark.parametrize("mode", MODES)
async def test_a_life_cycle(server: ServerProcess, directory: Path, mode: str) -> None:
    place = str(directory)
    async with agent(server.url, mode=mode) as client:
        assert {"claim_next_task", "complete_task"} <= {tool.name for tool in (await client.list_tools()).tools}
        made = await call(client, "create_task", work_directory=place, prompt="Count the files")
        claimed = await call(client, "claim_next_task", work_directory=place, wait_seconds=5)
        task = claimed["task"]
        assert (task["task_id"], claimed["resumed"]) == (made["task_id"], False)
        held = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
        await call(client, "heartbeat_task", **held, progress={"percent": 50})
        done = await call(client, "complete_task", **held, result={"files": 0})
        assert done["status"] == "completed"
    async with Client(server.url) as client:
        whole = await client.get(made["task_id"])
    assert (whole["result"], whole["worker_id"]) == ({"files": 0}, f"{os.uname().nodename[:80]}-{os.getpid()}")


@pytest.mark.parametrize("sessions", ["false", "true"])
async def test_news_of_a_resource_comes_through(tmp_path: Path, directory: Path, sessions: str) -> None:
    server = ServerProcess(tmp_path, environ={"APP_MCP_SESSIONS": sessions}).start()
    try:
        if sessions == "false":
            async with agent(server.url) as client, client.listen(resource_subscriptions=["queue://stats"]) as news:
                await call(client, "create_task", work_directory=str(directory), prompt="x")
                assert (await asyncio.wait_for(anext(news), 10)).uri == "queue://stats"
            return
        heard = asyncio.Event()

        async def hear(message: Any) -> None:
            heard.set()

        async with agent(server.url, mode="legacy", message_handler=hear) as client:
            with pytest.warns(MCPDeprecationWarning):
                await client.subscribe_resource("queue://stats")

            async def has_heard() -> bool:  # what is told before the session's stream is open is lost
                await call(client, "create_task", work_directory=str(directory), prompt="x")
                await asyncio.sleep(0.1)
                return heard.is_set()

            await until(has_heard)
    finally:
        assert server.terminate() == 0


async def test_an_agent_that_starts_the_command_again_goes_on_with_its_task(
    server: ServerProcess, directory: Path
) -> None:
    place = str(directory)
    async with agent(server.url) as client:
        await call(client, "create_task", work_directory=place, prompt="one")
        await call(client, "create_task", work_directory=place, prompt="two")
        first = await call(client, "claim_next_task", work_directory=place)
    async with agent(server.url) as client, agent(server.url, "--worker-id", "somebody-else") as other:
        again = await call(client, "claim_next_task", work_directory=place)
        second = await call(other, "claim_next_task", work_directory=place)
    assert again["resumed"]
    assert again["task"]["task_id"] == first["task"]["task_id"] != second["task"]["task_id"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_claim_that_is_given_up_takes_nothing(server: ServerProcess, directory: Path, mode: str) -> None:
    place = str(directory)
    async with agent(server.url, mode=mode) as client, Client(server.url) as rest:
        await rest.pause(place)  # so that it is listed
        await rest.resume(place)
        waiting = asyncio.create_task(call(client, "claim_next_task", work_directory=place, wait_seconds=50))

        async def waits() -> bool:
            return any(it["waiting_workers"] for it in await rest.directories())

        await until(waits)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        async def nobody() -> bool:
            return not await waits()

        await until(nobody)
        task = await rest.submit("x", work_directory=place)
        assert (await call(client, "get_task", task_id=task["task_id"]))["status"] == "waiting"


async def test_progress_of_a_claim_comes_through(server: ServerProcess, directory: Path) -> None:
    told = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.set()

    async with agent(server.url) as client:
        arguments = {"work_directory": str(directory), "wait_seconds": 50}
        waiting = asyncio.create_task(client.call_tool("claim_next_task", arguments, progress_callback=hear))
        await asyncio.wait_for(told.wait(), 20)
        await call(client, "create_task", work_directory=str(directory), prompt="now")
        answer = await asyncio.wait_for(waiting, 10)
    assert answer.structured_content is not None
    assert answer.structured_content["task"]["prompt"] == "now"


async def test_a_server_that_is_restarted_is_found_again(server: ServerProcess, directory: Path) -> None:
    async with agent(server.url) as client:
        await call(client, "create_task", work_directory=str(directory), prompt="before")
        assert server.terminate() == 0
        with pytest.raises(MCPError, match="Wait 5 s and call again"):
            await client.call_tool("queue_stats", {})
        server.start()
        assert (await call(client, "queue_stats"))["total"] == 1


async def test_a_key_that_may_not_is_told_so_in_words(tmp_path: Path, directory: Path) -> None:
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": "s" * 40}).start()
    try:
        reason = pytest.RaisesExc(MCPError, match="TASK_ORCHESTRATOR_API_KEY")
        with pytest.RaisesGroup(reason, flatten_subgroups=True):
            async with agent(server.url, "--api-key", "wrong" * 8, mode="legacy"):
                pass
    finally:
        assert server.terminate() == 0
