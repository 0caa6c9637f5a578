"""What the attempts at a task print: taken from who works on it, read in pages or followed as it comes."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal, TypedDict

from aiohttp.web import Request, Response, StreamResponse
from aiohttp_sse import EventSourceResponse, sse_response
from attrs import define

from dispatcher.errors import RecordFailed, TaskNotFound
from dispatcher.hub import Closed, Listener, LostTouch, about_task
from dispatcher.messages import Log
from dispatcher.ports import LogLine
from dispatcher.record import LogPage
from dispatcher.task import FINAL, Status
from web.access.redaction import over_payloads
from web.answers import ok
from web.bodies import Logs
from web.codec import encode, rfc3339
from web.delivery import PING_SECONDS, delivering
from web.negotiation import choose
from web.resuming import last_event_id
from web.service import Service

PAGE_LINES = 1000
FOLLOWED_LINES = 200  # read and sent at a time, so that many readers of long lines take little memory
BUNDLE_BYTES = 64 * 1024  # about so much is written at once: a slow reader has the whole timeout for each


class Line(TypedDict):
    number: int
    attempt: int
    at: str
    line: str


class Accepted(TypedDict):
    task_id: str
    accepted: int
    last_number: int


class End(TypedDict):
    task_id: str
    status: Status | Literal["deleted"]


class Page(TypedDict):
    task_id: str
    lines: list[Line]
    next_after: int


async def append(service: Service, asked: Log, request: Request) -> Response:
    """Add lines to the log of a task that the caller is working on."""
    task = await service.ask(asked)
    said: Accepted = {"task_id": task.task_id, "accepted": len(asked.lines), "last_number": task.log_lines}
    return ok(said, service.clock())


async def read(service: Service, asked: Logs, request: Request) -> StreamResponse:
    """A page of a task's log, or with `follow` a stream of it until nothing more will come."""
    header = last_event_id(request)
    after = asked.after if header is None else header
    choose(request, ["text/event-stream" if asked.follow else "application/json"])
    if asked.follow:
        return await _Follower(service, asked, after).answer(request)
    page = await _page(service, asked, after, asked.limit or PAGE_LINES)
    if page is None:
        raise TaskNotFound(asked.task_id)
    next_after = page.lines[-1].number if page.lines else after
    said: Page = {"task_id": asked.task_id, "lines": lines(page.lines), "next_after": next_after}
    return ok(said, service.clock())


def lines(printed: Sequence[LogLine]) -> list[Line]:
    texts = [it.line for it in printed]
    seen = hide.lines(texts) if (hide := over_payloads()) else texts
    return [
        {"number": it.number, "attempt": it.attempt, "at": rfc3339(it.at), "line": text}
        for it, text in zip(printed, seen, strict=True)
    ]


async def _page(service: Service, asked: Logs, after: int, limit: int) -> LogPage | None:
    return await service.record.log(asked.task_id, after, limit, asked.attempt)


@define
class _Follower:
    """A reader that hears what is printed until nobody will print any more: over all attempts, until the task is
    final or gone; or of one attempt, until that is over. An `end` says so. A stream that ends without one is to be
    opened again."""

    service: Service
    asked: Logs
    number: int  # of the last line that was sent, or was had before

    async def answer(self, request: Request) -> StreamResponse:
        with self.service.streaming("logs"), self.service.hub.listen(about_task(self.asked.task_id)) as heard:
            page = await self._next()
            if page is None:
                raise TaskNotFound(self.asked.task_id)
            timeout = self.service.settings.server.request_timeout_seconds
            async with sse_response(request, sep="\n", send_timeout=timeout, ping_interval=PING_SECONDS) as events:
                with suppress(ConnectionError, TimeoutError, RecordFailed, Closed):
                    await self._follow(heard, events, request, page)
        return events

    async def _follow(
        self, heard: Listener, events: EventSourceResponse, request: Request, page: LogPage | None
    ) -> None:
        while page is not None:
            if self.service.draining.is_set():
                return
            for number, frames in _bundles(page.lines):
                await self._send(events, request, frames)
                self.number = number
            if len(page.lines) < FOLLOWED_LINES:
                if self._is_over(page):
                    break
                with suppress(LostTouch):
                    await heard.next()
            heard.clear()  # whatever was said up to now is on the next page
            page = await self._next()
        end: End = {"task_id": self.asked.task_id, "status": page.status if page else "deleted"}
        await self._send(events, request, b"event: end\ndata: %b\n\n" % encode(end))

    async def _next(self) -> LogPage | None:
        return await _page(self.service, self.asked, self.number, FOLLOWED_LINES)

    async def _send(self, events: EventSourceResponse, request: Request, frames: bytes) -> None:
        async with delivering(request, self.service.settings.server.request_timeout_seconds):
            await events.write(frames)

    def _is_over(self, page: LogPage) -> bool:
        if self.asked.attempt is None or page.status in FINAL:
            return page.status in FINAL
        is_running = page.attempt == self.asked.attempt and page.status is Status.WORKING
        return page.attempt >= self.asked.attempt and not is_running


def _bundles(printed: Sequence[LogLine]) -> Iterator[tuple[int, bytes]]:
    """Events to be written together, and the number of the last of them."""
    frames: list[bytes] = []
    size = 0
    for line in lines(printed):
        frames.append(b"id: %d\nevent: log\ndata: %b\n\n" % (line["number"], encode(line)))
        size += len(frames[-1])
        if size > BUNDLE_BYTES or line["number"] == printed[-1].number:
            yield line["number"], b"".join(frames)
            frames, size = [], 0
