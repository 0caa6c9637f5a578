"""What the handlers work with."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp.web import AppKey
from attrs import define, field

from dispatcher.actor import Dispatcher
from dispatcher.hub import Hub
from dispatcher.medium import Medium
from dispatcher.messages import FOREVER, Claim, Message, R
from dispatcher.ports import Clock
from dispatcher.record import Record
from web.logs import Log
from web.looks import Looks
from web.metrics import Metrics
from web.pulse import Pulse
from web.settings import Settings


@define(kw_only=True, eq=False)
class Service:
    dispatcher: Dispatcher
    record: Record
    medium: Medium
    hub: Hub
    clock: Clock
    settings: Settings
    version: str
    log: Log
    metrics: Metrics
    pulse: Pulse
    looks: Looks = field(init=False)
    draining: asyncio.Event = field(factory=asyncio.Event)
    started_at: int = field(init=False)
    requests: int = field(default=0, init=False)  # being handled now
    idle: asyncio.Event = field(factory=asyncio.Event, init=False)  # set while there are none

    def __attrs_post_init__(self) -> None:
        self.started_at = self.clock()
        self.looks = Looks(self.record, self.medium, self.clock)
        self.idle.set()

    async def ask(self, message: Message[R]) -> R:
        """The dispatcher's reply. Raises Refusal, Unavailable, or TimeoutError if the record hangs: it is unknown then
        what came of it."""
        wait_seconds = message.wait_seconds if isinstance(message, Claim) else 0
        if wait_seconds == FOREVER:
            return await self.dispatcher.ask(message)
        async with asyncio.timeout(wait_seconds + self.settings.database.timeout_seconds):
            return await self.dispatcher.ask(message)

    @contextmanager
    def handling(self) -> Iterator[None]:
        self.requests += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self.idle.set()


SERVICE: Final = AppKey("service", Service)
