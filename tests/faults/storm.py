"""Many clients call one or more real servers for a while, in which one thing after the other goes wrong; then the
record of all calls is held against the record of the servers. What goes wrong, and with what, subclasses know."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from attrs import define, field

from .agents import OPEN_TASKS_MAX, Agent
from .database import entries, reading
from .ledger import Ledger
from .record import check_effects, judge
from .replay import Replay
from .supervisor import Supervisor

PAUSE_SECONDS = 0.02  # on average, between two calls of an agent
DROPS = 0.02  # the share of calls that are broken off
DRAIN_SECONDS = 30  # for all tasks to come to their end once nothing goes wrong any more
REPORT_SECONDS = 10
FINDINGS_SHOWN = 5
VERDICTS = ("lost", "double", "stuck")
PLURALS = {"kill": "kills", "term": "terms"}

Report = Callable[[str], None]


@define(eq=False)
class Storm(ABC):
    faults: Sequence[str]
    rng: Random
    ledger: Ledger
    agents: list[Agent]
    report: Report
    replay: Replay
    counts: Counter[str] = field(factory=Counter, init=False)
    _checked: int = field(default=0, init=False)  # so many effects have been found in the record

    async def run(self, seconds: float) -> None:
        """Storm, calm, and judgement: what was wrong is in the ledger's findings then."""
        try:
            await self.begin()
            async with asyncio.TaskGroup() as group:
                for agent in self.agents:
                    group.create_task(self.keep_calling(agent))
                await self._storm(time.monotonic() + seconds)
                await self._calm()
                for agent in self.agents:
                    agent.stopped = True
            await self.last_look()
        finally:
            await self.end()
        await asyncio.to_thread(self.judge)

    @abstractmethod
    async def begin(self) -> None:
        """Start what the agents call."""

    @abstractmethod
    async def round(self) -> None:
        """The weather that is due comes, and goes again."""

    @abstractmethod
    async def calm(self) -> None:
        """Nothing goes wrong any more."""

    @abstractmethod
    async def last_look(self) -> None:
        """Nobody calls any more, and the servers still run."""

    @abstractmethod
    async def end(self) -> None:
        """Stop what has begun; also in the middle of a round."""

    @property
    @abstractmethod
    def record(self) -> Path | str:
        """Where it can be read."""

    @abstractmethod
    async def server(self, agent: Agent) -> Supervisor:
        """One that the agent may call, as soon as there is one."""

    def numbers(self) -> dict[str, object]:
        """What has happened: the beginning of the closing line."""
        return {PLURALS.get(fault, fault): self.counts[fault] for fault in self.faults}

    @property
    def is_unfinished(self) -> bool:
        """There is weather that must come, however long it takes."""
        return False

    async def keep_calling(self, agent: Agent) -> None:
        while not agent.stopped:
            await agent.work((await self.server(agent)).url)
            await asyncio.sleep(agent.rng.uniform(0, 2 * PAUSE_SECONDS))

    async def _storm(self, until: float) -> None:
        shown = time.monotonic()
        while time.monotonic() < until or self.is_unfinished:
            await self.round()
            await self.check()
            if time.monotonic() - shown > REPORT_SECONDS:
                shown = time.monotonic()
                self.report(self.line())

    async def _calm(self) -> None:
        """Nothing goes wrong any more, nobody asks for anything new: every task must come to its end."""
        await self.calm()
        for agent in self.agents:
            agent.finishing, agent.drops = True, 0
        deadline = time.monotonic() + DRAIN_SECONDS
        while (await self.check() or self.replay.open_tasks) and time.monotonic() < deadline:
            await self.a_while(0.1, 0.2)
        for course in self.replay.open_tasks:
            self.ledger.find("stuck", f"after {DRAIN_SECONDS} s of calm: {course}", course.task_id)

    async def a_while(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self.rng.uniform(shortest, longest))

    @property
    def tasks_are_wanted(self) -> bool:
        return self.ledger.open_tasks < OPEN_TASKS_MAX

    # What came of it

    async def check(self) -> None:
        """What has been answered up to now is in the record, and the record is in order."""
        await asyncio.to_thread(self._check_effects)
        self.ledger.open_tasks = len(self.replay.open_tasks)

    def _check_effects(self) -> None:
        answered = len(self.ledger.effects)
        with reading(self.record) as db:
            self.replay.advance(db)
        check_effects(self.replay, self._checked, answered)
        self._checked = answered

    def judge(self) -> None:
        with reading(self.record) as db:
            self.replay.advance(db)
            judge(self.replay, db)

    def line(self) -> str:
        """What was done, and what of it is wrong."""
        found = Counter(finding.kind for finding in self.ledger.findings)
        calls = self.ledger.calls
        numbers = self.numbers() | {
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
                with reading(self.record) as db:
                    yield from (f"  {entry}" for entry in entries(db) if entry.task_id == finding.about)
                yield from (f"  {line}" for line in self.ledger.calls.about(finding.about))
