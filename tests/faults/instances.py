"""Several equal servers on one PostgreSQL, which has a standby; between each of them and the database a bad network."""

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from attrs import define, field

from tests.replication import Pair

from .agents import Agent
from .gales import DATABASE, GALES
from .listeners import Endpoint, Reader
from .proxy import Network, Proxy
from .replay import HEARD_OF_MS
from .storm import Storm
from .supervisor import NotStarted, Supervisor
from .visitors import Prober, Twins
from .wire import Connection

KILLS = 0.15  # the share of the times when something is wrong in which a server is killed besides
LIMITED = ("/srv/limited",)
MAX_WORKING = 2  # there
MAX_CONCURRENT_TASKS = 20  # everywhere
LIMIT_EVERY = 6  # rounds it is set, or taken away
RECOVERY_SECONDS = 30
CATCH_UP_SECONDS = 30  # for those who only listen, once nothing happens any more


@define(eq=False)
class Instance:
    name: str
    server: Supervisor
    proxy: Proxy
    prober: Prober
    paused: bool = False

    @property
    def is_serving(self) -> bool:
        return self.server.serving.is_set() and not self.paused


@define(eq=False)
class Instances(Storm):
    pair: Pair
    network: Network
    twins: Twins
    endpoint: Endpoint
    instances: list[Instance] = field(factory=list, init=False)
    readers: list[Reader] = field(factory=list, init=False)
    recoveries: defaultdict[str, list[float]] = field(factory=lambda: defaultdict(list), init=False)  # in seconds
    _forecast: list[str] = field(factory=list, init=False)
    _limit: int = field(default=0, init=False)
    _whereabouts: dict[Agent, Instance] = field(factory=dict, init=False)
    _meeting: "asyncio.Task[None]" = field(init=False)  # of the twins
    _beside: "list[asyncio.Task[None]]" = field(factory=list, init=False)

    async def begin(self) -> None:
        await self.endpoint.listen()
        for instance in self.instances:
            instance.server.settings |= self.endpoint.settings()
        await asyncio.gather(*(instance.server.start() for instance in self.instances))
        await self._tell(f"/api/v1/work-directories?path={LIMITED[0]}", {"max_working": MAX_WORKING})
        self._beside = [asyncio.create_task(reader.read()) for reader in self.readers]
        self._meeting = asyncio.create_task(self._keep_twins_meeting())
        self._beside.append(self._meeting)

    async def end(self) -> None:
        for beside in self._beside:
            beside.cancel()
        for outcome in await asyncio.gather(*self._beside, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.ledger.find("feed", f"whoever listens has broken off: {outcome!r}")
        for instance in self.instances:
            if instance.paused:
                self.go_on(instance)
        running = [instance.server for instance in self.instances if instance.server.running]
        await asyncio.gather(*(server.terminate() for server in running))
        await self.endpoint.close()

    async def _tell(self, path: str, body: object) -> None:
        connection = await Connection.open(self.some().server.url)
        answer = await connection.call("PATCH", path, body)
        connection.close()
        if answer.status != 200:
            self.ledger.find("answer", f"PATCH {path} with {body}: {answer}", path)

    @property
    def record(self) -> str:
        return self.pair.primary.url(DATABASE, tcp=True)

    async def server(self, agent: Agent) -> Supervisor:
        instance = await self.pick(agent.rng)
        self._whereabouts[agent] = instance
        return instance.server

    async def pick(self, rng: Random) -> Instance:
        """One that serves, as soon as there is one."""
        while True:
            if serving := [instance for instance in self.instances if instance.is_serving]:
                return rng.choice(serving)
            await asyncio.sleep(0.02)

    async def round(self) -> None:
        if not self._forecast:
            self._forecast = self.rng.sample(self.faults, len(self.faults))
        if sum(self.counts[fault] for fault in self.faults) % LIMIT_EVERY == LIMIT_EVERY // 2:
            await self._turn_limit()
        fault, began = self._forecast.pop(), time.monotonic()
        await self.a_while(0, 0.5)
        self.must_run("by itself")
        await GALES[fault](self, fault)
        self.must_run(f"after {fault}")
        self.report(f"{fault}: {time.monotonic() - began:.1f} s, recovered in {self.recoveries[fault][-1]:.2f} s")
        self.counts[fault] += 1

    async def _turn_limit(self) -> None:
        """On or off, for all servers, by one of them."""
        self._limit = 0 if self._limit else MAX_CONCURRENT_TASKS
        await self._tell("/api/v1/config", {"changes": {"task.max_concurrent_tasks": self._limit}})
        await asyncio.sleep(HEARD_OF_MS / 1000)

    @property
    def is_unfinished(self) -> bool:
        return not all(self.counts[fault] for fault in self.faults)

    async def calm(self) -> None:
        """What was left behind by the visitors, they finish themselves."""
        self._meeting.cancel()
        await asyncio.wait([self._meeting])
        visitors = [*(instance.prober for instance in self.instances), self.twins.twins[0]]
        self._beside += [asyncio.create_task(self.keep_calling(visitor)) for visitor in visitors]

    async def last_look(self) -> None:
        """Whoever only listens hears everything to the end."""
        await self.check()
        last = self.replay.last_seq
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await self._all_have_heard(last)
        for reader in self.readers:
            if reader.last < last:
                self.ledger.find("feed", f"{reader.name} has heard {reader.last} events of {last}")
        if self.endpoint.missing or max(self.endpoint.times, default=0) < last:
            heard = set(self.endpoint.times)
            missing = [seq for seq in range(1, last + 1) if seq not in heard]
            self.ledger.find("feed", f"the webhook was not told of {len(missing)} events: {missing[:20]}")

    async def _all_have_heard(self, last: int) -> None:
        while True:
            listeners = [reader.last for reader in self.readers]
            if min(*listeners, max(self.endpoint.times, default=0)) >= last and not self.endpoint.missing:
                return
            await asyncio.sleep(0.05)

    def judge(self) -> None:
        super().judge()
        for reader in self.readers:
            for seq, said in enumerate(self.replay.told, 1):
                if (heard := reader.heard.get(seq, said)) != said:
                    self.ledger.find("feed", f"{reader.name} heard {heard} as event {seq}, which is {said}")

    # What the weather is made of

    def some(self) -> Instance:
        return self.rng.choice(self.instances)

    def others(self, instance: Instance) -> list[Instance]:
        return [other for other in self.instances if other is not instance]

    async def meanwhile(self, shortest: float, longest: float) -> None:
        """Something else has gone wrong; now and then one of them is killed on top of that."""
        seconds = self.rng.uniform(shortest, longest)
        share = self.rng.random() if self.rng.random() < KILLS and "instance-kill" in self.faults else 1
        await asyncio.sleep(seconds * share)
        if share < 1:
            self.counts["also-killed"] += 1
            await self.some().server.kill()
            await asyncio.sleep(seconds * (1 - share))

    async def recover(self, fault: str, instances: Sequence[Instance] | None = None) -> None:
        """From now on these do what they should within RECOVERY_SECONDS, and nobody lends a hand."""
        began = time.monotonic()
        instances = self.instances if instances is None else instances
        await asyncio.gather(*map(self.revive, instances))
        times = await asyncio.gather(*(self._recovery(instance, fault, began) for instance in instances))
        self.recoveries[fault].append(max(times))

    async def _recovery(self, instance: Instance, fault: str, began: float) -> float:
        while not await instance.prober.probe(instance.server.url):
            if time.monotonic() > began + RECOVERY_SECONDS:
                words = instance.server.last_words()
                text = f"{RECOVERY_SECONDS} s after {fault} {instance.name} does not work: {words}"
                self.ledger.find("stuck", text, instance.prober.name)
                break
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def revive(self, instance: Instance) -> None:
        if not instance.server.running:
            try:
                await instance.server.start()
            except NotStarted as error:
                self.ledger.find("stuck", f"{instance.name} did not start: {error}")
                raise

    def pause(self, instance: Instance) -> None:
        """It stands still, and its clients notice after a while."""
        os.kill(instance.server.pid, signal.SIGSTOP)
        instance.paused = True
        asyncio.get_running_loop().call_later(1, self._desert, instance)

    def _desert(self, instance: Instance) -> None:
        for agent, where in self._whereabouts.items():
            if where is instance:
                agent.cut(reset=False)

    def go_on(self, instance: Instance) -> None:
        with suppress(ProcessLookupError):
            os.kill(instance.server.pid, signal.SIGCONT)
        instance.paused = False

    def must_run(self, when: str) -> None:
        for instance in self.instances:
            if not instance.server.running:
                status, words = instance.server.exit_status, instance.server.last_words()
                text = f"{instance.name} ended {when}, with exit status {status}: {words}"
                self.ledger.find("stuck", text)

    async def _keep_twins_meeting(self) -> None:
        while True:
            serving = [instance.server.url for instance in self.instances if instance.is_serving]
            if len(serving) > 1:
                await self.twins.meet(serving)
            await asyncio.sleep(0.1)

    def numbers(self) -> dict[str, object]:
        return super().numbers() | {
            "also-killed": self.counts["also-killed"],
            "starts": sum(instance.server.starts for instance in self.instances),
            "passed-over": self.replay.turns.passes,
            "same-passed-over": self.replay.turns.most_passes,
            "twins": self.twins.times,
            "most-working": self.replay.most_seen,
            "feeds": sum(reader.connections for reader in self.readers),
            "told-again": self.endpoint.repeated,
        }

    def times(self) -> str:
        """The longest recovery from each fault."""
        return "recovery " + " ".join(f"{fault}={max(times):.2f}s" for fault, times in sorted(self.recoveries.items()))
