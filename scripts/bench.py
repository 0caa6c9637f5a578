"""How fast is the server, and how much of what aiohttp alone can do is that?

    .venv/bin/python scripts/bench.py [--seconds 5] [--connections 1,10,100] [--encrypted]

Each connection goes through life cycles, one request after the other: create a task, claim it, complete it. First
each works in a directory of its own, then all share one. The server runs with its default settings on a new database
in a temporary directory; the bare aiohttp handler it is compared with answers a constant to GET, and the JSON it was
sent to POST. Server, handler and load are processes of their own; nothing is asserted.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import aiohttp
import orjson
import uvloop
from aiohttp import web

WARM_UP_SECONDS = 1
PATIENCE_SECONDS = 30  # for a process to start, to stop, or to end after its time
SETTINGS = ("APP_", "API_", "DATABASE_", "ENABLE_", "LOG_", "SERVER_")  # how their variables begin
PROMPT = "Read the module and its tests, find out why the totals are off by one, fix it and say what it was. " * 3

Script = Generator[bytes, bytes, None]
"""What one connection does: yields requests, is sent the answers."""


# The load


def life_cycles(directory: str) -> Script:
    create = post("/api/v1/tasks", {"work_directory": directory, "prompt": PROMPT})
    claim = get(f"/api/v1/tasks/next?work_path={directory}")
    while True:
        yield create
        answer = yield claim
        path = f"/api/v1/tasks/{field(answer, 'task_id')}/complete"
        yield post(path, {"lease_token": field(answer, "lease_token"), "result": "done"})


def in_batches(directory: str, size: int) -> Script:
    """So many tasks created in one request, and claimed in one; then each is completed by itself."""
    task = {"work_directory": directory, "prompt": PROMPT}
    create = post("/api/v1/tasks/batch", {"tasks": [task] * size})
    claim = post("/api/v1/tasks/claim", {"work_directory": directory, "limit": size})
    while True:
        yield create
        answer = yield claim
        for task in orjson.loads(answer.partition(b"\r\n\r\n")[2])["data"]["tasks"]:
            lease = {"lease_token": task["lease_token"], "result": "done"}
            yield post(f"/api/v1/tasks/{task['task_id']}/complete", lease)


def repeated(request: bytes) -> Script:
    while True:
        yield request


SCRIPTS: dict[str, Callable[[int], Script]] = {  # each is given the number of the connection
    "own directories": lambda number: life_cycles(f"/srv/bench/{number}"),
    "one directory": lambda number: life_cycles("/srv/bench"),
    "batches of 10": lambda number: in_batches(f"/srv/bench/{number}", 10),
    "batches of 100": lambda number: in_batches(f"/srv/bench/{number}", 100),
    "bare life cycle": lambda number: bare_life_cycles(),
    "bare GET": lambda number: repeated(get("/")),
    "bare POST": lambda number: repeated(post("/", {"work_directory": "/srv/bench", "prompt": PROMPT})),
}


def bare_life_cycles() -> Script:
    """Requests of the same kinds, but to the handler that does nothing."""
    create = post("/", {"work_directory": "/srv/bench", "prompt": PROMPT})
    complete = post("/", {"lease_token": "0" * 43, "result": "done"})
    while True:
        yield create
        yield get("/")
        yield complete


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: object) -> bytes:
    content = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def field(answer: bytes, name: str) -> str:
    """The string under this name in an answer that has it once."""
    return answer.partition(f'"{name}":"'.encode())[2].partition(b'"')[0].decode()


class Caller(asyncio.Protocol):
    """One connection; after each answer it sends its script's next request."""

    def __init__(self, script: Script, latencies: list[float], broken: "asyncio.Future[None]") -> None:
        self._script, self._latencies, self._broken = script, latencies, broken
        self._answer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._send(next(self._script))

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]):
            return
        self._latencies.append(time.perf_counter() - self._began)
        if not answer.startswith(b"HTTP/1.1 20"):
            return self._break(answer.decode())
        self._answer = b""
        self._send(self._script.send(answer))

    def connection_lost(self, error: Exception | None) -> None:
        self._break(f"the connection was closed: {error}")

    def _send(self, request: bytes) -> None:
        self._began = time.perf_counter()
        self._transport.write(request)

    def _break(self, why: str) -> None:
        if not self._broken.done():
            self._broken.set_exception(RuntimeError(why))


async def load(urls: str, script: str, connections: int, seconds: float) -> None:
    """On each of these in turn, separated by commas. Prints a line when it begins to measure, and at the end what it
    measured, as JSON."""
    addresses = [urlsplit(url) for url in urls.split(",")]
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    broken = loop.create_future()
    gc.disable()
    for number in range(connections):
        caller = Caller(SCRIPTS[script](number), latencies, broken)
        address = addresses[number % len(addresses)]
        await loop.create_connection(lambda caller=caller: caller, address.hostname, address.port)
    await still_well(broken, WARM_UP_SECONDS)
    print("measuring", flush=True)
    latencies.clear()
    began, cpu = time.perf_counter(), time.process_time()
    await still_well(broken, seconds)
    lasted, cpu = time.perf_counter() - began, time.process_time() - cpu
    if len(latencies) < 2:
        raise RuntimeError("no answers came")
    ranked = statistics.quantiles(latencies, n=100)
    measured = {
        "requests": len(latencies) / lasted,
        "p50": ranked[49] * 1000,
        "p95": ranked[94] * 1000,
        "p99": ranked[98] * 1000,
        "load_cpu": cpu / lasted,
    }
    print(json.dumps(measured), flush=True)


