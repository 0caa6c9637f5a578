"""Every message, against several real servers on one real PostgreSQL, and against the naive one of test_model.py.

Whichever server is asked, whoever waits where, whichever is restarted or killed: the answers are those of the oracle.
What several servers may do otherwise than one is said in several.py; besides, a claim that still waits at one of them
is said again there.
"""

import asyncio
import os
from importlib.resources import files
from random import Random
from typing import Any, ClassVar

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from dispatcher.decisions import logs
from dispatcher.messages import Claim, Drain, Message, Regulate
from dispatcher.rules import Rules
from storage.postgres import fetching, upkeep
from storage.postgres.connections import Address
from storage.postgres.versions import migrate
from storage.sqlite import journal as sqlite
from storage.steps import steps
from tests.dispatcher.answers import UNAVAILABLE
from tests.dispatcher.audit import Audit
from tests.dispatcher.instances import Instances
from tests.dispatcher.several import Several
from tests.dispatcher.strategies import DIRECTORIES, everything, some_rules
from tests.dispatcher.test_model import Model, batches
from tests.dispatcher.turns import Parked
from tests.postgres import Cluster
from tests.storage.counted import agree_with_the_history
from tests.storage.mirror import empty

STEPS = steps(files("storage.postgres"))
STEP_SECONDS = 30  # that no step takes, or something hangs
IS_HUNT = "SHARED_MODEL_EXAMPLES" in os.environ  # else the same examples every time
EXAMPLES = int(os.environ.get("SHARED_MODEL_EXAMPLES", "8"))
SETTINGS = settings(max_examples=EXAMPLES, stateful_step_count=40, derandomize=not IS_HUNT)
MOVING_ON = 0.3  # how often the next of several messages is said to another server


