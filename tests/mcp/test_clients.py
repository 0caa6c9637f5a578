"""The official clients lead a task's life, from being made to being completed."""

import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.conftest import ServerProcess
from tests.mcp.life import TOOLS, live
from tests.mcp.tools import FORMER_CLIENT, PROJECT, run

SECONDS_MAX = 60


@pytest.mark.parametrize(
    ("mode", "revision"), [("2026-07-28", "2026-07-28"), ("auto", "2026-07-28"), ("legacy", "2025-11-25")]
)
async def test_the_current_client_leads_it(shared: ServerProcess, directory: str, mode: str, revision: str) -> None:
    async with Client(f"{shared.url}/mcp", mode=mode) as client:

        async def call(tool: str, **arguments: Any) -> tuple[Any, bool]:
            answer = await client.call_tool(tool, arguments)
            return answer.structured_content or answer.content[0].text, answer.is_error

        assert client.protocol_version == revision
        assert {it.name for it in (await client.list_tools()).tools} == TOOLS
        await live(call, directory)


def test_the_client_as_it_was_leads_it(shared: ServerProcess, directory: str, tmp_path: Path) -> None:
    """It stands in the way of the current one, so it is a process that sees nothing else."""
    environ = {"PYTHONPATH": f"{FORMER_CLIENT}:{PROJECT}"}
    command = [sys.executable, "-S", "-m", "tests.mcp.client_1", f"{shared.url}/mcp", directory]
    done = run(command, tmp_path, SECONDS_MAX, environ)
    assert done.returncode == 0, done.stderr
    version, revision = done.stdout.split()
    assert version.startswith("1.")
    assert revision == "2025-11-25"
