"""Agents with a purpose: each tries one thing, again and again, on several servers."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from attrs import define

from .agents import TIMEOUT_SECONDS, Agent
from .ledger import Claim, Creation, Ledger
from .wire import Connection, Unanswered

ATTEMPT_SECONDS = 4
WAIT_SECONDS = 2  # where there is a limit, all slots may be taken for a while


@define(eq=False)
class Loner(Agent):
    """Nobody else claims where it does; so it must find the strict order there, whatever server it asks."""

    async def _open_stream(self, url: str) -> None:
        await self._claim()  # a stream would be somebody else


@define(eq=False)
class Prober(Agent):
    """Finds out whether a server does what it should."""

    finishing: bool = True

    async def probe(self, url: str) -> bool:
        """Create, claim and complete a task; whether all of it was answered."""
        with suppress(Unanswered, TimeoutError):
            async with asyncio.timeout(ATTEMPT_SECONDS):
                self._connection = await Connection.open(url)
                try:
                    await self.settle()
                    await self._create()
                    while not self.held:
                        await self._next(wait_seconds=WAIT_SECONDS)
                    while self.held:
                        await self._complete(self.held[0])
                    return True
                finally:
                    self.cut(reset=False)
        return False


@define(eq=False)
class Twin(Agent):
    """Says the same as others at the same time, each to another server."""

    finishing: bool = True

    async def connect(self, url: str) -> None:
        self._connection = await Connection.open(url)


@define(eq=False)
class Twins:
    """They create under one key, and claim by one name: that is one task, and one claim."""

    ledger: Ledger
    twins: Sequence[Twin]
    times: int = 0
    _number: int = 0

    async def meet(self, urls: Sequence[str]) -> None:
        some = self.twins[: len(urls)]
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await asyncio.gather(*map(Twin.connect, some, urls))
                await self._create(some)
                await self._claim(some)
                self.times += 1
        except (Unanswered, TimeoutError):
            pass  # whatever was created is found by the next claims, whatever was claimed expires
        finally:
            for twin in self.twins:
                twin.held.clear()
                twin.cut(reset=False)

    async def _create(self, twins: Sequence[Twin]) -> None:
        self._number += 1
        name = f"task {self._number} of the twins"
        body = {
            "work_directory": twins[0].directories[0],
            "prompt": name,
            "timeout_seconds": TIMEOUT_SECONDS,
            "delay_seconds": 0,
        }
        creation = self.ledger.creations[name] = Creation(body, time.monotonic())
        await _all(twin._send_creation(creation, {"Idempotency-Key": name}) for twin in twins)

    async def _claim(self, twins: Sequence[Twin]) -> None:
        directories = twins[0].directories
        claim = Claim(f"claim {self._number} of the twins", directories, frozenset(), time.monotonic())
        self.ledger.claims[claim.worker_id] = claim
        body = {"work_directories": directories, "limit": 1, "worker_id": claim.worker_id, "claim_id": claim.worker_id}
        await _all(partial(twin._send_claim, claim, "POST", "/api/v1/tasks/claim", body)() for twin in twins)
        held = {lease.task_id: (twin, lease) for twin in twins for lease in twin.held}
        if len(held) > 1 and not held.keys() & self.ledger.asked["cancel"]:  # then it may be given the next one
            self.ledger.find("double", f"{claim} was given {list(held)}", next(iter(held)))
        for twin, lease in held.values():
            await twin._complete(lease)


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """Each has ended; raises Unanswered if any of them was not answered."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
