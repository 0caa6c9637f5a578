"""The event feed: of everything, or of one task; as a stream that goes on, or page by page."""

import asyncio
from contextlib import suppress
from itertools import count
from typing import TypedDict

from aiohttp.web import Request, Response, StreamResponse
from aiohttp_sse import EventSourceResponse
from attrs import define, evolve, field

from dispatcher.errors import RecordFailed, TaskNotFound
from dispatcher.record import EventFilter, Stretch
from dispatcher.task import Status
from web.access.calling import caller
from web.access.redaction import over_payloads
from web.answers import ok
from web.bodies import EventsQuery, TaskEventsQuery
from web.codec import Fault, Invalid
from web.delivery import PING_SECONDS, delivering
from web.feed import Batch, frame, framed, joined
from web.negotiation import prefers
from web.resuming import last_event_id
from web.service import Service
from web.views import Event, all_shown, event

RETRY_MS = 2000  # a browser that has lost the connection comes again after so long
READ_MAX = 500  # entries read from the record at a time for a stream
PAGE_SIZE = 100  # events of a page, if it is not said
STRETCHES_MAX = 10  # stretches of the record looked through for one page; the next page goes on from there
POSITION_EVERY = 1000  # a filtered reader is told where it stands after so many events that were not for it

Gap = TypedDict("Gap", {"from": int, "to": int})


class EventPage(TypedDict):
    events: list[Event]
    next_after: int
    gap: Gap | None


async def events(service: Service, asked: EventsQuery, request: Request) -> StreamResponse:
    """What happens to tasks, directories and the server: server-sent events, or a page if JSON is asked for."""
    header = last_event_id(request)
    after = asked.after if header is None else header
    if prefers(request, "application/json", "text/event-stream"):
        return await page(service, asked, after)
    if asked.limit is not None:
        raise Invalid([Fault("limit", "is for pages only: ask for them with Accept: application/json")])
    cursor = service.feed.last if after is None else after
    only = evolve(asked.filter(), reach=caller.get().reach)
    reader = Reader(service, request, only, cursor, tells_gaps=after is not None)
    return await reader.stream(await reader.next())


async def task_events(service: Service, asked: TaskEventsQuery, request: Request) -> StreamResponse:
    """What has happened to one task and what happens to it, until it is completed, cancelled or deleted."""
    header = last_event_id(request)
    after = asked.after if header is None else header
    task = await service.record.task(asked.task_id)
    if task is None and after is None:
        raise TaskNotFound(asked.task_id)
    only = EventFilter(task_id=asked.task_id, reach=caller.get().reach)
    reader = Reader(service, request, only, after or 0, tells_gaps=after is not None)
    reader.is_over = task is None or task.status in (Status.COMPLETED, Status.CANCELLED)
    first = await reader.next()
    if reader.is_over and after is not None and not first.frames:
        if task is None:
            raise TaskNotFound(asked.task_id)
        return Response(status=204)  # which keeps a browser from coming again and again
    return await reader.stream(first)


async def page(service: Service, asked: EventsQuery, after: int | None) -> Response:
    """Where few events match, fewer than `limit` may come although there are more: it goes on from `next_after`."""
    limit, only, cursor = asked.limit or PAGE_SIZE, asked.filter(), after or 0
    said: EventPage = {"events": [], "next_after": cursor, "gap": None}
    for number in count(1):
        stretch = await service.record.events(cursor, limit - len(said["events"]), only)
        if after is not None and (gap := gap_before(stretch, cursor)):
            said["gap"] = gap
        said["events"] += await all_shown(stretch.entries, event)
        cursor = min(stretch.up_to, stretch.last)
        if len(said["events"]) == limit or cursor == stretch.last or number == STRETCHES_MAX:
            break
    said["next_after"] = cursor
    return ok(said, service.clock())


def gap_before(stretch: Stretch, cursor: int) -> Gap | None:
    """What lies behind the cursor and is not there: it has been removed, or the record is not the one that the cursor
    comes from."""
    if cursor < stretch.first - 1:
        return {"from": cursor + 1, "to": stretch.first - 1}
    return {"from": stretch.last + 1, "to": cursor} if cursor > stretch.last else None


@define
class Reader:
    """One stream. `cursor`: what lies up to there has been sent, or is not for it."""

    service: Service
    request: Request
    only: EventFilter
    cursor: int
    tells_gaps: bool  # it has said where it wants to begin
    is_over: bool = False  # of one task: nothing more will happen to it
    told: int = field(init=False)  # the id that the client would come again with

    def __attrs_post_init__(self) -> None:
        self.told = self.cursor

    async def stream(self, first: Batch) -> StreamResponse:
        with self.service.streaming("feed"):
            return await self._stream(first)

    async def _stream(self, first: Batch) -> StreamResponse:
        timeout = self.service.settings.server.request_timeout_seconds
        response = EventSourceResponse(sep="\n", send_timeout=timeout, ping_interval=PING_SECONDS)
        response.headers["Cache-Control"] = "no-store"
        await response.prepare(self.request)
        # Gone, or too slow, or we cannot go on: it comes again and loses nothing.
        with self.service.feed.reading(), suppress(ConnectionError, TimeoutError, RecordFailed):
            async with response:
                await self._write(response, b"retry: %d\n%s\n" % (RETRY_MS, b"id: %d\n" % self.told))
                await self._follow(response, first)
        return response

    async def next(self) -> Batch:
        """What to send next, from the feed or, if the cursor is too old for that, from the record."""
        feed = self.service.feed
        batch = feed.take(self.cursor, self.only) if feed.reaches(self.cursor) else await self._from_record()
        self.cursor = batch.up_to
        self.is_over |= self.only.task_id is not None and batch.is_end
        self.tells_gaps = True
        return batch

    async def _follow(self, response: StreamResponse, batch: Batch) -> None:
        feed = self.service.feed
        while True:
            if batch.frames:
                await self._write(response, batch.frames)
                self.told = batch.last or self.told
            elif self.cursor - self.told >= POSITION_EVERY:
                self.told = self.cursor
                await self._write(response, b"id: %d\n\n" % self.told)
            elif self.cursor >= feed.last:
                if self.is_over or feed.closed:
                    return
                await feed.news()
            batch = await self.next()

    async def _from_record(self) -> Batch:
        async with self.service.feed.reading_record:
            stretch = await self.service.record.events(self.cursor, READ_MAX, self.only)
        gap = gap_before(stretch, self.cursor)
        if gap is None or not self.tells_gaps:
            frames = map(framed, stretch.entries)
            if over_payloads():  # to look for what is hidden may take long
                return await asyncio.to_thread(joined, frames, stretch.up_to)
            return joined(frames, stretch.up_to)
        end = min(gap["to"], stretch.last)
        return Batch(frame(end, "gap", gap), end, end)

    async def _write(self, response: StreamResponse, frames: bytes) -> None:
        async with delivering(self.request, self.service.settings.server.request_timeout_seconds):
            await response.write(frames)
