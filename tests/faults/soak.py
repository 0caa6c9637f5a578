"""A constant load for a long time, and what the server holds on to: memory, descriptors, its write-ahead log."""

import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from attrs import define, field, frozen

from .crowd import resident_bytes
from .room import Room
from .streams import WorkerStream
from .supervisor import Supervisor
from .wire import Answer, Connection

CONNECTIONS = 16
STREAMS = 4  # of the connections work for a stream each; the others claim
SHARE = 0.3  # of what the server can do for us
TRIAL_SECONDS = 3  # in which we find out what that is, once it is warm; less if the whole is short
SAMPLE_SECONDS = 10
PROMPT = "Read the module and its tests, find out why the totals are off by one, fix it and say what it was. " * 3
SETTINGS = {"LOG_LEVEL": "warning"}

Report = Callable[[str], None]


@frozen
class Sample:
    """`cycles` per second and the times of calls, in milliseconds, are those since the sample before."""

    seconds: float
    resident_kib: int
    descriptors: int
    log_kib: int
    cycles: float
    p50: float
    p99: float


@define(eq=False)
class Load:
    """Life cycles of tasks: created, claimed, renewed, completed, deleted. What was there before is there after."""

    url: str
    interval_seconds: float = 0  # between the beginnings of two cycles on one connection; 0: as fast as it goes
    cycles: int = 0
    latencies: list[float] = field(factory=list)

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self._cycles(number, until))

    async def _cycles(self, number: int, until: float) -> None:
        directory = f"/srv/soak/{number}"
        with closing(await Connection.open(self.url)) as connection:
            claims = _by_stream(self.url, directory) if number < STREAMS else self._by_call(connection, directory)
            async with claims as next:
                turn = time.monotonic() + self.interval_seconds * number / CONNECTIONS
                while turn < until:
                    await asyncio.sleep(turn - time.monotonic())
                    await self._cycle(connection, directory, next)
                    turn = max(turn + self.interval_seconds, time.monotonic())

    async def _cycle(self, connection: Connection, directory: str, next: Callable[[], Any]) -> None:
        await self._call(connection, "POST", "", {"work_directory": directory, "prompt": PROMPT})
        task = await next()
        path, token = f"/{task['task_id']}", {"lease_token": task["lease_token"]}
        await self._call(connection, "POST", f"{path}/heartbeat", token)
        await self._call(connection, "POST", f"{path}/complete", {**token, "result": {"output": "done"}})
        await self._call(connection, "DELETE", path)
        self.cycles += 1

    @asynccontextmanager
    async def _by_call(self, connection: Connection, directory: str) -> AsyncIterator[Callable[[], Any]]:
        query = urlencode({"work_path": directory, "worker_id": directory, "lease_seconds": 60, "wait_seconds": 10})
        yield partial(self._call, connection, "GET", f"/next?{query}")

    async def _call(self, connection: Connection, method: str, path: str, body: object = None) -> Any:
        answer = await connection.call(method, f"/api/v1/tasks{path}", body)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer}")
        self.latencies.append(answer.ended - answer.began)
        return answer.body["data"]


@asynccontextmanager
async def _by_stream(url: str, directory: str) -> AsyncIterator[Callable[[], Any]]:
    tasks: asyncio.Queue[Any] = asyncio.Queue()

    def hear(type: str, data: Any, answer: Answer) -> None:
        if type == "task":
            tasks.put_nowait(data)

    query = urlencode({"work_path": directory, "worker_id": directory})
    stream = await WorkerStream.open(url, f"/api/v1/tasks/stream?{query}", hear)
    try:
        yield tasks.get
    finally:
        stream.abort(reset=False)


async def soak(seconds: float, report: Report) -> list[Sample]:
    """A sample every SAMPLE_SECONDS; `report` is given a line every minute, and the conclusion."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        server = Supervisor(Room(Path(name)), Path(name, "server.log"), SETTINGS)
        await server.start()
        try:
            load = await _measured(server, min(TRIAL_SECONDS, seconds / 2), report)
            samples: list[Sample] = []
            async with asyncio.TaskGroup() as group:
                running = group.create_task(load.run(math.inf))
                await _watch(server, load, seconds, samples, report)
                running.cancel()
        finally:
            await server.terminate()
    report(conclusion(samples))
    return samples


async def _measured(server: Supervisor, seconds: float, report: Report) -> Load:
    """A load of SHARE of what the server can do."""
    trial = Load(server.url)
    await trial.run(seconds)  # warm
    trial.cycles = 0
    await trial.run(seconds)
    most = trial.cycles / seconds
    report(f"at most {most:.0f} cycles/s of 5 calls; from now on {SHARE:.0%} of it, over {CONNECTIONS} connections")
    return Load(server.url, CONNECTIONS / (SHARE * most))


async def _watch(server: Supervisor, load: Load, seconds: float, samples: list[Sample], report: Report) -> None:
    began = time.monotonic()
    pause = min(SAMPLE_SECONDS, seconds / 8)
    for number in count(1):
        await asyncio.sleep(began + number * pause - time.monotonic())
        samples.append(_sample(server, load, time.monotonic() - began, pause))
        minute = int(number * pause / 60)
        if minute > int((number - 1) * pause / 60):
            report(f"{minute:>4} min  {_line(samples[-1])}")
        if (number + 1) * pause > seconds:
            return


def _sample(server: Supervisor, load: Load, seconds: float, pause: float) -> Sample:
    latencies, load.latencies = load.latencies, []
    cycles, load.cycles = load.cycles, 0
    ranked = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return Sample(
        seconds,
        resident_bytes(server.pid) // 1024,
        len(list(Path(f"/proc/{server.pid}/fd").iterdir())),
        server.room.database.with_name("tasks.db-wal").stat().st_size // 1024,
        cycles / pause,
        ranked[49] * 1000,
        ranked[98] * 1000,
    )


def _line(sample: Sample) -> str:
    size = f"{sample.resident_kib:>8} KiB resident  {sample.descriptors:>4} descriptors  log {sample.log_kib:>6} KiB"
    return f"{size}  {sample.cycles:>6.0f} cycles/s  p50 {sample.p50:.2f} ms  p99 {sample.p99:.2f} ms"


def conclusion(samples: Sequence[Sample]) -> str:
    """How the memory grows over the second half, the descriptors from first to last, and how much was done in all."""
    half = samples[len(samples) // 2 :]
    minutes, resident = [it.seconds / 60 for it in half], [it.resident_kib for it in half]
    slope = statistics.linear_regression(minutes, resident).slope
    first, last = samples[0], samples[-1]
    grown = f"slope={slope:.1f} KiB/minute descriptors={first.descriptors}..{last.descriptors}"
    return f"{grown} cycles={statistics.fmean(it.cycles for it in samples):.1f}/s, of late {_line(last).strip()}"
