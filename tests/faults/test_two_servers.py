"""One database has one server; a second one is sent away and does no harm."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from random import Random
from typing import Any

import pytest

from .agents import Agent
from .ledger import Ledger
from .record import check
from .wire import PATIENCE_SECONDS

AGENTS = 8
ANSWERS_MIN = 100  # so many more calls the first server answers afterwards


def the_same_path(database: Path) -> Path:
    return database


def a_link_to_it(database: Path) -> Path:
    link = database.with_name("link.db")
    link.symlink_to(database)
    return link


def a_link_to_its_directory(database: Path) -> Path:
    link = database.parent / "link"
    link.symlink_to(database.parent, target_is_directory=True)
    return link / database.name


@pytest.mark.parametrize("alias", [the_same_path, a_link_to_it, a_link_to_its_directory])
async def test_a_second_server_is_refused_and_the_first_goes_on_unharmed(server: Any, alias: Any) -> None:
    """Whatever the second one calls the file, it ends at once and names the process that has it."""
    ledger = Ledger()
    agents = [Agent(f"agent-{number}", Random(), ledger) for number in range(AGENTS)]
    async with asyncio.TaskGroup() as group:
        calling = [group.create_task(agent.work(server.url)) for agent in agents]
        await ledger.more_answers(ANSWERS_MIN)
        code, said = await second_server(alias(server.database))
        await ledger.more_answers(ANSWERS_MIN)
        assert not any(agent.done() for agent in calling), "the first server broke off"
        for agent in agents:
            agent.stopped = True
    assert (code, f"another server is using it (process {server.pid})" in said) == (1, True), said
    assert not ledger.calls.unanswered
    check(server.database, ledger)


async def second_server(database: Path) -> tuple[int | None, str]:
    """Its exit status, and what it said on standard error."""
    command = (sys.executable, "-m", "task_orchestrator", "serve", "--port", "0", "--database", f"sqlite:///{database}")
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        out, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not out
    return process.returncode, said.decode()
