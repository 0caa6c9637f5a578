"""Sets the scene for a storm over several servers: databases, networks, servers, who calls and who listens."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from random import Random

from tests.replication import pair

from .agents import Agent
from .calls import Calls
from .gales import DATABASE, USER
from .instances import LIMITED, Instance, Instances
from .ledger import Finding, Ledger
from .listeners import Endpoint, Reader
from .proxy import network
from .replay import Replay
from .room import Elsewhere
from .storm import PAUSE_SECONDS, Report
from .supervisor import Supervisor
from .visitors import Loner, Prober, Twin, Twins

LEAVES = 0.03  # the share of an agent's steps before which it goes to another server
LONERS, LIMITED_AGENTS = 2, 3  # of the agents
SETTINGS = {
    "APP_TASK_RESTART_GRACE_SECONDS": "1",
    "APP_DATABASE_TIMEOUT_SECONDS": "3",  # gales.LONG_SECONDS are longer
    "LOG_LEVEL": "warning",
}


async def wreak(
    seconds: float, faults: Sequence[str], seed: int, clients: int, workspace: Path, report: Report, instances: int
) -> tuple[str, list[Finding]]:
    """The closing line, and what was found; `report` is told how it goes, and in the end what explains the findings."""
    with ExitStack() as stack:
        ledger = Ledger(stack.enter_context(Calls.kept_in(workspace)))
        postgres, wires = stack.enter_context(pair()), stack.enter_context(network())
        postgres.primary.sql(f"create role {USER} login")
        postgres.primary.sql(f"create database {DATABASE} owner {USER}")
        report(f"seed={seed}, {instances} servers on PostgreSQL")
        rng, replay = Random(seed), Replay(ledger, shared=True)
        agents, twins = [*_agents(clients, rng, ledger)], [*_twins(instances, rng, ledger)]
        storm = Instances(
            faults, rng, ledger, agents, report, replay, postgres, wires, Twins(ledger, twins), Endpoint()
        )
        storm.instances += [_instance(storm, workspace, number) for number in range(instances)]
        storm.readers += _readers(storm)
        try:
            await storm.run(seconds)
        finally:
            for text in await asyncio.to_thread(lambda: list(storm.explanation())):
                report(text)
            report(storm.times())
        return storm.line(), ledger.findings


def _agents(number: int, rng: Random, ledger: Ledger) -> Iterator[Agent]:
    for n in range(number):
        name, kind, own = f"agent-{n}", Agent, {}
        if n < LONERS:
            kind, own = Loner, {"directories": (f"/srv/{name}/a", f"/srv/{name}/b")}
        elif n < LONERS + LIMITED_AGENTS:
            own = {"directories": LIMITED}
        yield kind(name, Random(rng.random()), ledger, PAUSE_SECONDS, leaves=LEAVES, **own)


def _twins(number: int, rng: Random, ledger: Ledger) -> Iterator[Twin]:
    for n in range(number):
        yield Twin(f"twin-{n}", Random(rng.random()), ledger, directories=("/srv/twins",))


def _instance(storm: Instances, workspace: Path, number: int) -> Instance:
    name, target = f"instance-{number}", storm.pair.primary.port
    assert target
    proxy = storm.network.proxy(target)
    where = Elsewhere(f"postgresql://{USER}@127.0.0.1:{proxy.port}/{DATABASE}")
    server = Supervisor(where, workspace / f"{name}.log", dict(SETTINGS))
    prober = Prober(f"prober-{number}", Random(number), storm.ledger, directories=(f"/srv/probe/{number}",))
    return Instance(name, server, proxy, prober)


def _readers(storm: Instances) -> Iterator[Reader]:
    """One never stays for long, the other one as long as its server has anything to say."""

    async def pick() -> str:
        return (await storm.pick(storm.rng)).server.url

    yield Reader("a restless reader", storm.ledger, pick, stays_seconds=2, silence_seconds=2)
    yield Reader("a faithful reader", storm.ledger, pick, stays_seconds=inf, silence_seconds=20)
