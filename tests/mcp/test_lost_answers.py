"""What comes of an answer when its reader has gone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import AsyncMock, Mock

from aiohttp.web import Application, AppRunner, Request, StreamResponse, TCPSite
from attrs import define, field

from dispatcher.roll import Roll
from dispatcher.task import Task
from tests.web.conftest import until
from web.mcp.bodies import AnotherTask
from web.mcp.bridge import Passage
from web.mcp.call import Call
from web.mcp.claiming import claim

TASK = Task(
    arrival=1,
    task_id="a",
    created_at=0,
    work_directory="/w",
    prompt="x",
    max_retries=0,
    timeout_seconds=60,
    available_at=0,
    updated_at=0,
    lease_token="abc-def_ghi",
)


@define
class Agent:
    """Who asks and leaves once it has read all the pieces; then the application sends the rest."""

    pieces: Sequence[bytes]
    passage: Passage | None = None
    lost: Exception | None = None
    left: asyncio.Event = field(factory=asyncio.Event)

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await self.left.wait()
        with suppress(Exception):
            await send({"type": "http.response.body", "body": b"the rest"})

    async def handle(self, request: Request) -> StreamResponse:
        self.passage = Passage(request, b"", 5, claimed=(TASK,))
        try:
            return await self.passage.pass_through(self.application)
        except Exception as error:
            self.lost = error
            raise

    async def ask_and_leave(self) -> Passage:
        async with serving(self) as (reader, writer):
            writer.write(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            await reader.readuntil(self.pieces[-1])
            writer.transport.abort()
            await until(lambda: self.passage and self.passage.request.transport is None)
            self.left.set()
            await until(lambda: self.lost)
        assert self.passage
        return self.passage


@asynccontextmanager
async def serving(agent: Agent) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    app = Application()
    app.router.add_post("/mcp", agent.handle)
    runner = AppRunner(app)
    await runner.setup()
    try:
        await TCPSite(runner, "127.0.0.1", 0).start()
        yield await asyncio.open_connection(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def test_it_is_lost_though_the_application_keeps_that_to_itself() -> None:
    """As the SDK does, which complains in the log and ends as if all were well; and the claims would stay held."""
    agent = Agent([b"so far"])
    await agent.ask_and_leave()
    assert isinstance(agent.lost, ConnectionResetError)


async def test_a_task_is_delivered_with_the_part_that_tells_of_it() -> None:
    assert (await Agent([b"it goes on"]).ask_and_leave()).claimed == (TASK,)
    assert (await Agent([b"it goes on", b'{"lease_token":"abc-def_ghi"}']).ask_and_leave()).claimed == ()


async def test_a_task_that_comes_as_its_agent_leaves_is_not_forgotten() -> None:
    passage = Passage(None, b"", 1)  # type: ignore[arg-type]
    service = Mock(dispatcher=Mock(roll=Roll()), clock=lambda: 0)
    service.settings.mcp.lease_seconds = 900
    reply = asyncio.get_running_loop().create_future()
    service.ask = lambda message: reply
    call = Call(service, passage, None, {}, AsyncMock())
    claiming = asyncio.create_task(claim(call, AnotherTask(work_directory="/w")))
    for _ in range(3):  # until it waits for the reply
        await asyncio.sleep(0)
    reply.set_result((TASK,))
    await asyncio.sleep(0)  # it has been claimed, and nobody has been told yet
    claiming.cancel()
    await asyncio.wait([claiming])
    assert passage.claimed == (TASK,)
