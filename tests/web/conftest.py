"""What the tests of the web share: servers, a client that keeps whole answers, raw connections, bounded patience."""

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from attrs import frozen
from multidict import CIMultiDict
from yarl import URL

from storage.sqlite.driver import Mode
from task_orchestrator.sse import EventParser
from tests.conftest import ServerProcess
from tests.postgres import Cluster, binary

PATIENCE_SECONDS = 15
TASKS = "/api/v1/tasks"


async def until(condition: Callable[[], Any]) -> Any:
    """Ask until the answer is true, and return it; the condition may be a coroutine function."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = condition()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.01)


@frozen
class Answer:
    status: int
    headers: Any
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        """What a success says."""
        assert self.status in (200, 201), (self.status, self.content)
        return self.json["data"]

    def refused(self, status: int, code: str) -> dict[str, Any]:
        """The details of a refusal, which is in the envelope and is this one."""
        envelope = self.json
        assert (self.status, envelope["error"]["code"]) == (status, code), envelope
        assert envelope.keys() == {"success", "data", "error", "timestamp"}
        assert envelope["error"].keys() == {"code", "message", "details"}
        assert (envelope["success"], envelope["data"]) == (False, None)
        return envelope["error"]["details"]

    def faults(self) -> list[str]:
        """The fields that a validation error names; the first one stands in front."""
        details = self.refused(400, "VALIDATION_ERROR")
        assert details.keys() == {"field", "reason", "errors"}
        assert {"field": details["field"], "reason": details["reason"]} == details["errors"][0]
        assert all(error.keys() == {"field", "reason"} and error["reason"] for error in details["errors"])
        return [error["field"] for error in details["errors"]]


class Events:
    """The events of a stream, each as its type and its data."""

    def __init__(self, response: ClientResponse) -> None:
        self.response, self._parser, self._ready = response, EventParser(), []

    async def next(self) -> tuple[str, Any] | None:
        """None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._ready:
                chunk = await self.response.content.readany()
                if not chunk:
                    return None
                self._ready += [(event.type, event.json()) for event in self._parser.feed(chunk)]
        return self._ready.pop(0)

    async def task(self) -> dict[str, Any]:
        kind, data = await self.next()
        assert kind == "task", (kind, data)
        return data


class Api:
    """A caller of one server."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """The path may bear a query, which is sent as it is written."""
        async with self.session.request(method, URL(self.url + path, encoded=True), **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.call("GET", path, params={name: str(value) for name, value in query.items()} or None)

    async def post(self, path: str, body: object, **options: Any) -> Answer:
        """Bytes are sent as they are, anything else as JSON."""
        data = BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        return await self.call("POST", path, data=data, headers={"Content-Type": "application/json"}, **options)

    async def create(self, directory: str, prompt: str = "Tidy up", **fields: Any) -> dict[str, Any]:
        return (await self.post(TASKS, {"work_directory": directory, "prompt": prompt, **fields})).data

    async def next(self, directory: str, **query: Any) -> Any:
        return (await self.get(f"{TASKS}/next", work_path=directory, **query)).data

    async def claimed(self, directory: str, *, lease_seconds: float | None = None, **fields: Any) -> dict[str, Any]:
        """A new task, claimed."""
        await self.create(directory, **fields)
        return await self.next(directory, **({"lease_seconds": lease_seconds} if lease_seconds else {}))

    async def tell(self, task: dict[str, Any], verb: str, **body: Any) -> Answer:
        """Report on a claimed task under its lease, unless the body says otherwise."""
        body = {"lease_token": task["lease_token"], **body}
        said = {name: value for name, value in body.items() if name != "lease_token" or value is not None}
        return await self.post(f"{TASKS}/{task['task_id']}/{verb}", said)

    async def show(self, task: dict[str, Any]) -> dict[str, Any]:
        return (await self.get(f"{TASKS}/{task['task_id']}")).data

    async def history(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        return (await self.get(f"{TASKS}/{task['task_id']}/history")).data["history"]

    async def life(self, task: dict[str, Any]) -> list[str]:
        return [entry["type"].removeprefix("task.") for entry in await self.history(task)]

    async def status(self, task: dict[str, Any]) -> str:
        return (await self.show(task))["status"]

    async def open_requests(self) -> int:
        """How many requests the server is busy with, this one aside."""
        return (await self.get("/health")).json["metrics"]["active_connections"] - 1

    async def busy_with(self, requests: int) -> None:
        async def reached() -> bool:
            return await self.open_requests() == requests

        await until(reached)

    @asynccontextmanager
    async def stream(self, directory: str, **query: Any) -> AsyncIterator[Events]:
        params = {"work_path": directory, **{name: str(value) for name, value in query.items()}}
        async with self.session.get(f"{self.url}{TASKS}/stream", params=params) as response:
            assert response.status == 200, await response.read()
            yield Events(response)


@asynccontextmanager
async def connected(server: ServerProcess, **headers: str) -> AsyncIterator[Api]:
    timeout = ClientTimeout(total=PATIENCE_SECONDS)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout, headers=headers) as session:
        yield Api(session, server.url)


class Wire:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, CIMultiDict[str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = CIMultiDict(tuple(line.split(": ", 1)) for line in lines if line)
        return int(first.split()[1]), headers

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_SECONDS):
            status, headers = await self.head()
            length = 0 if status in (204, 304) else int(headers["Content-Length"])
            return Answer(status, headers, await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read()

    async def leave(self, *, abruptly: bool = False) -> None:
        """Close it; abruptly: without a goodbye, as a machine that has crashed and come back."""
        if abruptly:
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()
        await self.writer.wait_closed()


@asynccontextmanager
async def wire(server: ServerProcess) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def raw(server: ServerProcess, request: bytes) -> Answer:
    async with wire(server) as connection:
        await connection.send(request)
        return await connection.answer()


def text_of(method: str, path: str, body: object = None, *, host: str = "localhost", **headers: str) -> bytes:
    """A request as it goes over the wire."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(content)}"] if body is not None else []
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + content


