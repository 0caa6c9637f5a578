"""Several servers, all asked at once, on one PostgreSQL. Nobody can foretell the answers; what must be true is."""

import asyncio
import os
from collections import Counter
from importlib.resources import files
from random import Random
from typing import Any

import asyncpg
import pytest

from dispatcher.errors import Refusal
from dispatcher.fields import Priority
from dispatcher.messages import (
    Cancel,
    Claim,
    Complete,
    Create,
    CreateMany,
    Delete,
    Draft,
    Edit,
    Fail,
    Heartbeat,
    Held,
    Message,
    Regulate,
    Release,
    Retry,
    SteerMany,
    Tick,
)
from dispatcher.rules import Rules
from dispatcher.task import Task
from storage.postgres.versions import migrate
from storage.steps import steps
from tests.dispatcher.audit import Audit
from tests.dispatcher.instances import Instances
from tests.postgres import Cluster
from tests.storage.counted import agree_with_the_history
from tests.storage.mirror import empty

STEPS = steps(files("storage.postgres"))
SEEDS = range(int(os.environ.get("SHARED_CROWDS", "3")))
ROUNDS, AT_ONCE = 12, 40
PATHS = ("/a", "/b", "/c")
TAGS: list[tuple[str, ...]] = [(), (), ("x",), ("x", "y")]
FREED = ("task.completed", "task.failed", "task.cancelled", "task.retried", "task.released", "task.lease_expired")


class Crowd:
    """Says whatever comes to its mind, mostly about what it has heard of."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.tasks: dict[str, Task] = {}

    def hear(self, answer: Any) -> None:
        for task in answer if isinstance(answer, tuple) else [getattr(answer, "task", answer)]:
            if isinstance(task, Task):
                self.tasks[task.task_id] = task

    def message(self) -> Message[Any]:
        pick = self.chance.choice
        say = pick([self._new] * 4 + [self._claim] * 5 + [self._report] * 6 + [self._steer] * 3 + [self._rule])
        return say() if self.tasks or say in (self._claim, self._rule) else self._new()

    def _new(self) -> Message[Any]:
        pick, some = self.chance.choice, [*self.tasks]
        fields: dict[str, Any] = {
            "work_directory": pick(PATHS),
            "prompt": "do it",
            "priority": pick([*Priority]),
            "tags": pick(TAGS),
            "timeout_seconds": pick([2, 3600]),
            "delay_seconds": pick([None, None, 1]),
            "on_dependency_failure": pick(["wait", "cancel", "run"]),
            "depends_on": tuple({pick(some), pick(some)}) if some and self.chance.random() < 0.4 else (),
        }
        if self.chance.random() < 0.3:
            return CreateMany((Draft(**fields, ref="0"), Draft(**fields | {"depends_on": ("ref:0",)})), atomic=True)
        return Create(**fields, idempotency_key=pick([None, None, f"k{self.chance.randrange(50)}"]), request_digest="d")

    def _claim(self) -> Message[Any]:
        pick = self.chance.choice
        return Claim(
            work_directories=pick([("/a",), ("/b", "/a"), PATHS]),
            worker_id=pick(["ann", "bob"]),
            limit=pick([1, 1, 3]),
            tags=pick(TAGS),
            wait_seconds=pick([0, 0, 2]),
            claim_id=pick([None, None, "c1", "c2"]),
        )

    def _report(self) -> Message[Any]:
        pick = self.chance.choice
        task = pick([it for it in self.tasks.values() if it.lease_token] or [*self.tasks.values()])
        lease: dict[str, Any] = {"task_id": task.task_id, "lease_token": task.lease_token or "none"}
        reports: list[Message[Any]] = [
            Complete(**lease),
            Complete(**lease, status="failed"),
            Fail(**lease, error_message="no", retryable=True),
            Release(**lease),
            Heartbeat(**lease),
            Held(worker_id="ann", work_directory="/a"),
        ]
        return pick(reports)

    def _steer(self) -> Message[Any]:
        pick, some = self.chance.choice, [*self.tasks]
        name = pick(some)
        steering: list[Message[Any]] = [
            Cancel(task_id=name, force=True),
            Retry(task_id=name),
            Delete(task_id=name),
            Edit(task_id=name, priority=Priority.HIGH, tags=("y",)),
            SteerMany(task_ids=tuple({pick(some) for _ in range(5)}), action=pick(["cancel", "retry", "delete"])),
        ]
        return pick(steering)

    def _rule(self) -> Message[Any]:
        pick = self.chance.choice
        path = pick(PATHS)
        return Regulate(work_directory=path, max_working=pick([1, 2, None]), paused=pick([False, False, True]))


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_several_servers_are_asked_at_once_the_record_is_whole(
    cluster: Cluster, postgres_url: str, seed: int
) -> None:
    pg = await asyncpg.connect(postgres_url)
    await migrate(pg, STEPS)
    await empty(pg)
    world = Instances(postgres_url, pg, 3, rules=Rules(max_concurrent_tasks=[0, 4][seed % 2], restart_grace_seconds=0))
    await world.start()
    try:
        await keep_asking(world, Crowd(seed))
    finally:
        await world.end()
        await pg.close()


async def keep_asking(world: Instances, crowd: Crowd) -> None:
    audit = Audit(world)
    asked: list[asyncio.Task[Any]] = []
    for _ in range(ROUNDS):
        world.now += crowd.chance.choice([0, 500, 1000, 2000])
        fresh = []
        for _ in range(AT_ONCE):
            world.at = crowd.chance.randrange(3)
            fresh.append(world.ask(crowd.message()))
        for place in range(3):
            world.at = place
            fresh.append(world.ask(Tick()))
        for instance in world.all:
            await instance.settle()
        news = True
        while news:
            news = any([await world.tell(place) for place in range(3)])
        asked += fresh
        for ask in [ask for ask in asked if ask.done()]:
            asked.remove(ask)
            if not isinstance(ask.exception(), Refusal):
                crowd.hear(ask.result())
        await world.read()
        audit.record()
        limits_held(world)
    agree_with_the_history(world.db)
    await world.end()
    async with asyncio.timeout(10):
        await asyncio.gather(*asked, return_exceptions=True)


def limits_held(world: Instances) -> None:
    """No line of the history tells of a task handed out where it must not be: the lines are in the order of the
    commits."""
    working: Counter[str] = Counter()
    most: dict[str, int | None] = {}
    paused: set[str] = set()
    held: set[str] = set()
    lines = "select type, task_id, work_directory, json_extract(details, '$.max_working') from history order by seq"
    for type, task_id, path, max_working in world.db.execute(lines):
        if type == "directory.updated":
            most[path] = max_working
        elif type == "directory.paused":
            paused.add(path)
        elif type == "directory.resumed":
            paused.discard(path)
        elif type == "task.claimed":
            assert path not in paused
            working[path] += 1
            held.add(task_id)
            assert most.get(path) is None or working[path] <= (most[path] or 0)
            assert not world.rules.max_concurrent_tasks or working.total() <= world.rules.max_concurrent_tasks
        elif type in FREED and task_id in held:
            held.remove(task_id)
            working[path] -= 1
