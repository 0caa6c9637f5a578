"""Who only listens: readers of the feed, who go from server to server, and an endpoint of the webhook."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web
from attrs import define, field

from .ledger import Ledger
from .wire import Connection, Unanswered

SECRET = "a secret of some length"

Pick = Callable[[], Awaitable[str]]
"""The URL of a server."""


@define(eq=False)
class Reader:
    """Follows the feed from the beginning, and comes again by the number of the last event wherever that is.

    `stays_seconds`: then it leaves a server that does it no harm. `silence_seconds`: then, one that has nothing to say.
    """

    name: str
    ledger: Ledger
    pick: Pick
    stays_seconds: float
    silence_seconds: float
    heard: dict[int, tuple[str, str | None]] = field(factory=dict)  # of each event: its type and its task_id
    last: int = 0
    connections: int = 0

    async def read(self) -> None:
        """For ever."""
        while True:
            try:
                connection = await Connection.open(await self.pick())
            except Unanswered:
                await asyncio.sleep(0.05)
                continue
            self.connections += 1
            try:
                async with asyncio.timeout(self.stays_seconds):
                    await self._follow(connection)
            except TimeoutError:
                pass
            finally:
                connection.abort(reset=False)

    async def _follow(self, connection: Connection) -> None:
        async with asyncio.timeout(self.silence_seconds) as patience:
            async for event in connection.events("/api/v1/events", {"Last-Event-ID": str(self.last)}):
                patience.reschedule(asyncio.get_running_loop().time() + self.silence_seconds)
                if event.id != str(self.last + 1) or event.type == "gap":
                    self.ledger.find("feed", f"{self.name} had heard {self.last}, and then came {event}")
                self.last = int(event.id)
                self.heard[self.last] = event.type, json.loads(event.data).get("task_id")


@define(eq=False)
class Endpoint:
    """Takes what the webhook says, and counts how often it is told of each event."""

    times: Counter[int] = field(factory=Counter)
    url: str = ""
    _runner: web.AppRunner | None = None

    @property
    def missing(self) -> int:
        """How many events it has not been told of, of those before the last."""
        return max(self.times, default=0) - len(self.times)

    @property
    def repeated(self) -> int:
        return self.times.total() - len(self.times)

    async def listen(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def close(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.times[json.loads(await request.read())["seq"]] += 1
        return web.Response(status=204)

    def settings(self) -> dict[str, str]:
        """By which servers know of it."""
        return {
            "APP_WEBHOOKS_URL": self.url,
            "APP_WEBHOOKS_SECRET": SECRET,
            "APP_WEBHOOKS_ALLOW_PRIVATE": "true",
        }
