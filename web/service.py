"""What the handlers work with."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp.web import AppKey
from attrs import define, evolve, field

from dispatcher.actor import Dispatcher
from dispatcher.caller import ANYONE
from dispatcher.errors import Unavailable
from dispatcher.hub import Hub
from dispatcher.medium import Medium
from dispatcher.messages import FOREVER, Claim, Message, R
from dispatcher.ports import Clock
from dispatcher.presence import Presence
from dispatcher.record import Record
from web.access.audit import Audit
from web.access.calling import caller
from web.access.door import Door
from web.access.rates import Rates
from web.access.seen import Seen
from web.answers import RETRY_AFTER_SECONDS, Failure
from web.configuration import Configuration
from web.feed import Feed
from web.intake import Intake
from web.looks import Looks
from web.metrics import Metrics
from web.pulse import Pulse
from web.server_log import Log
from web.settings import Settings
from web.webhooks import Courier

STREAMS_MAX = 5000  # open at a time of each kind; beyond, Unavailable


@define(kw_only=True, eq=False)
class Service:
    dispatcher: Dispatcher
    whole_record: Record
    door: Door
    audit: Audit
    medium: Medium
    hub: Hub
    feed: Feed
    clock: Clock
    configuration: Configuration
    version: str
    courier: Courier
    log: Log
    metrics: Metrics
    pulse: Pulse
    rates: Rates = field(factory=Rates)
    intake: Intake = field(factory=Intake, init=False)
    looks: Looks = field(init=False)
    draining: asyncio.Event = field(factory=asyncio.Event)
    reconfiguring: asyncio.Lock = field(factory=asyncio.Lock, init=False)  # held while the settings change
    errands: set["asyncio.Task[Configuration]"] = field(factory=set, init=False)  # changes of the settings under way
    _followers: list[Callable[[Settings], None]] = field(factory=list, init=False)
    started_at: int = field(init=False)
    requests: int = field(default=0, init=False)  # being handled now
    idle: asyncio.Event = field(factory=asyncio.Event, init=False)  # set while there are none
    streams: Counter[str] = field(factory=Counter, init=False)  # open now, of each kind
    streams_of_keys: Counter[str] = field(factory=Counter, init=False)  # open now, of all kinds

    def __attrs_post_init__(self) -> None:
        self.started_at = self.clock()
        self.looks = Looks(self.whole_record, self.medium, self.clock)
        self.idle.set()
        self.follow(self.rates.adopt)

    @property
    def settings(self) -> Settings:
        """Those in force now."""
        return self.configuration.settings

    @property
    def record(self) -> Record:
        """What of the record is there for the caller to see."""
        reach = caller.get().reach
        return self.whole_record if reach is None else Seen(self.whole_record, reach)

    def follow(self, follower: Callable[[Settings], None]) -> None:
        """Tell it the settings, now and whenever they have changed. It must not wait, nor raise."""
        self._followers.append(follower)
        follower(self.settings)

    def adopt(self, configuration: Configuration) -> None:
        self.configuration = configuration
        for follower in self._followers:
            follower(self.settings)

    async def ask(self, message: Message[R]) -> R:
        """The dispatcher's reply. Raises Refusal, Unavailable, or TimeoutError if the record hangs: it is unknown then
        what came of it."""
        if (by := caller.get()) is not ANYONE:
            message = evolve(message, by=by)
        wait_seconds = message.wait_seconds if isinstance(message, Claim) else 0
        if wait_seconds == FOREVER:
            return await self.dispatcher.ask(message)
        async with asyncio.timeout(wait_seconds + self.settings.database.timeout_seconds):
            return await self.dispatcher.ask(message)

    async def present(self) -> Sequence[Presence]:
        """Who is connected to this server, and to the others on the same record as far as is known."""
        return [self.dispatcher.presence(), *((await self.looks.others()).value or ())]

    async def waiting_in(self, work_directory: str, tags: Collection[str] | None = None) -> int:
        """How many claims wait for a task of the directory, wherever; with tags, for one that bears them."""
        return sum(presence.waiting_in(work_directory, tags) for presence in await self.present())

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

    @contextmanager
    def streaming(self, kind: str) -> Iterator[None]:
        """Somebody reads a stream meanwhile; one of metrics.READERS. Raises Unavailable if there are too many, a 429
        Failure if too many are of one key."""
        if self.streams[kind] >= STREAMS_MAX:
            raise Unavailable("too many streams are open")
        with self._streaming_with(caller.get().name), self.metrics.reading(kind):
            self.streams[kind] += 1
            try:
                yield
            finally:
                self.streams[kind] -= 1

    @contextmanager
    def _streaming_with(self, key: str | None) -> Iterator[None]:
        if key is None:
            yield
            return
        most = self.settings.server.max_streams_per_key
        if self.streams_of_keys[key] >= most:
            details = {"kind": "streams", "limit": most, "retry_after_seconds": float(RETRY_AFTER_SECONDS)}
            message, retry = f"{most} streams are open with this key", {"Retry-After": RETRY_AFTER_SECONDS}
            raise Failure(429, "RATE_LIMITED", message, details, retry)
        self.streams_of_keys[key] += 1
        try:
            yield
        finally:
            self.streams_of_keys[key] -= 1
            if not self.streams_of_keys[key]:
                del self.streams_of_keys[key]


SERVICE: Final = AppKey("service", Service)
