"""An ASGI application within a handler of aiohttp."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from aiohttp.web import Request, Response, StreamResponse
from attrs import define, field

from dispatcher.task import Task
from web.delivery import deliver, delivering
from web.receiving import LARGE_BYTES

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

T = TypeVar("T")

PASSAGE: Final = "task_orchestrator.passage"  # where the scope has it
LEAVE_SECONDS = 5  # for the application to come to an end once the caller has left; it takes as good as none
OURS = {b"connection", b"content-length", b"date", b"keep-alive", b"server", b"transfer-encoding", b"upgrade"}
UNPACKED = {b"content-encoding", b"content-length", b"transfer-encoding"}  # of a body that was


@define(eq=False)
class Passage:
    """One request on its way through the application. Its body has been taken in already.

    `claimed` are tasks that reach their worker with the answer; if that does not get through, they are for the caller
    of `pass_through` to give back. `has_sessions`: the request may begin one, or belong to one.
    """

    request: Request
    body: bytes
    timeout_seconds: float
    has_sessions: bool = False
    claimed: tuple[Task, ...] = ()
    _jobs: set["asyncio.Task[Any]"] = field(factory=set, init=False)
    _gone: asyncio.Event = field(factory=asyncio.Event, init=False)
    _is_read: bool = field(default=False, init=False)
    _head: Message = field(factory=dict, init=False)
    _answer: StreamResponse | None = field(default=None, init=False)
    _lost: ConnectionError | None = field(default=None, init=False)

    async def pass_through(self, application: Application) -> StreamResponse:
        """What the application answers; ConnectionError if that could not all be sent."""
        running = application(self._scope(), self._receive, self._send)
        try:
            await (self._lingering(running) if self.has_sessions else running)
        finally:  # within a session the application does not end with the request
            self._stop()
        if self._lost is not None:
            raise self._lost
        assert self._answer is not None, "the application has not answered"
        if isinstance(self._answer, Response) and self.claimed:
            await deliver(self.request, self._answer, self.timeout_seconds)
        return self._answer

    @property
    def is_large(self) -> bool:
        """So much is not kept for as long as somebody waits for something: there may be thousands of them."""
        return len(self.body) > LARGE_BYTES

    async def _lingering(self, running: Awaitable[None]) -> None:
        """If the caller leaves, the application hears of it and ends by itself: cancelled in the midst of the answer
        that begins a session, it would forget the session, of which the caller may know already."""
        job = asyncio.ensure_future(running)
        job.add_done_callback(lambda it: it.cancelled() or it.exception())
        try:
            await asyncio.shield(job)
        except asyncio.CancelledError:
            self._gone.set()
            self._stop()
            await asyncio.wait([job], timeout=LEAVE_SECONDS)
            job.cancel()
            raise

    @contextmanager
    def working(self, work: Coroutine[Any, Any, T]) -> Iterator["asyncio.Task[T]"]:
        """It is cancelled when nobody waits for the answer any more."""
        job = asyncio.create_task(work)
        self._jobs.add(job)
        try:
            yield job
        finally:
            job.cancel()
            self._jobs.discard(job)

    def _stop(self) -> None:
        for job in self._jobs:
            job.cancel()

    def _scope(self) -> dict[str, Any]:
        request = self.request
        headers = [(name.lower(), value) for name, value in request.raw_headers if name.lower() not in UNPACKED]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path,
            "raw_path": request.raw_path.partition("?")[0].encode("ascii", "replace"),
            "query_string": request.query_string.encode(),
            "root_path": "",
            "headers": [*headers, (b"content-length", str(len(self.body)).encode())],
            "client": None,
            "server": None,
            PASSAGE: self,
        }

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        """Without a connection it does nothing: applications keep the error to themselves, and complain about it."""
        if self._lost is None:
            try:
                await self._pass_on(message)
            except ConnectionError as error:
                self._lost = error
                self._stop()

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._answer is None and not more:
            self._answer = Response(body=body, **self._told())
            return
        if self._answer is None:
            self._answer = StreamResponse(**self._told())
            await self._answer.prepare(self.request)
        await self._write(self._answer, body)
        if not more:
            await self._answer.write_eof()

    async def _write(self, answer: StreamResponse, body: bytes) -> None:
        """Who has read of a task may leave before the end of the answer."""
        told = [task for task in self.claimed if task.lease_token and task.lease_token.encode() in body]
        if not told:  # it only says that it goes on
            await answer.write(body)
            return
        async with delivering(self.request, self.timeout_seconds):
            await answer.write(body)
        self.claimed = tuple(task for task in self.claimed if task not in told)

    def _told(self) -> dict[str, Any]:
        headers = [(name.decode(), value.decode()) for name, value in self._head["headers"] if name.lower() not in OURS]
        return {"status": self._head["status"], "headers": headers}
