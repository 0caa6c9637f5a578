"""One server, its clients, and the weather it stands in."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from attrs import define, field

from .agents import Agent
from .calls import Calls
from .ledger import Finding, Ledger
from .replay import Replay
from .room import room
from .storm import DROPS, PAUSE_SECONDS, Report, Storm
from .supervisor import NotStarted, Supervisor
from .weather import COMMANDED, WEATHER

SETTINGS = {"APP_TASK_RESTART_GRACE_SECONDS": "1", "LOG_LEVEL": "warning"}


@define(eq=False)
class Chaos(Storm):
    one: Supervisor
    clock_was_set: bool = False
    _forecast: list[str | None] = field(factory=list)  # the weather to come; the server is started fit for the next

    async def begin(self) -> None:
        self._look_ahead()
        await self.revive()

    async def end(self) -> None:
        if self.one.running:
            await self.one.terminate()

    @property
    def record(self) -> Path:
        return self.one.room.database

    async def server(self, agent: Agent) -> Supervisor:
        await self.one.serving.wait()
        return self.one

    async def round(self) -> None:
        """The weather that is due, and a kill in the middle of it or shortly after."""
        weather = self._forecast.pop()
        await self.a_while(0, 0.5)
        self.must_run("by itself")
        if weather:
            self.counts[weather] += 1
            await WEATHER[weather](self)
        self._look_ahead()
        await self.revive()
        if "kill" in self.faults:
            await self.a_while(0, 0.5)
            await self.kill()
            await self.revive()

    def _look_ahead(self) -> None:
        """Everything comes in turn, and two rounds of nothing but a kill."""
        if not self._forecast:
            weathers = [fault for fault in self.faults if fault != "kill"]
            self._forecast = [None, None, *self.rng.sample(weathers, len(weathers))]

    async def calm(self) -> None:
        if self.one.commanded:
            await self.one.tell("slow 0 0")

    async def last_look(self) -> None:
        pass

    # What the weather is made of

    async def kill(self) -> None:
        if "kill" in self.faults and self.one.running:
            self.counts["kill"] += 1
            await self.one.kill()

    async def revive(self) -> None:
        """The server runs again, if it had died."""
        if self.one.running:
            return
        if self.clock_was_set:
            self.ledger.jumps.append(time.monotonic())
            self.clock_was_set = False
        faulty = bool(self.one.offset_seconds) or self._forecast[-1] in COMMANDED or "kill" not in self.faults
        try:
            await self.one.start(commanded=faulty)
        except NotStarted as error:
            self.ledger.find("stuck", f"the server did not start: {error}")
            raise

    async def dies_of(self, what: str) -> None:
        """The server is about to meet its end, which it says by exit status 1."""
        if (status := await self.one.ended()) != 1:
            self.ledger.find("answer", f"after a {what} it ended with {status}: {self.one.last_words()}")

    def must_run(self, when: str) -> None:
        if not self.one.running:
            status, words = self.one.exit_status, self.one.last_words()
            self.ledger.find("stuck", f"the server ended {when}, with exit status {status}: {words}")

    def numbers(self) -> dict[str, object]:
        starts = {"starts": self.one.starts, "exits": self.counts["exits"]}
        return super().numbers() | starts | {"turned-down": self.ledger.turned_down}


async def wreak(
    seconds: float, faults: Sequence[str], seed: int, clients: int, workspace: Path, report: Report
) -> tuple[str, list[Finding]]:
    """The closing line, and what was found; `report` is told how it goes, and in the end what explains the findings."""
    rng = Random(seed)
    drops = DROPS if "drop-connections" in faults else 0
    with Calls.kept_in(workspace) as calls, room() as place:
        report(f"seed={seed}, the database is {place.kind}")
        ledger = Ledger(calls)
        agents = [Agent(f"agent-{n}", Random(rng.random()), ledger, PAUSE_SECONDS, drops) for n in range(clients)]
        server = Supervisor(place, workspace / "server.log", SETTINGS)
        chaos = Chaos(faults, rng, ledger, agents, report, Replay(ledger), server)
        try:
            await chaos.run(seconds)
        finally:
            for text in await asyncio.to_thread(lambda: list(chaos.explanation())):
                report(text)
        return chaos.line(), ledger.findings
