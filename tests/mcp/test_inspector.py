"""The Inspector, with which people look at servers, drives one from its command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import ServerProcess
from tests.mcp.life import TOOLS
from tests.mcp.tools import INSPECTOR, NODE, run

KEY = "a-key-for-the-inspector-alone"
SECONDS_MAX = 30


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that asks for a key."""
    server = ServerProcess(tmp_path_factory.mktemp("locked"), environ={"API_SECRET_KEY": KEY}).start()
    yield server
    assert server.terminate() == 0


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_its_command_line_leads_a_task_through_its_life(locked: ServerProcess, tmp_path: Path, era: str) -> None:
    command = [NODE, INSPECTOR, "--cli", f"{locked.url}/mcp", "--protocol-era", era, "--format", "json"]

    def inspect(*options: str, key: str = KEY) -> Any:
        done = run([*command, "--header", f"Authorization: Bearer {key}", *options], tmp_path, SECONDS_MAX)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["result"]

    def call(tool: str, **arguments: Any) -> Any:
        said = inspect("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        assert json.loads(said["content"][0]["text"]) == said["structuredContent"]
        return said["structuredContent"]

    directory = f"/test/{uuid4().hex}"
    assert {it["name"] for it in inspect("--method", "tools/list")["tools"]} == TOOLS
    made = call("create_task", work_directory=directory, prompt="Count the files")
    task = call("claim_next_task", work_directory=directory, wait_seconds=1)["task"]
    assert task["task_id"] == made["task_id"]
    mine = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
    assert call("heartbeat_task", **mine)["lease_expires_at"]
    assert call("complete_task", **mine, result=12)["status"] == "completed"
    assert call("get_task", task_id=task["task_id"])["result"] == 12
