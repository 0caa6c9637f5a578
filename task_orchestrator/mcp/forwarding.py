"""Messages from a client go to the server's `POST /mcp`, each by itself, and what the server says comes back."""

import asyncio
import json
from asyncio import Task, create_task, get_running_loop, timeout
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import aiohttp

from task_orchestrator.answers import decoded, refusal, unreachable
from task_orchestrator.errors import OrchestratorError, Unreachable
from task_orchestrator.mcp.messages import INVALID_REQUEST, PARSE_ERROR, Json, Message, error, failure, key_of
from task_orchestrator.session import CONNECT_SECONDS, Session
from task_orchestrator.sse import EventParser

REQUESTS_MAX = 500  # at once; each takes a connection
SILENCE_SECONDS = 120.0  # the server says something far more often while it makes us wait
FIRST_SECONDS = 10.0  # for `initialized`, before which nothing else may go
LAST_SECONDS = 1.0  # for what is under way when the client has gone, and as long again to end a session
START_SECONDS = 4.0  # for a server that is just being started
AGAIN_SECONDS = 0.5  # until a server that was away is tried again

_PATH = "/mcp"
_FIRST = frozenset({"initialize", "server/discover"})
_EVENTS = "text/event-stream"
_NOTHING_ASKED = Message(b"", {})
_TIMEOUT = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
_HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
_SESSION = "Mcp-Session-Id"
_BROKE_OFF = "the connection ended before the answer came"

Say = Callable[[str], Awaitable[None]]


