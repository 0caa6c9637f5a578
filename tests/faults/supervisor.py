"""Starts the server, and starts it again when it has died: on any free port, on the same database."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from .faulty_server import OFFSET
from .room import Elsewhere, Room

PROJECT = Path(__file__).parents[2]
START_SECONDS = 30
STOP_SECONDS = 15
ANSWER_SECONDS = 15
SETTINGS = ("APP_", "API_", "DATABASE_", "ENABLE_", "LOG_", "SERVER_")  # how their variables begin
GREETING = b"Task Orchestrator is listening on http"


class NotStarted(Exception):
    """It ended, or said nothing in time."""


@define(eq=False)
class Supervisor:
    room: Room | Elsewhere
    log: Path
    settings: dict[str, str] = field(factory=dict)  # environment variables
    under: tuple[str, ...] = ()  # a command that runs the server; it must not be its parent
    offset_seconds: float = 0  # of the wall clock, where it takes commands
    serving: asyncio.Event = field(factory=asyncio.Event)
    url: str = ""
    starts: int = 0
    commanded: bool = False
    _process: Process | None = None
    _control: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    _watcher: "asyncio.Task[None] | None" = None

    async def start(self, *, commanded: bool = False) -> None:
        """With `commanded` it takes commands, else it is started the ordinary way. Raises NotStarted."""
        assert not self.running
        self.commanded = commanded
        await self._launch(commanded)
        assert self._process
        assert self._process.stdout
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await self._process.stdout.readline()
        except TimeoutError:
            first = b""
        if not first.startswith(GREETING):
            await self.kill()
            raise NotStarted(f"it said {first!r}, and in its log: {self.last_words()}")
        self.url = first.split()[-1].decode()
        self.starts += 1
        self.serving.set()
        self._watcher = asyncio.create_task(self._watch(self._process))

    async def _launch(self, commanded: bool) -> None:
        options = ("serve", "--port", "0", "--database", self.room.url)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        environ |= self.settings | ({OFFSET: str(self.offset_seconds)} if commanded else {})
        ours, theirs = socket.socketpair()
        with theirs, self.log.open("ab") as log:
            module = ("tests.faults.faulty_server", str(theirs.fileno())) if commanded else ("task_orchestrator",)
            command = (*self.under, sys.executable, "-m", *module, *options)
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdout=PIPE,
                stderr=log,
                env=environ,
                cwd=PROJECT,
                pass_fds=(theirs.fileno(),) if commanded else (),
            )
        self._hang_up()
        self._control = await asyncio.open_unix_connection(sock=ours)

    async def _watch(self, process: Process) -> None:
        await process.wait()
        self.serving.clear()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    async def tell(self, command: str) -> None:
        """Give a server that takes commands one; it is in force then, or the server has died."""
        assert self.commanded
        if self._control:
            reader, writer = self._control
            with suppress(ConnectionError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    writer.write(f"{command}\n".encode())
                    await reader.readline()

    async def kill(self) -> None:
        """SIGKILL, as a power failure of the process; nothing if it has ended."""
        if self.running:
            assert self._process
            self._process.kill()
        await self.ended()

    async def terminate(self) -> int | None:
        """SIGTERM; its exit status."""
        if self.running:
            assert self._process
            self._process.terminate()
        return await self.ended()

    async def ended(self) -> int | None:
        """Its exit status as soon as it has ended by itself; None if it does not in time, and then it is killed."""
        assert self._process
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            return None
        finally:
            self.serving.clear()
            self._hang_up()
            if self._watcher:
                await self._watcher

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.returncode if self._process else None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _hang_up(self) -> None:
        if self._control:
            self._control[1].close()
            self._control = None
