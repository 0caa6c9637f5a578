"""Tells an endpoint outside of every event, from the record and in its order, again and again until it is taken.

What has been told is kept in the record too, so that nothing is lost while the server is away: at least once, and
the id of an event tells the receiver what it has had already.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from random import random
from sys import maxsize
from typing import Protocol, TypedDict

from attrs import define, field

from dispatcher.errors import RecordFailed
from dispatcher.hub import Announced
from dispatcher.ports import Clock, Entry
from dispatcher.record import EventFilter, Record
from web.codec import encode
from web.outbound import NotDelivered, Post, endpoint
from web.settings import Webhooks
from web.views import event, moment

WINDOW = 16  # events on their way at once
FIRST_DELAY_SECONDS = 1  # after a failure; doubles up to
DELAY_MAX_SECONDS = 300
PATIENCE_SECONDS = 60  # of nothing but failures; then it shows in the health
PARKED_AFTER_SECONDS = 3600  # of nothing but failures; then it is tried only so often:
PARKED_DELAY_SECONDS = 3600
KEEP_SECONDS = 1  # between two notes of how far it has been told

log = logging.getLogger(__name__)


class Places(Protocol):
    """Where it is kept how far the endpoint has been told. Raises RecordFailed."""

    async def webhook_place(self) -> int | None:
        """The seq of the last event it was told of; None if there is no endpoint."""

    async def keep_webhook_place(self, seq: int | None) -> None: ...


class WebhookHealth(TypedDict):
    healthy: bool
    configured: bool
    parked: bool
    failing_since: str | None
    last_error: str | None
    told_up_to: int | None


def _changes_webhooks(entry: Entry) -> bool:
    return entry.type == "config.changed" and any(key.startswith("webhooks.") for key in entry.details["changes"])


@define(eq=False)
class Courier:
    record: Record
    places: Places
    clock: Clock
    since: int  # a new endpoint is told of what is behind this seq: where its settings began to hold
    connect: Callable[[Webhooks], AbstractAsyncContextManager[Post]] = endpoint
    settings: Webhooks = field(factory=Webhooks)
    place: int | None = None  # told up to here
    kept: int | None = None  # as the record knows it
    kept_at: int = 0
    failures: int = 0  # since the last success
    failing_since: int | None = None
    parked: bool = False
    last_error: str | None = None
    _heard: int = field(init=False)  # of everything up to here
    _news: asyncio.Event = field(factory=asyncio.Event)
    _changed: asyncio.Event = field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self._heard = self.since

    def hear(self, changes: Announced) -> None:
        """Something has been committed."""
        for change in changes:
            if entry := change.entry:
                self._heard = max(self._heard, entry.seq)
                if _changes_webhooks(entry):
                    self.since = entry.seq
        self._news.set()

    def adopt(self, settings: Webhooks) -> None:
        """From now on these hold."""
        if settings != self.settings:
            self.settings = settings
            self._changed.set()
            self._news.set()

    def health(self) -> WebhookHealth:
        since = self.failing_since
        return {
            "healthy": not self.parked and (since is None or self.clock() - since < PATIENCE_SECONDS * 1000),
            "configured": self.settings.url is not None,
            "parked": self.parked,
            "failing_since": moment(self.failing_since),
            "last_error": self.last_error,
            "told_up_to": self.place,
        }

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                try:
                    await self._follow_settings()
                except Exception:  # the record cannot be read or written, or we are at fault: nothing is lost by it
                    log.exception("webhooks: telling is interrupted")
                    await asyncio.sleep(FIRST_DELAY_SECONDS)
        finally:
            with suppress(RecordFailed, TimeoutError):
                await self._keep()

    async def _follow_settings(self) -> None:
        place = await self.places.webhook_place()
        self._changed.clear()
        settings = self.settings  # as they are by now: it may have been long until it was for this server to tell
        self.failures, self.failing_since, self.parked, self.last_error = 0, None, False, None
        kept, told = place, self.place
        if kept is not None and kept == self.kept and told is not None:
            place = max(kept, told)  # nobody else has told anything since
        self.place, self.kept = place, kept
        if settings.url is None:
            self.place = None
            await self._keep()
            await self._changed.wait()
            return
        if self.place is None:
            await self._hear_what_is_on_record()
            self.place = self.since
            await self._keep()
        async with self.connect(settings) as post:
            while not self._changed.is_set():
                await self._tell_more(settings, post)

    async def _hear_what_is_on_record(self) -> None:
        """By then also since when the settings hold, unless they change again."""
        last = (await self.record.events(maxsize, 1, EventFilter())).last
        while self._heard < last and not self._changed.is_set():
            self._news.clear()
            await self._news.wait()

    async def _tell_more(self, settings: Webhooks, post: Post) -> None:
        assert self.place is not None
        self._news.clear()
        stretch = await self.record.events(self.place, WINDOW, EventFilter(types=settings.events))
        if self.place < stretch.first - 1:
            log.error("webhooks: events %s to %s are no longer on record", self.place + 1, stretch.first - 1)
        if stretch.entries and not await self._tell(stretch.entries, post):
            return
        self.place = stretch.up_to
        if self.clock() - self.kept_at >= KEEP_SECONDS * 1000:
            await self._keep()
        if stretch.up_to >= stretch.last:
            await self._rest()

    async def _rest(self) -> None:
        """Until there is news; if it does not come soon, what has been told is kept first."""
        if self.place != self.kept:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_SECONDS):
                    await self._news.wait()
                    return
            await self._keep()
        await self._news.wait()

    async def _tell(self, entries: Sequence[Entry], post: Post) -> bool:
        """Whether all of them were taken; if not, the settings have changed."""
        while entries:
            outcomes = await self._all(post(str(entry.seq), encode(event(entry))) for entry in entries)
            if outcomes is None:
                return False
            failed = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome is not None]
            if len(failed) < len(entries):
                self._succeeded()
            if failed and await self._interrupted(self._failed([it for it in outcomes if it is not None])):
                return False
            entries = failed
        return True

    async def _all(self, said: Iterable[Awaitable[None]]) -> list[BaseException | None] | None:
        """What came of each; None if the settings changed before."""

        async def all_of_it() -> list[BaseException | None]:
            return await asyncio.gather(*said, return_exceptions=True)

        work, change = asyncio.create_task(all_of_it()), asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({work, change}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            for job in (change, work):
                job.cancel()
            await asyncio.wait({change, work})  # in which our own end is not mistaken for theirs

    def _succeeded(self) -> None:
        if self.failing_since is not None:
            log.warning("webhooks: the endpoint takes events again")
        self.failures, self.failing_since, self.parked, self.last_error = 0, None, False, None

    def _failed(self, errors: Sequence[BaseException]) -> float:
        """How many seconds to wait before the next attempt."""
        for error in errors:
            if not isinstance(error, NotDelivered):
                raise error
        now = self.clock()
        self.failures += 1
        self.last_error = str(errors[0])
        if self.failing_since is None:
            self.failing_since = now
            log.warning("webhooks: the endpoint takes no events: %s", self.last_error)
        gone = any(isinstance(error, NotDelivered) and error.gone for error in errors)
        if not self.parked and (gone or now - self.failing_since >= PARKED_AFTER_SECONDS * 1000):
            self.parked = True
            log.error("webhooks: the endpoint is parked: %s", self.last_error)
        doubled = min(FIRST_DELAY_SECONDS * 2.0 ** min(self.failures - 1, 20), DELAY_MAX_SECONDS)
        return PARKED_DELAY_SECONDS if self.parked else doubled * (0.8 + 0.4 * random())  # noqa: S311 - no secret

    async def _interrupted(self, seconds: float) -> bool:
        """Wait; whether the settings have changed meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        return self._changed.is_set()

    async def _keep(self) -> None:
        if self.place != self.kept:
            await self.places.keep_webhook_place(self.place)
            self.kept, self.kept_at = self.place, self.clock()
