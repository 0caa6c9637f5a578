"""Readers of the event feed, for the tests: each knows where it stands, as a browser does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse

from task_orchestrator.sse import Event, EventParser
from tests.web.conftest import PATIENCE_SECONDS, Api

EVENTS = "/api/v1/events"
JSON = {"Accept": "application/json"}


class Tail:
    """A stream of events, each as its type, its id and its data."""

    def __init__(self, response: ClientResponse) -> None:
        self.response, self._parser = response, EventParser()
        self._ready: list[Event] = []
        self.raw = b""

    async def next(self) -> tuple[str, int, Any] | None:
        """None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._ready:
                chunk = await self.response.content.readany()
                if not chunk:
                    return None
                self.raw += chunk
                self._ready += self._parser.feed(chunk)
        event = self._ready.pop(0)
        return event.type, int(event.id), event.json()

    async def take(self, count: int) -> list[Any]:
        """The data of so many events; each is what its frame says it is."""
        taken = []
        for _ in range(count):
            event = await self.next()
            assert event is not None, f"the stream ended after {taken}"
            type, id, data = event
            assert (data["type"], data["seq"]) == (type, id)
            taken.append(data)
        return taken

    async def until(self, type: str) -> list[Any]:
        """The data of the events up to the first one of this type."""
        taken = await self.take(1)
        while taken[-1]["type"] != type:
            taken += await self.take(1)
        return taken

    async def rest(self) -> list[Any]:
        """The data of those that come until the stream ends."""
        taken = []
        while (event := await self.next()) is not None:
            taken.append(event[2])
        return taken


@asynccontextmanager
async def tail(
    api: Api, path: str = EVENTS, *, last_event_id: int | None = None, **query: object
) -> AsyncIterator[Tail]:
    """It is open: what happens from now on is seen."""
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    params = {name: str(value) for name, value in query.items()}
    async with api.session.get(api.url + path, params=params, headers=headers) as response:
        assert response.status == 200, await response.read()
        yield Tail(response)


async def page(api: Api, **query: object) -> dict[str, Any]:
    params = {name: str(value) for name, value in query.items()}
    return (await api.call("GET", EVENTS, params=params, headers=JSON)).data


async def pages(api: Api, *, limit: int = 1000, after: int = 0, **query: object) -> list[dict[str, Any]]:
    """All events behind `after`, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        one = await page(api, after=after, limit=limit, **query)
        assert one["next_after"] >= after
        assert len(one["events"]) <= limit
        found += one["events"]
        if one["next_after"] == after:
            return found
        after = one["next_after"]


async def last_seq(api: Api) -> int:
    return (await page(api, limit=1, after=2**63 - 1))["gap"]["from"] - 1


async def cycle(api: Api, directory: str, **report: Any) -> dict[str, Any]:
    """A task is created, claimed and completed."""
    task = await api.claimed(directory)
    assert (await api.tell(task, "complete", **report)).status == 200
    return task
