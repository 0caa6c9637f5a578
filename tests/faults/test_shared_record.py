"""The checks of several servers can fail: each finds what was done to their record, or to them."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from tests.postgres import Cluster

from . import instances
from .agents import Agent
from .instances import LIMITED, MAX_WORKING, Instances
from .ledger import Ledger
from .record import check
from .room import Elsewhere
from .supervisor import Supervisor
from .wire import Connection

SERVERS, AGENTS, LIMITED_AGENTS = 2, 8, 3
ANSWERS = 1000
LEAVES = 0.05
ANY_COMPLETION = "select min(seq) from history where type = 'task.completed'"

DAMAGE = {
    "a task is missing": "delete from tasks where arrival = (select min(arrival) from tasks)",
    "a task was made twice": """
        update tasks set prompt = (select prompt from tasks order by arrival limit 1)
        where arrival = (select max(arrival) from tasks)""",
    "a result is another": "update tasks set result = '0' where status = 'completed'",
    "an event is missing": "delete from history where seq = 20",
    "two events have changed places": """
        update history set seq = -1 where seq = 5;
        update history set seq = 5 where seq = 50;
        update history set seq = 50 where seq = -1""",
    "a claim is of another task": """
        update history set task_id = (select task_id from tasks order by arrival limit 1)
        where seq = (select max(seq) from history where type = 'task.claimed')""",
    "a lease is not known": "update history set lease_token = 'none' where type = 'task.claimed' and attempt = 1",
    "a completion is an expiry": f"update history set type = 'task.lease_expired' where seq = ({ANY_COMPLETION})",
    "a counter is off": "update work_directories set completed = completed + 1",
    "a ready tag is too many": "insert into ready_tags values ('/srv/one', 'fast', 1, 1000000)",
    "the order was not kept": "update tasks set arrival = 1000000 - arrival",
    "a limit was lower": f"""
        update history set details = '{{"max_working": {MAX_WORKING - 1}}}' where type = 'directory.updated'""",
    "there was a limit for all": """
        update history set type = 'config.changed', task_id = null, work_directory = '', at = 0,
        details = '{"changes": {"task.max_concurrent_tasks": {"to": 1}}}' where type = 'directory.updated'""",
    "the directory was paused": "update history set type = 'directory.paused' where type = 'directory.updated'",
    "the statistics are off": "update rollups set created = created + 1; delete from additions",
}


async def test_what_is_done_to_a_shared_record_is_found(cluster: Cluster, tmp_path: Path) -> None:
    """Of busy servers it is sound; with any one thing changed it is not."""
    ledger, name = Ledger(), cluster.create_database()
    await keep_busy(cluster.url(name), ledger, tmp_path)
    await asyncio.to_thread(check, cluster.url(name), ledger)
    missed = [what for what, sql in DAMAGE.items() if not await is_found(cluster, name, sql, ledger)]
    cluster.drop_database(name)
    assert not missed


async def keep_busy(url: str, ledger: Ledger, directory: Path) -> None:
    """Two servers, with clients that go from one to the other."""
    servers = [Supervisor(Elsewhere(url), directory / f"server-{number}.log") for number in range(SERVERS)]
    rng = Random()
    agents = [Agent(f"agent-{number}", Random(rng.random()), ledger, leaves=LEAVES) for number in range(AGENTS)]
    for agent in agents[:LIMITED_AGENTS]:
        agent.directories = LIMITED
    await asyncio.gather(*(server.start() for server in servers))
    try:
        connection = await Connection.open(servers[0].url)
        path = f"/api/v1/work-directories?path={LIMITED[0]}"
        assert (await connection.call("PATCH", path, {"max_working": MAX_WORKING})).status == 200
        connection.close()
        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(keep_calling(agent, servers))
            await ledger.more_answers(ANSWERS)
            for agent in agents:
                agent.stopped = True
    finally:
        await asyncio.gather(*(server.terminate() for server in servers))


async def keep_calling(agent: Agent, servers: list[Supervisor]) -> None:
    while not agent.stopped:
        await agent.work(agent.rng.choice(servers).url)


async def is_found(cluster: Cluster, name: str, damage: str, ledger: Ledger) -> bool:
    """Whether the check of a damaged copy fails."""
    copy = f"{name}_damaged"
    cluster.sql(f"create database {copy} template {name}")
    try:
        connection = await asyncpg.connect(cluster.url(copy))
        await connection.execute(damage)
        await connection.close()
        await asyncio.to_thread(check, cluster.url(copy), ledger)
    except AssertionError:
        return True
    finally:
        ledger.findings.clear()
        cluster.drop_database(copy)
    return False


class Dead:
    """An instance that does nothing any more."""

    name = "an instance"
    prober = SimpleNamespace(name="a prober", probe=lambda url: asyncio.sleep(0.01, False))
    server: Any = SimpleNamespace(url="", last_words=lambda: "", running=False, exit_status=1)


async def test_an_instance_that_does_not_recover_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "RECOVERY_SECONDS", 0.1)
    storm: Any = SimpleNamespace(ledger=Ledger())
    assert await Instances._recovery(storm, Dead(), "a fault", asyncio.get_running_loop().time()) > 0.1
    storm.instances = [Dead()]
    Instances.must_run(storm, "by itself")
    assert Counter(finding.kind for finding in storm.ledger.findings) == {"stuck": 2}
