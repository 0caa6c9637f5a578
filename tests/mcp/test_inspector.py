"""The Inspector, with which people look at servers, drives one from its command line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.mcp.clients import ADMIN
from tests.mcp.life import TOOLS
from tests.mcp.tools import INSPECTOR, NODE, run

SECONDS_MAX = 30


@pytest.mark.parametrize(("way", "era"), [("url", "legacy"), ("url", "modern"), ("command", "legacy")])
def test_its_command_line_leads_a_task_through_its_life(
    locked: ServerProcess, directory: str, tmp_path: Path, way: str, era: str
) -> None:
    """It goes to the server's URL, or starts the command that speaks with the server."""
    if way == "url":
        where, last = [f"{locked.url}/mcp", "--header", f"Authorization: Bearer {ADMIN}"], []
    else:
        where = ["-e", f"TASK_ORCHESTRATOR_URL={locked.url}", "-e", f"TASK_ORCHESTRATOR_API_KEY={ADMIN}"]
        last = ["--", Path(sys.executable).with_name("task-orchestrator"), "mcp"]

    def inspect(*options: str) -> Any:
        command = [NODE, INSPECTOR, "--cli", *where, "--protocol-era", era, "--format", "json", *options, *last]
        done = run(command, tmp_path, SECONDS_MAX)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["result"]

    def call(tool: str, **arguments: Any) -> Any:
        said = inspect("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        assert json.loads(said["content"][0]["text"]) == said["structuredContent"]
        return said["structuredContent"]

    assert {it["name"] for it in inspect("--method", "tools/list")["tools"]} == TOOLS
    made = call("create_task", work_directory=directory, prompt="Count the files")
    task = call("claim_next_task", work_directory=directory, wait_seconds=1)["task"]
    assert task["task_id"] == made["task_id"]
    mine = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
    assert call("heartbeat_task", **mine)["lease_expires_at"]
    assert call("complete_task", **mine, result=12)["status"] == "completed"
    assert call("get_task", task_id=task["task_id"])["result"] == 12
