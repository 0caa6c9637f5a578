"""The command line and workers as processes, and patience with a bound."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

import task_orchestrator

ROOT = Path(task_orchestrator.__file__).parents[1]
PATIENCE_SECONDS = 30


async def until(condition: Callable[[], Any]) -> Any:
    """Ask until the answer is true, and return it; the condition may be a coroutine function."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = condition()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.02)


def is_gone(process_group: int) -> bool:
    """Whether nobody of the group runs; some systems leave the dead unburied for a while."""
    stats = [stat_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return not any(stat[2] == str(process_group) and stat[0] != "Z" for stat in stats if stat)


def stat_of(process: int) -> list[str]:
    """State, parent, process group and so on; empty when there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def environment(url: str | None = None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TASK_")}
    path = os.pathsep.join(filter(None, [str(ROOT), ours.get("PYTHONPATH")]))
    return {**ours, "PYTHONPATH": path, **({"TASK_ORCHESTRATOR_URL": url} if url else {})}


@frozen
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@define(eq=False)
class Running:
    """A `worker --json` process and the events it has printed so far."""

    process: asyncio.subprocess.Process
    events: list[dict[str, Any]] = field(factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.events.append(json.loads(line))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS)


async def start(
    *arguments: str, url: str | None, cwd: Path | None = None, environ: dict[str, str] | None = None, **options: Any
) -> asyncio.subprocess.Process:
    env = {**environment(url), **(environ or {})}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "task_orchestrator", *arguments), env=env, cwd=cwd, **options
    )


async def run_cli(
    *arguments: str,
    url: str | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    environ: dict[str, str] | None = None,
) -> Done:
    process = await start(*arguments, url=url, cwd=cwd, environ=environ, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), PATIENCE_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return Done(await process.wait(), out.decode(), err.decode())
