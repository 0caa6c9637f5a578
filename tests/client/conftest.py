"""What the tests of the client side share."""

import asyncio
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from task_orchestrator import Client
from tests.client.processes import Done, Running, run_cli, start


@pytest.fixture
def cli(server: Any) -> Callable[..., Awaitable[Done]]:
    """Run `task-orchestrator` with these arguments against the server, to its end."""

    async def run(*arguments: str, **options: Any) -> Done:
        return await run_cli(*arguments, url=server.url, **options)

    return run


@pytest.fixture
async def client(server: Any) -> AsyncIterator[Client]:
    async with Client(server.url) as client:
        yield client


@pytest.fixture
async def worker() -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    """Start `task-orchestrator worker --json`; whatever still runs at the end of the test is stopped."""
    started: list[tuple[Running, asyncio.Task[None]]] = []

    async def begin(url: str, directory: Path, command: str = "sh", *options: str) -> Running:
        arguments = ("worker", "--json", "--work-directory", str(directory), "--exec", command, *options)
        running = Running(await start(*arguments, url=url, stdout=PIPE))
        started.append((running, asyncio.create_task(running.read())))
        return running

    yield begin
    for running, reading in started:
        with suppress(ProcessLookupError):
            running.send(signal.SIGTERM)
        await running.exit_code()
        await reading


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A work directory of this test alone."""
    path = tmp_path / "work"
    path.mkdir()
    return path