class Forwarder:
    """`take` a line at a time; `say` is given lines for the client, `complain` what only a person can use."""

    def __init__(self, server: Session, worker_id: str, say: Say, complain: Callable[[str], None]) -> None:
        self._server, self._say, self._complain = server, say, complain
        self._headers = {**_HEADERS, "X-Worker-Id": worker_id}
        self._negotiated: str | None = None  # the revision
        self._requests: dict[str, Task[None]] = {}
        self._others: set[Task[None]] = set()  # notifications, answers to the server, and what it says by itself

    async def take(self, line: bytes | None) -> None:
        """Returns as soon as the next line may be taken."""
        if line is None:
            return await self._answer(error(None, INVALID_REQUEST, "this message is too long"))
        if not line.strip():
            return
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as reason:
            return await self._answer(error(None, PARSE_ERROR, f"this line is not JSON: {reason}"))
        if not isinstance(content, dict):
            return await self._answer(error(None, INVALID_REQUEST, "a message is one JSON object"))
        await self._pass_on(Message(line, content))

    async def _pass_on(self, message: Message) -> None:
        if message.is_request:
            await self._ask(message)
        elif message.method == "notifications/cancelled":
            self._cancel(message)
        elif message.method == "notifications/initialized":
            with suppress(TimeoutError):
                async with timeout(FIRST_SECONDS):
                    await self._tell(message)
            if _SESSION in self._headers:
                self._beside(self._overhear())
        else:
            self._notify(message)

    async def finish(self, grace_seconds: float) -> None:
        """What is under way may take that long to end; then it is ended, and with it the session."""
        under_way = {*self._requests.values(), *self._others}
        if self._requests and grace_seconds:
            await asyncio.wait(self._requests.values(), timeout=grace_seconds)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if _SESSION in self._headers:
            with suppress(aiohttp.ClientError, OSError):
                brief = aiohttp.ClientTimeout(LAST_SECONDS)
                async with self._server.open("DELETE", _PATH, brief, headers=self._headers | self._revision()):
                    pass

    async def _ask(self, request: Message) -> None:
        key = key_of(request.id)
        if (older := self._requests.pop(key, None)) is not None:  # nobody waits for that one any more
            older.cancel()
        if len(self._requests) >= REQUESTS_MAX:
            text = f"there are {REQUESTS_MAX} requests under way already: wait for one of them to end"
            return await self._answer(error(request.id, INVALID_REQUEST, text))
        asking = self._requests[key] = create_task(self._fetch(request))

        def forget(task: "Task[None]") -> None:
            if self._requests.get(key) is task:
                del self._requests[key]

        asking.add_done_callback(forget)

    def _cancel(self, notice: Message) -> None:
        """Over HTTP a request is cancelled by hanging up; within a session the server is to be told besides."""
        request = self._requests.pop(key_of(notice.params.get("requestId")), None)
        if _SESSION in self._headers:
            self._notify(notice)
        if request is not None:
            request.cancel()

    def _notify(self, notice: Message) -> None:
        self._beside(self._tell(notice))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _tell(self, notice: Message) -> None:
        try:
            await self._post(notice)
        except OrchestratorError as reason:
            self._complain(f"{notice.method or 'an answer'} did not reach the server: {reason}")

    async def _fetch(self, request: Message) -> None:
        try:
            if not await self._post_at_last(request):
                raise Unreachable(_BROKE_OFF)
        except OrchestratorError as reason:
            await self._answer(failure(request.id, reason, self._server.url))
        except ValueError as reason:  # no event of ours is that long
            await self._answer(error(request.id, INVALID_REQUEST, f"the answer cannot be passed on: {reason}"))

    async def _post_at_last(self, request: Message) -> bool:
        """A client whose first request fails does without us from then on: that one waits for the server a little."""
        end = get_running_loop().time() + (START_SECONDS if request.method in _FIRST else 0)
        while True:
            try:
                return await self._post(request)
            except Unreachable:
                if get_running_loop().time() >= end:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    async def _post(self, message: Message) -> bool:
        """Whether an answer came. Raises an OrchestratorError when the server is away or answers something else."""
        headers = self._headers | message.headers(self._negotiated)
        if message.method == "initialize":
            headers.pop(_SESSION, None)
        try:
            async with self._server.open("POST", _PATH, _TIMEOUT, data=message.line, headers=headers) as response:
                if message.method == "initialize" and _SESSION in response.headers:
                    self._headers[_SESSION] = response.headers[_SESSION]
                if response.content_type == _EVENTS and response.status < 300:
                    return await self._hear(response, message)
                return await self._read(response, message)
        except (aiohttp.ClientError, OSError) as reason:
            raise unreachable(self._server.url, reason, f"no answer from {self._server.url}") from reason

    async def _overhear(self) -> None:
        """What the server says within a session without being asked."""
        is_open = True
        while is_open:
            with suppress(aiohttp.ClientError, OSError, ValueError):
                headers = self._headers | self._revision()
                async with self._server.open("GET", _PATH, _TIMEOUT, headers=headers) as response:
                    is_open = response.status == 200 and response.content_type == _EVENTS
                    if is_open:
                        await self._hear(response, _NOTHING_ASKED)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _hear(self, response: aiohttp.ClientResponse, message: Message) -> bool:
        parser = EventParser()
        async for chunk in response.content.iter_any():
            for event in parser.feed(chunk):
                if event.data and await self._hand_over(event.data, message):
                    return True
        return False

    async def _read(self, response: aiohttp.ClientResponse, message: Message) -> bool:
        if response.status == 202:
            return False
        body = await response.read()
        document = decoded(body)
        if "jsonrpc" not in document:
            if response.status < 300 and not message.is_request:
                return False
            raise refusal(response.status, document, response.headers.get("Retry-After"))
        return not message.is_request or await self._hand_over(body.decode(errors="replace"), message)

    async def _hand_over(self, text: str, message: Message) -> bool:
        """Whether that was the answer. Messages keep their wording, on one line."""
        said = decoded(text.encode())
        is_answer = message.is_request and ("result" in said or "error" in said)
        if not said:
            self._complain(f"the server said something that is no message: {text[:100]}")
            return False
        if is_answer:
            self._note(said, message)
        if is_answer and said.get("id") != message.id:  # null, where it could not make out ours
            await self._answer({**said, "id": message.id})
        else:
            await self._say(text if "\n" not in text and "\r" not in text else json.dumps(said))
        return is_answer

    def _note(self, answer: Json, message: Message) -> None:
        result = answer.get("result")
        if message.method == "initialize" and isinstance(result, dict):
            version = result.get("protocolVersion")
            self._negotiated = version if isinstance(version, str) else None

    def _revision(self) -> dict[str, str]:
        return {"MCP-Protocol-Version": self._negotiated} if self._negotiated else {}

    async def _answer(self, content: dict[str, Any]) -> None:
        await self._say(json.dumps(content))
