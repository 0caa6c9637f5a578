"""Many clients call a real server for a while, in which one thing after the other goes wrong; then the record of all
calls is held against the record of the server."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from attrs import define, field

from .agents import OPEN_TASKS_MAX, Agent
from .calls import Calls
from .database import entries, reading
from .ledger import Finding, Ledger
from .record import check_effects, judge
from .replay import Replay
from .room import room
from .supervisor import NotStarted, Supervisor
from .weather import COMMANDED, WEATHER

PAUSE_SECONDS = 0.02  # on average, between two calls of an agent
DROPS = 0.02  # the share of calls that are broken off
DRAIN_SECONDS = 30  # for all tasks to come to their end once nothing goes wrong any more
REPORT_SECONDS = 10
FINDINGS_SHOWN = 5
SETTINGS = {"APP_TASK_RESTART_GRACE_SECONDS": "1", "LOG_LEVEL": "warning"}
VERDICTS = ("lost", "double", "stuck")

Report = Callable[[str], None]


@define(eq=False)
class Chaos:
    faults: Sequence[str]
    rng: Random
    server: Supervisor
    ledger: Ledger
    agents: list[Agent]
    report: Report
    replay: Replay = field(init=False)
    counts: Counter[str] = field(factory=Counter)
    clock_was_set: bool = False
    _forecast: list[str | None] = field(factory=list)  # the weather to come; the server is started fit for the next
    _checked: int = 0  # so many effects have been found in the record

    def __attrs_post_init__(self) -> None:
        self.replay = Replay(self.ledger)

    async def run(self, seconds: float) -> None:
        """Storm, calm, and judgement: what was wrong is in the ledger's findings then."""
        try:
            self._look_ahead()
            await self.revive()
            async with asyncio.TaskGroup() as group:
                for agent in self.agents:
                    group.create_task(self._keep_calling(agent))
                await self._storm(time.monotonic() + seconds)
                await self._calm()
                for agent in self.agents:
                    agent.stopped = True
        finally:
            if self.server.running:
                await self.server.terminate()
        await asyncio.to_thread(self._judge)

    async def _keep_calling(self, agent: Agent) -> None:
        while not agent.stopped:
            await self.server.serving.wait()
            await agent.work(self.server.url)
            await asyncio.sleep(agent.rng.uniform(0, 2 * PAUSE_SECONDS))

    async def _storm(self, until: float) -> None:
        shown = time.monotonic()
        while time.monotonic() < until:
            await self._round()
            await self._check()
            if time.monotonic() - shown > REPORT_SECONDS:
                shown = time.monotonic()
                self.report(self.line())

    async def _round(self) -> None:
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

    async def _calm(self) -> None:
        """Nothing goes wrong any more, nobody asks for anything new: every task must come to its end."""
        if self.server.commanded:
            await self.server.tell("slow 0 0")
        for agent in self.agents:
            agent.finishing, agent.drops = True, 0
        deadline = time.monotonic() + DRAIN_SECONDS
        while (await self._check() or self.replay.open_tasks) and time.monotonic() < deadline:
            await self.a_while(0.1, 0.2)
        for course in self.replay.open_tasks:
            self.ledger.find("stuck", f"after {DRAIN_SECONDS} s of calm: {course}", course.task_id)

    # What the weather is made of

    async def a_while(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self.rng.uniform(shortest, longest))

    async def kill(self) -> None:
        if "kill" in self.faults and self.server.running:
            self.counts["kill"] += 1
            await self.server.kill()

    async def revive(self) -> None:
        """The server runs again, if it had died."""
        if self.server.running:
            return
        if self.clock_was_set:
            self.ledger.jumps.append(time.monotonic())
            self.clock_was_set = False
        faulty = bool(self.server.offset_seconds) or self._forecast[-1] in COMMANDED or "kill" not in self.faults
        try:
            await self.server.start(commanded=faulty)
        except NotStarted as error:
            self.ledger.find("stuck", f"the server did not start: {error}")
            raise

    async def dies_of(self, what: str) -> None:
        """The server is about to meet its end, which it says by exit status 1."""
        if (status := await self.server.ended()) != 1:
            self.ledger.find("answer", f"after a {what} it ended with {status}: {self.server.last_words()}")

    def must_run(self, when: str) -> None:
        if not self.server.running:
            status, words = self.server.exit_status, self.server.last_words()
            self.ledger.find("stuck", f"the server ended {when}, with exit status {status}: {words}")

    @property
    def tasks_are_wanted(self) -> bool:
        return self.ledger.open_tasks < OPEN_TASKS_MAX

    # What came of it

    async def _check(self) -> None:
        """What has been answered up to now is in the record, and the record is in order."""
        await asyncio.to_thread(self._check_effects)
        self.ledger.open_tasks = len(self.replay.open_tasks)

    def _check_effects(self) -> None:
        answered = len(self.ledger.effects)
        with reading(self.server.room.database) as db:
            self.replay.advance(db)
        check_effects(self.replay, self._checked, answered)
        self._checked = answered

    def _judge(self) -> None:
        with reading(self.server.room.database) as db:
            self.replay.advance(db)
            judge(self.replay, db)

    def line(self) -> str:
        """What was done, and what of it is wrong."""
        found = Counter(finding.kind for finding in self.ledger.findings)
        calls = self.ledger.calls
        numbers = {f"{fault}s" if fault in ("kill", "term") else fault: self.counts[fault] for fault in self.faults}
        numbers |= {"starts": self.server.starts, "exits": self.counts["exits"]}
        numbers |= {
            "turned-down": self.ledger.turned_down,
            "unanswered": calls.unanswered,
            "calls": calls.total,
            "events": self.replay.last_seq,
            "tasks": len(self.replay.courses),
        }
        numbers |= {kind: found[kind] for kind in VERDICTS}
        numbers["other"] = found.total() - sum(found[kind] for kind in VERDICTS)
        return " ".join(f"{name}={number}" for name, number in numbers.items())

    def explanation(self) -> Iterator[str]:
        """The first findings, each with the history and the calls about its task."""
        for finding in self.ledger.findings[:FINDINGS_SHOWN]:
            yield f"{finding.kind}: {finding.text}"
            if finding.about:
                with reading(self.server.room.database) as db:
                    yield from (f"  {entry}" for entry in entries(db) if entry.task_id == finding.about)
                yield from (f"  {line}" for line in self.ledger.calls.about(finding.about))


async def wreak(
    seconds: float, faults: Sequence[str], seed: int, clients: int, report: Report
) -> tuple[str, list[Finding]]:
    """The closing line, and what was found; `report` is told how it goes, and in the end what explains the findings."""
    rng = Random(seed)
    drops = DROPS if "drop-connections" in faults else 0
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as workspace,
        Calls.kept_in(Path(workspace)) as calls,
        room() as place,
    ):
        report(f"seed={seed}, the database is {place.kind}")
        ledger = Ledger(calls)
        agents = [Agent(f"agent-{n}", Random(rng.random()), ledger, PAUSE_SECONDS, drops) for n in range(clients)]
        server = Supervisor(place, Path(workspace, "server.log"), SETTINGS)
        chaos = Chaos(faults, rng, server, ledger, agents, report)
        try:
            await chaos.run(seconds)
        finally:
            for text in chaos.explanation():
                report(text)
        return chaos.line(), ledger.findings
