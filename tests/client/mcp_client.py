"""`task-orchestrator mcp` as a client starts it: a process, and lines in and out."""

import asyncio
import json
from asyncio.subprocess import PIPE
from contextlib import suppress
from typing import Any

from attrs import define, field

from tests.client.processes import PATIENCE_SECONDS, start, until


@define(eq=False)
class Speaking:
    process: asyncio.subprocess.Process
    said: list[Any] = field(factory=list)
    complaints: bytearray = field(factory=bytearray)
    readers: list["asyncio.Task[None]"] = field(factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    async def hear(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.complaints += line

    def send(self, **message: Any) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    async def answer(self, request_id: Any) -> dict[str, Any]:
        def found() -> Any:
            return next((it for it in self.said if it.get("id") == request_id and "method" not in it), None)

        answer: dict[str, Any] = await until(found)
        return answer

    async def ask(self, request_id: Any, method: str, **params: Any) -> dict[str, Any]:
        self.send(id=request_id, method=method, params=params)
        return await self.answer(request_id)

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def ended(self, seconds: float = PATIENCE_SECONDS) -> int:
        code = await asyncio.wait_for(self.process.wait(), seconds)
        await asyncio.gather(*self.readers)
        return code

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.hang_up()
        await self.ended()


async def speak(url: str | None, *options: str, environ: dict[str, str] | None = None) -> Speaking:
    process = await start(
        "mcp", *options, url=url, environ=environ, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=64 * 1024 * 1024
    )
    it = Speaking(process)
    it.readers = [asyncio.create_task(it.read()), asyncio.create_task(it.hear())]
    return it
