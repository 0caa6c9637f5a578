"""The worker's event stream: tasks as long as it has hands free (`assign`), or only the news of them (`notify`)."""

import asyncio
from asyncio import FIRST_COMPLETED
from asyncio import Task as Job
from contextlib import suppress
from typing import Literal, TypedDict

from aiohttp.web import Request, StreamResponse
from aiohttp_sse import EventSourceResponse, sse_response
from attrs import define, field

from dispatcher.errors import RecordFailed, Unavailable
from dispatcher.hub import Closed, Listener, LostTouch, News, about_directory, about_task, about_worker
from dispatcher.messages import FOREVER, Claim, Held
from dispatcher.task import Status, Task
from web.access.calling import caller
from web.bodies import Stream
from web.briefing import briefing
from web.codec import encode
from web.delivery import PING_SECONDS, delivering
from web.service import Service

# None: a heartbeat, or a log
REPORTS = {None, "task.progress", "task.completed", "task.failed", "task.retried", "task.released"}
LOST: dict[str | None, Literal["cancelled", "expired"]] = {
    "task.cancelled": "cancelled",
    "task.lease_expired": "expired",
}


class Lost(TypedDict):
    task_id: str
    reason: Literal["cancelled", "expired"]


class Available(TypedDict):
    work_directory: str
    waiting: int


class Over(TypedDict):
    """There will be no more tasks: the server is stopping, or the worker gives no sign of life."""


async def stream(service: Service, asked: Stream, request: Request) -> StreamResponse:
    """Send a worker its tasks as long as it has hands free (`assign`), or only the news of them (`notify`)."""
    caller.get().enter(asked.work_path)
    with service.streaming("worker"):
        return await _stream(service, asked, request)


async def _stream(service: Service, asked: Stream, request: Request) -> StreamResponse:
    timeout = service.settings.server.request_timeout_seconds
    async with sse_response(request, sep="\n", send_timeout=timeout, ping_interval=PING_SECONDS) as events:
        with (
            suppress(ConnectionError, TimeoutError, Unavailable, RecordFailed),  # the worker has gone, or we are going
            service.dispatcher.roll.present("stream", asked.worker_id, asked.work_path, service.clock),
        ):
            if asked.mode == "notify":
                await _notify(service, asked, events)
            else:
                await _Assignment(service, asked, request, events).run()
            await send(events, "drain", {})
    return events


async def send(events: EventSourceResponse, event: str, data: object) -> None:
    await events.send(encode(data).decode(), event=event)


async def _notify(service: Service, asked: Stream, events: EventSourceResponse) -> None:
    told = 0
    with service.hub.listen(about_directory(asked.work_path)) as heard:
        while True:
            heard.clear()  # what comes from here on may not be in the number yet
            waiting = await service.record.waiting(asked.work_path)
            if waiting != told:
                available: Available = {"work_directory": asked.work_path, "waiting": waiting}
                await send(events, "available", available)
                told = waiting
            try:
                await heard.next()
            except LostTouch:
                continue
            except Closed:
                return