async def still_well(broken: "asyncio.Future[None]", seconds: float) -> None:
    await asyncio.wait([broken], timeout=seconds)
    if broken.done():
        broken.result()


# What it is compared with


async def bare() -> None:
    """An aiohttp server that does nothing; its first line tells its URL, like that of ours."""

    async def constant(request: web.Request) -> web.Response:
        return web.Response(body=b'{"success":true}', content_type="application/json")

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(orjson.loads(await request.read())), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/", constant), web.post("/", echo)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"bare aiohttp on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


# The bench


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """The URL of a server that runs meanwhile; it is the last word of the first line that it prints."""
    process = start(*command)
    try:
        first = first_line(process)
        if "http://" not in first:
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield first.split()[-1]
    finally:
        stop(process)


def start(*command: str) -> "subprocess.Popen[str]":
    """With the default settings, whatever the environment says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environ)


def first_line(process: "subprocess.Popen[str]") -> str:
    """What it says first; nothing if it does not in time."""
    assert process.stdout is not None
    watchdog = Timer(PATIENCE_SECONDS, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def our_server(encrypted: bool = False) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        options = ["--port", "0", "--database", f"sqlite:///{directory}/tasks.db", "--log-level", "warning"]
        if encrypted:
            settings = Path(directory, "settings.toml")
            settings.write_text(f'[database]\nencryption_key = "{secrets.token_hex(32)}"\n')
            options += ["--config", str(settings)]
        with serving("-m", "task_orchestrator", "serve", *options) as url:
            yield url


def measure(
    urls: str, script: str, connections: int, seconds: float, used: Callable[[], dict[str, float]] = dict
) -> dict[str, float]:
    """Of what has been `used` so far, whatever that is, it is told how much more it becomes in a second."""
    options = ("--url", urls, "--script", script, "--connections", str(connections), "--seconds", str(seconds))
    process = start(__file__, "--role", "load", *options)
    try:
        first_line(process)
        before, used_before = committed(urls), used()
        out, _ = process.communicate(timeout=seconds + PATIENCE_SECONDS)
        more = {name: (now - used_before[name]) / seconds for name, now in used().items()}
        after = committed(urls)
    finally:
        stop(process)
    if process.returncode:
        raise RuntimeError("the load could not be put on the server, see above")
    batches, messages = after[0] - before[0], after[1] - before[1]
    return {**json.loads(out), **more, "per_commit": messages / batches if batches else 0}


def committed(urls: str) -> tuple[int, int]:
    """Batches and messages that our servers have committed; nothing for the bare one."""
    batches = messages = 0
    for url in urls.split(","):
        try:
            with urlopen(f"{url}/health", timeout=PATIENCE_SECONDS) as answer:
                dispatcher = json.load(answer)["components"]["dispatcher"]
        except OSError:
            continue
        batches, messages = batches + dispatcher["batches"], messages + dispatcher["messages"]
    return batches, messages


def about_this_machine() -> str:
    with tempfile.TemporaryFile(prefix="bench-") as file:
        spent = []
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - began)
    fsync = f"fsync of 4 KiB in {tempfile.gettempdir()}: {statistics.median(spent) * 1000:.2f} ms"
    versions = f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}, SQLite {sqlite3.sqlite_version}"
    return f"{versions}, {os.cpu_count()} cores, {fsync}"


def bench(connections: list[int], seconds: float, encrypted: bool) -> None:
    print(about_this_machine(), flush=True)
    print(f"{'':22}{'life':>8}{'':9}{'ms per call':^21}{'messages':>10}{'x bare':>8}{'load':>7}")
    print(f"{'connections':22}{'cycles/s':>8}{'req/s':>9}{'p50':>7}{'p95':>7}{'p99':>7}{'/commit':>10}", end="")
    print(f"{'GET':>8}{'CPU':>7}", flush=True)
    for count in connections:
        with serving(__file__, "--role", "bare") as url:
            gets = measure(url, "bare GET", count, seconds)
            show(count, "bare GET", gets, gets)
            show(count, "bare POST", measure(url, "bare POST", count, seconds), gets)
        for script in ("own directories", "one directory"):
            with our_server(encrypted) as url:
                show(count, script, measure(url, script, count, seconds), gets)


def show(connections: int, what: str, it: dict[str, float], bare_gets: dict[str, float]) -> None:
    ours = not what.startswith("bare")
    cycles = f"{it['requests'] / 3:,.0f}" if ours else ""
    per_commit = f"{it['per_commit']:.1f}" if ours else ""
    ratio = it["requests"] / bare_gets["requests"]
    print(f"{connections:>4} {what:17}{cycles:>8}{it['requests']:>9,.0f}", end="")
    print(f"{it['p50']:>7.2f}{it['p95']:>7.2f}{it['p99']:>7.2f}{per_commit:>10}", end="")
    print(f"{ratio:>8.2f}{it['load_cpu']:>7.0%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="how long each line is measured (5)")
    parser.add_argument("--connections", default="1,10,100", help="how many at a time, separated by commas (1,10,100)")
    parser.add_argument("--encrypted", action="store_true", help="the database is")
    for internal in ("--role", "--url", "--script"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    connections = [int(count) for count in asked.connections.split(",")]
    if asked.role == "bare":
        uvloop.run(bare())
    elif asked.role == "load":
        uvloop.run(load(asked.url, asked.script, connections[0], asked.seconds))
    else:
        os.chdir(Path(__file__).parents[1])
        bench(connections, asked.seconds, asked.encrypted)


if __name__ == "__main__":
    main()
