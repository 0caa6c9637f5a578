"""kill -9 at random moments: what was answered is true for ever, what was not has happened or has not."""

import asyncio
import os
from asyncio import to_thread
from random import Random
from typing import Any

from .agents import Agent
from .ledger import Ledger
from .record import check

ROUNDS = 12
AGENTS = 12
ANSWERS_MAX = 300  # a server lives for up to so many answers


async def test_nothing_that_was_answered_is_lost_when_the_server_is_killed(server: Any) -> None:
    """Creations, outcomes and leases survive; no task has two holders; the history explains every task."""
    seed = int(os.environ.get("FAULTS_SEED") or Random().randrange(2**32))
    print(f"FAULTS_SEED={seed}")  # shown if it fails
    rng, ledger = Random(seed), Ledger()
    agents = [Agent(f"agent-{number}", Random(rng.random()), ledger) for number in range(AGENTS)]
    for _ in range(ROUNDS):
        await kill_under_load(server, agents, ledger, rng)
        server.port = 0  # somebody else may have taken the old one
        await to_thread(server.start)
        check(server.database, ledger)
    for agent in agents:
        agent.stopped = True
    await asyncio.gather(*(agent.work(server.url) for agent in agents))
    check(server.database, ledger)


async def kill_under_load(server: Any, agents: list[Agent], ledger: Ledger, rng: Random) -> None:
    async with asyncio.TaskGroup() as group:
        calling = [group.create_task(agent.work(server.url)) for agent in agents]
        await ledger.more_answers(rng.randint(AGENTS, ANSWERS_MAX))
        await asyncio.sleep(rng.uniform(0, 0.01))  # not just after an answer, but at any moment
        assert not any(agent.done() for agent in calling), "the server broke off by itself"
        await to_thread(server.kill)
