"""What the handlers work with."""

import asyncio
from typing import Final

from aiohttp.web import AppKey
from attrs import define, field

from dispatcher.actor import Dispatcher
from dispatcher.hub import Hub
from dispatcher.ports import Clock, Record
from web.settings import Settings


@define(kw_only=True, eq=False)
class Service:
    dispatcher: Dispatcher
    record: Record
    hub: Hub
    clock: Clock
    settings: Settings
    version: str
    draining: asyncio.Event = field(factory=asyncio.Event)
    connections: int = 0  # open now
    started_at: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.started_at = self.clock()


SERVICE: Final = AppKey("service", Service)
