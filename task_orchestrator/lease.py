"""The lease of a task that is being worked on, and what goes along with its heartbeats."""

from asyncio import Event, Lock, get_running_loop, sleep, timeout
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import frozen

from task_orchestrator.backoff import pause_after, pauses
from task_orchestrator.client import Client
from task_orchestrator.errors import Refused, Unreachable

NEWS_SECONDS = 2.0  # between two heartbeats that are sent for the sake of what there is to tell
TELL_SECONDS = 5.0  # for the last of it, once the command has ended
_LEASE_IS_GONE = frozenset({404, 409})


@frozen
class News:
    """What others may want to know of an attempt."""

    percent: float | None = None
    message: str | None = None
    session_id: str | None = None

    def since(self, told: "News") -> dict[str, Any]:
        """What a heartbeat says of it to those who have been told that."""
        said: dict[str, Any] = {}
        if (self.percent, self.message) != (told.percent, told.message):
            said["progress"] = {"percent": self.percent, "message": self.message}
        if self.session_id != told.session_id:
            said["metadata"] = {"session_id": self.session_id}
        return said


class Lease:
    """keep() renews it until it is lost or nobody needs it. stir() when `news` may be others: they are told soon."""

    def __init__(
        self,
        client: Client,
        task: Mapping[str, Any],
        seconds: float,
        *,
        told: News,
        news: Callable[[], News],
        lose: Callable[[str], None],
    ) -> None:
        self._client, self._task_id, self._token = client, task["task_id"], task["lease_token"]
        self._seconds, self._told, self._news, self._lose = seconds, told, news, lose
        self._clock = get_running_loop().time
        self._held_until = self._clock() + seconds
        self._tell_at = 0.0
        self._stirred = Event()
        self._beating = Lock()  # one at a time, so that nothing is said twice

    def stir(self) -> None:
        if not self._stirred.is_set() and self._news().since(self._told):
            self._stirred.set()

    async def keep(self) -> None:
        third = self._seconds / 3
        waits, pause, is_well = pauses(), third, True
        while True:
            await self._pause(min(pause, self._held_until - self._clock()), is_well)
            if self._clock() >= self._held_until:
                return self._lose("no heartbeat got through before the lease ran out")
            try:
                async with timeout(min(third, self._held_until - self._clock())):
                    await self._beat()
            except Refused as refusal:
                if refusal.status in _LEASE_IS_GONE:
                    return self._lose(refusal.details.get("reason") or str(refusal))
                pause, is_well = pause_after(refusal, waits), False
            except (Unreachable, TimeoutError):
                pause, is_well = next(waits), False
            else:
                waits, pause, is_well = pauses(), third, True

    async def tell(self) -> None:
        """What has not been told yet; once, for it is not worth a report."""
        if self._news().since(self._told):
            with suppress(Refused, Unreachable, TimeoutError):
                async with timeout(TELL_SECONDS):
                    await self._beat()

    async def _pause(self, seconds: float, heeds_news: bool) -> None:
        if not heeds_news:
            return await sleep(seconds)
        with suppress(TimeoutError):
            async with timeout(seconds):
                await self._stirred.wait()
                await sleep(max(0.0, self._tell_at - self._clock()))

    async def _beat(self) -> None:
        async with self._beating:
            self._stirred.clear()
            news, sent_at = self._news(), self._clock()
            said = news.since(self._told)
            self._tell_at = sent_at + NEWS_SECONDS
            try:
                await self._client.heartbeat(self._task_id, self._token, lease_seconds=self._seconds, **said)
            except Refused as refusal:
                if not refusal.temporary:
                    self._told = news  # there is no room for it, and the lease is worth more
                raise
            self._told, self._held_until = news, sent_at + self._seconds
