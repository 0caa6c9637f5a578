"""docs/agents.md: its files can be read, and its example does what it says, with a `claude` that follows the kit."""

import asyncio
import json
import os
import re
import signal
import sys
import tomllib
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import aiohttp
import pytest

from task_orchestrator import Client
from task_orchestrator.hook.command import EVERY_SECONDS
from task_orchestrator.kit.texts import BY_HOOK, BY_HOOK_ONCE_TRUSTED
from tests.client.processes import environment, until
from tests.conftest import ServerProcess
from web.mcp.tools import TOOLS
from web.settings import Settings

PROJECT = Path(__file__).parents[2]
GUIDE = (PROJECT / "docs" / "agents.md").read_text()
EXAMPLE = GUIDE[GUIDE.index("## A complete example") :]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    (block,) = blocks("sh", EXAMPLE[EXAMPLE.index(f"### {title}\n") :].split("\n### ")[0])
    return block


def test_its_files_can_be_read() -> None:
    for text in blocks("json", GUIDE):
        assert "task-orchestrator" in json.loads(text)["mcpServers"]
    for text in blocks("toml", GUIDE):
        assert "task-orchestrator" in tomllib.loads(text)["mcp_servers"]


def test_its_figures_and_names_are_those_of_the_code() -> None:
    assert all(name in TOOLS for name in re.findall(r"`(\w+_tasks?)`", GUIDE))
    assert f"A lease lasts {Settings().mcp.lease_seconds:.0f} s" in GUIDE
    assert f"at most every {EVERY_SECONDS:.0f} s" in GUIDE
    assert all(f"{Settings().mcp.lease_seconds / 60:.0f} minutes" in text for text in (BY_HOOK, BY_HOOK_ONCE_TRUSTED))
    assert "agents.md" in (PROJECT / "README.md").read_text()


@pytest.mark.timeout(120)
async def test_the_example_does_what_it_says(server: ServerProcess, tmp_path: Path) -> None:
    shop, programs = tmp_path / "shop", tmp_path / "bin"
    shop.mkdir()
    programs.mkdir()
    claude = programs / "claude"
    claude.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "fake_claude.py"}" "$@"\n')
    claude.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = environment(server.url) | {"HOME": str(tmp_path), "PATH": path, "XDG_STATE_HOME": str(tmp_path / "state")}

    async def run(script: str) -> str:
        bash = await asyncio.create_subprocess_exec(
            "bash", "-euc", script, cwd=shop, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        out, err = await asyncio.wait_for(bash.communicate(), 90)
        assert (bash.returncode, err) == (0, b""), err.decode() + (tmp_path / "server.log").read_text()
        return out.decode()

    watching = await asyncio.create_subprocess_exec(
        "bash", "-euc", f"exec {section('Somebody who watches')}", env=env, stdout=PIPE
    )
    assert watching.stdout is not None
    seen: list[str] = []

    async def watch() -> None:
        assert watching.stdout is not None
        async for line in watching.stdout:
            seen.append(line.decode())

    reading = asyncio.create_task(watch())
    try:
        async with Client(server.url) as client:
            await until(lambda: is_watched(server.url))
            planned = await run(section("The planner"))
            made = json.loads(planned[planned.index('{"success"') :])["data"]["tasks"]
            assert len(made) == 10
            assert await run(section("Two agents")) == ""
            page = await client.list(work_directory=str(shop))
        assert {task["status"] for task in page["tasks"]} == {"completed"}
        assert len({task["worker_id"] for task in page["tasks"]}) == 2
        assert {task["attempt"] for task in page["tasks"]} == {1}
        logs = (shop / "one.log").read_text() + (shop / "two.log").read_text()
        assert sum(map(int, re.findall(r"(\d+) done", logs))) == 10
        review = next(task for task in page["tasks"] if "REVIEW.md" in task["prompt"])
        wrote = ["README.md", "test_customers.py", "test_items.py", "test_orders.py"]
        assert review["result"] == {"wrote": "REVIEW.md", "after": wrote}
        await until(lambda: sum("completed" in line for line in seen) == 10)
        came = await run(section("What came of it"))
        assert "REVIEW.md" in came
    finally:
        watching.send_signal(signal.SIGINT)
        await watching.wait()
        await reading


async def is_watched(url: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        return 'stream_readers{kind="feed"} 1.0' in await response.text()