class SharedModel(Model):
    world: Instances
    oracle: Several
    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]
    pg: "ClassVar[asyncpg.Connection[asyncpg.Record]]"

    @initialize(
        number=st.sampled_from([2, 2, 3]),
        reminded=st.booleans(),
        seed=st.integers(0, 1000),
        slice=st.sampled_from([256, 256, 1, 2]),
        log_lines_max=st.sampled_from([1000, 4]),
        log_bytes_max=st.sampled_from([1000, 2]),
        max_working=st.sampled_from([None, 1, 2]),
        rules=some_rules,
    )
    def start(
        self,
        number: int,
        reminded: bool,
        seed: int,
        slice: int,
        log_lines_max: int,
        log_bytes_max: int,
        max_working: int | None,
        rules: Rules,
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(fetching, "DEPENDANTS_SLICE", slice)
        self.patch.setattr(logs, "LOG_LINES_MAX", log_lines_max)
        self.patch.setattr(logs, "LOG_BYTES_MAX", log_bytes_max)
        self.chance = Random(seed)
        self._run(empty(self.pg))
        self.world = Instances(self.url, self.pg, number, reminded, rules)
        self.oracle = Several(rules, told_at_once=slice, log_max=(log_lines_max, log_bytes_max))
        self.audit = Audit(self.world)
        self.asked = {}
        self.expected = {}
        self.count = 0
        self.fetching = False
        self._run(self.world.start())
        self._run(self._say([Regulate(work_directory=DIRECTORIES[0], max_working=max_working)]))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self._run(self._finish())
            agree_with_the_history(self.world.db)
            self.world.db.close()
            self.patch.undo()

    # What happens otherwise

    @precondition(lambda self: self.oracle.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiting = {it.key: place for place, parked in self._waiting().items() for it in parked}
        key = data.draw(st.sampled_from(sorted(waiting)))
        self._turn_to(waiting[key])
        self._run(self._leave(key))

    @rule(last_words=st.just([]) | batches)
    def restart(self, last_words: list[Message[Any]]) -> None:
        """One server, while the others go on."""
        self._run(self._restart_one(last_words))

    @rule(message=everything())
    def restart_at_once(self, message: Message[Any]) -> None:
        for parked in list(self.oracle.parked):
            self._run(self._leave(parked.key))
        self._run(self._restart_this_at_once(message))

    @rule()
    def kill(self) -> None:
        """One server, without a word."""
        self._run(self._kill())

    @rule(seconds=st.sampled_from([0, 0.5, 1, 5]), killed=st.booleans())
    def restart_all(self, seconds: float, killed: bool) -> None:
        self._run(self._restart_all(seconds, killed))

    @rule()
    def clean_up(self) -> None:
        self._run(upkeep.remove_leftovers(self.pg))
        self._run(upkeep.add_up(self.pg))
        self.world.copied = -1
        self._run(self.world.read())

    # What must be true otherwise

    @invariant()
    def the_rules_are_those_of_the_oracle(self) -> None:
        snapshot = sqlite.load(self.world.db)
        assert snapshot.config_version == len(self.oracle.versions)
        assert not self.oracle.versions or Rules(**snapshot.runtime) == self.oracle.rules
        for instance in self.world.all:
            assert instance.dispatcher._board.config_version == len(self.oracle.versions)
            assert instance.dispatcher._board.rules == self.oracle.rules

    @invariant()
    def memory_is_bounded(self) -> None:
        """Nobody knows of a task between two batches, but all wake up in time for whatever is due."""
        (first,) = self.world.db.execute("select min(due_at) from tasks").fetchone()
        for instance in self.world.all:
            due = instance.dispatcher._board.next_due()
            assert first is None or (due is not None and due <= first)

    # How

    def _check_numbers(self, numbers: list[tuple[int, int]]) -> None:
        arrivals = [arrival for arrival, _ in numbers]
        assert arrivals == sorted(set(arrivals))
        assert numbers == sorted(numbers, key=lambda pair: pair[1])

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, STEP_SECONDS))

    def _turn_to(self, place: int) -> None:
        self.world.at = place
        self.oracle.turn_to(place)

    def _waiting(self) -> dict[int, list[Parked]]:
        return {place: parked for place, (parked, _) in self.oracle.elsewhere.items()} | {
            self.oracle.at: self.oracle.parked
        }

    async def _say(self, messages: list[Message[Any]]) -> None:
        for message in messages:
            if self._must_settle_before(message):
                await self._settle()
            place = self._place_for(message)
            if place != self.world.at:
                await self._settle()
                self._turn_to(place)
            self._ask(message)
        await self._settle()

    def _place_for(self, message: Message[Any]) -> int:
        if isinstance(message, Claim) and message.claim_id:
            name = message.claim_id, message.worker_id
            for place, parked in self._waiting().items():
                if name in [(it.claim.claim_id, it.claim.worker_id) for it in parked]:
                    return place
        return self.chance.randrange(self.world.number) if self.chance.random() < MOVING_ON else self.world.at

    def _note_served(self, from_the_record: bool) -> None:
        super()._note_served(True)

    def _ask(self, message: Message[Any]) -> None:
        self.known = False
        super()._ask(message)

    async def _settle(self) -> None:
        here = self.world.at
        await self.world.here.settle()
        self._catch_up()
        news = True
        while news:
            news = False
            for place in [*self.world.others, here]:
                self.oracle.turn_to(place)
                news |= await self.world.tell(place)
                self.oracle.hear(self.world.now)
                self._catch_up()
        self.oracle.turn_to(here)
        self.fetching = False
        await self.world.read()

    def _catch_up(self) -> None:
        self.oracle.tick(self.world.now, self._given)
        self._note_served(False)

    async def _restart_one(self, last_words: list[Message[Any]]) -> None:
        place = self.world.at
        if last_words:
            self._ask(Drain())
            await self._settle()
            await self._say(last_words)
        await self.world.all[place].leave()
        await self._replace(place)

    async def _restart_this_at_once(self, message: Message[Any]) -> None:
        self._ask(message)
        await asyncio.sleep(0)
        await self.world.here.leave()
        await self._replace(self.world.at)

    async def _kill(self) -> None:
        await self.world.here.die()
        await self._replace(self.world.at)

    async def _replace(self, place: int) -> None:
        self._turn_to(place)
        self.expected |= dict.fromkeys(self.oracle.end(), UNAVAILABLE)
        await self.world.replace(place, was_away=False)
        await self._settle()

    async def _restart_all(self, seconds: float, killed: bool) -> None:
        for place in [*self.world.others, self.world.at]:
            self._turn_to(place)
            await (self.world.here.die() if killed else self.world.here.leave())
            self.expected |= dict.fromkeys(self.oracle.end(), UNAVAILABLE)
        self.world.now += round(seconds * 1000)
        await self.world.replace(self.world.at, was_away=True)
        self.oracle.restart(self.world.now)
        await self.world.here.settle()
        for place in self.world.others:
            await self.world.replace(place, was_away=False)
        await self._settle()

    async def _finish(self) -> None:
        await self.world.end()
        await asyncio.gather(*(ask for _, ask in self.asked.values()), return_exceptions=True)


def test_several_servers_answer_as_the_oracle_does(cluster: Cluster, postgres_url: str) -> None:
    with asyncio.Runner() as runner:
        SharedModel.loop, SharedModel.url = runner.get_loop(), postgres_url
        SharedModel.pg = runner.run(Address(url=postgres_url).connect())
        runner.run(migrate(SharedModel.pg, STEPS))
        try:
            run_state_machine_as_test(SharedModel, settings=SETTINGS)
        finally:
            runner.run(SharedModel.pg.close())