@define
class _Assignment:
    """One worker's stream. `held` is what it works on in this directory: what came through here, and all that bears
    its name, so that a worker that connects again is not sent more than it has hands for."""

    service: Service
    asked: Stream
    request: Request
    events: EventSourceResponse
    held: dict[str, int] = field(factory=dict)  # task and attempt
    silent: bool = False  # a lease has ended unheard, and no report has come since
    suspects: set[str] = field(factory=set)  # what was sent while it was silent
    lost: tuple[str | None, int] | None = None  # the task and attempt whose lease ended last
    wanted: int = 0  # how many tasks the claim asks for
    news: "Job[News] | None" = None
    claim: "Job[tuple[Task, ...]] | None" = None

    async def run(self) -> None:
        with self.service.hub.listen() as heard:
            if self.asked.worker_id:
                self.service.hub.follow(heard, about_worker(self.asked.worker_id))
            await self._recount(heard)
            try:
                while not self.service.draining.is_set():
                    await self._turn(heard)
            except Closed:
                pass
            finally:
                self._stop()

    async def _turn(self, heard: Listener) -> None:
        """Wait for a task, if there is room for one, and for news of those held, whichever comes first."""
        room = self.asked.capacity - len(self.held)
        if self.claim and not self.claim.done() and room < self.wanted:
            self.claim.cancel()
            self.claim = None
        self.news = self.news or asyncio.create_task(heard.next())
        if room > 0 and self.claim is None:
            self.claim, self.wanted = asyncio.create_task(self.service.ask(self._claim(room))), room
        await asyncio.wait([job for job in (self.news, self.claim) if job], return_when=FIRST_COMPLETED)
        if self.claim and self.claim.done():
            tasks, self.claim = self.claim.result(), None
            await self._assign(heard, tasks)
        if self.news.done():
            news, self.news = self.news, None
            try:
                await self._note(heard, news.result())
            except LostTouch:
                await self._recount(heard)

    def _claim(self, room: int) -> Claim:
        return Claim(
            work_directories=(self.asked.work_path,),
            worker_id=self.asked.worker_id,
            limit=room,
            wait_seconds=FOREVER,
            lease_seconds=self.asked.lease_seconds,
            tags=self.asked.tags,
        )

    async def _assign(self, heard: Listener, tasks: tuple[Task, ...]) -> None:
        for task in tasks:  # all of them first: a lease may end while another task is being sent
            self.service.hub.follow(heard, about_task(task.task_id))
            self.held[task.task_id] = task.attempt
            if self.silent:
                self.suspects.add(task.task_id)
        for place, task in enumerate(tasks):
            try:
                (briefed,) = await briefing(self.service, [task])
                async with delivering(self.request, self.service.settings.server.request_timeout_seconds):
                    await send(self.events, "task", briefed)
            except BaseException:
                self.service.dispatcher.give_back(tasks[place:])
                raise

    async def _note(self, heard: Listener, news: News) -> None:
        assert news.task_id is not None  # of a work directory it does not hear
        if self.held.get(news.task_id) == news.attempt:
            if news.type in LOST:
                await self._tell_lost(news.task_id, LOST[news.type])
            self._listen_for_life(news)
        if news.status is Status.WORKING:
            if self._may_be_mine(news) and self.held.get(news.task_id) != news.attempt:
                await self._look_for(heard, news.task_id)
        elif self.held.get(news.task_id) == news.attempt:  # or it has come back to us already, as a later attempt
            del self.held[news.task_id]
            self.service.hub.unfollow(heard, about_task(news.task_id))

    def _listen_for_life(self, news: News) -> None:
        """A worker that hangs, or sleeps with its machine, would use up the retries of one task after the other: when
        what it was sent after a lost lease is lost too, the stream ends. Who is alive connects again.

        A task that may not be retried fails with its lease; nobody has reported that."""
        if news.type == "task.lease_expired":
            if news.task_id in self.suspects:
                raise Closed
            self.silent = True
            self.lost = news.task_id, news.attempt
        elif news.type in REPORTS and (news.task_id, news.attempt) != self.lost:
            self.silent = False
            self.suspects.clear()

    def _may_be_mine(self, news: News) -> bool:
        return self.asked.worker_id in news.workers and news.work_directory == self.asked.work_path

    async def _look_for(self, heard: Listener, task_id: str) -> None:
        """The worker has claimed it elsewhere; or another one of the same name has, with another key."""
        assert self.asked.worker_id
        for task in await self.service.ask(Held(self.asked.worker_id, self.asked.work_path)):
            if task.task_id == task_id:
                self.service.hub.follow(heard, about_task(task_id))
                self.held[task_id] = task.attempt

    async def _recount(self, heard: Listener) -> None:
        """Compare with the record what is held, and tell of what was lost meanwhile."""
        if self.asked.worker_id:
            for task in await self.service.ask(Held(self.asked.worker_id, self.asked.work_path)):
                self.held[task.task_id] = task.attempt
        for task_id, attempt in list(self.held.items()):
            found = await self.service.record.task(task_id)
            if found is None or (found.status, found.attempt) != (Status.WORKING, attempt):
                del self.held[task_id]
                self.service.hub.unfollow(heard, about_task(task_id))
                is_cancelled = found is not None and found.status is Status.CANCELLED
                await self._tell_lost(task_id, "cancelled" if is_cancelled else "expired")

    async def _tell_lost(self, task_id: str, reason: Literal["cancelled", "expired"]) -> None:
        lost: Lost = {"task_id": task_id, "reason": reason}
        await send(self.events, "cancel", lost)

    def _stop(self) -> None:
        if self.news:
            self.news.cancel()
        if self.claim is None:
            return
        if not self.claim.done():
            self.claim.cancel()
        elif not self.claim.cancelled() and self.claim.exception() is None:
            self.service.dispatcher.give_back(self.claim.result())  # it came as the worker was leaving