@contextmanager
def paused(server: ServerProcess) -> Iterator[None]:
    """Whatever is sent meanwhile, the server finds all at once when it wakes."""
    os.kill(server.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, server.pid, os.WSTOPPED)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def running(directory: Path, *options: str, **environ: str) -> Iterator[ServerProcess]:
    """A server for a test alone, which must end well."""
    server = ServerProcess(directory, *options, environ=environ).start()
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    assert server.terminate() == 0


def refused_start(database: Path, *options: str, port: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start a server that will not start."""
    command = [sys.executable, "-m", "task_orchestrator", "serve", "--port", str(port)]
    command += ["--database", f"sqlite:///{database}"]
    settings = {"env": {**os.environ, **environ}, "timeout": PATIENCE_SECONDS, "check": False}
    return subprocess.run([*command, *options], capture_output=True, text=True, **settings)


def on_record(server: ServerProcess, query: str, mode: Mode = "ro") -> list[tuple[Any, ...]]:
    """The rows that the record itself answers; of PostgreSQL as text. `mode` rw: it is changed."""
    if server.record.startswith("postgresql:"):
        command = [binary("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", query, server.record]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [tuple(line.split("|")) for line in said.splitlines()]
    with server.opened(mode) as db:
        return db.execute(query).fetchall()


def footprint(server: ServerProcess) -> tuple[Any, ...]:
    """Differs after any task was made, moved or renewed, and after any line of history."""
    (row,) = on_record(
        server, "select (select max(arrival) from tasks), seq, (select sum(version) from tasks) from last_numbers"
    )
    return row


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, record: str | None) -> Iterator[ServerProcess]:
    """A server for all tests of a file that neither stop nor disturb it."""
    running = ServerProcess(tmp_path_factory.mktemp("shared"), record=record).start()
    yield running
    if running.process.poll() is None:
        running.terminate()


@pytest.fixture
async def api(shared: ServerProcess) -> AsyncIterator[Api]:
    async with connected(shared) as caller:
        await caller.busy_with(0)  # the last test's requests are over
        yield caller


@pytest.fixture
def directory() -> str:
    """A work directory of this test alone."""
    return f"/test/{uuid4().hex}"


@pytest.fixture(scope="module")
def shared_url(cluster: Cluster) -> Iterator[str]:
    """A database for all servers of a file."""
    name = cluster.create_database()
    yield cluster.url(name)
    cluster.drop_database(name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, shared_url: str) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers that share a database."""
    one = ServerProcess(tmp_path_factory.mktemp("one"), record=shared_url).start()
    other = ServerProcess(tmp_path_factory.mktemp("other"), record=shared_url).start()
    yield one, other
    assert [server.terminate() for server in (one, other)] == [0, 0]


@pytest.fixture
def mortal(tmp_path: Path, shared_url: str) -> Iterator[ServerProcess]:
    """A third one, that may be killed."""
    server = ServerProcess(tmp_path, record=shared_url).start()
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.fixture
async def here(pair: tuple[ServerProcess, ServerProcess]) -> AsyncIterator[Api]:
    async with connected(pair[0]) as caller:
        await caller.busy_with(0)
        yield caller


@pytest.fixture
async def there(pair: tuple[ServerProcess, ServerProcess]) -> AsyncIterator[Api]:
    async with connected(pair[1]) as caller:
        await caller.busy_with(0)
        yield caller


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real one, to which every name below .example is this machine."""
    from playwright.sync_api import sync_playwright

    # As root, as in a container, it has no sandbox of its own.
    options = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(20_000)
    yield page
    page.close()
