"""What do readers of the event feed cost, and how soon do they know?

    .venv/bin/python scripts/bench_feed.py [--seconds 5] [--connections 20] [--readers 0,100,1000]

Life cycles as in bench.py, each connection in a directory of its own, while so many others read the feed: first each
reader one of those directories, then everything. Readers that read everything get every byte, so what the network and
the readers themselves take of the machine counts too. How soon: up to ten times a second a task is created in yet
another directory, and ten more readers note when its event comes. Nothing is asserted.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

import bench

PROBE = "/srv/bench/probe"
PROBES = 10
PROBE_SECONDS = 0.1


class Reader(asyncio.Protocol):
    """Reads the feed and throws it away."""

    def __init__(self, path: str, lost: list[Exception | None]) -> None:
        self._path, self._lost = path, lost

    def connection_made(self, transport: Any) -> None:
        transport.write(bench.get(self._path))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.append(error)


def path_of(number: int, connections: int, everything: bool) -> str:
    directory = f"/srv/bench/{number % connections}"
    return "/api/v1/events" if everything else f"/api/v1/events?work_directory={quote(directory)}"


async def read(url: str, readers: int, connections: int, everything: bool) -> None:
    """Until standard input is closed; then prints how many were cut off."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    address, loop = urlsplit(url), asyncio.get_running_loop()
    lost: list[Exception | None] = []
    for number in range(readers):
        path = path_of(number, connections, everything)
        await loop.create_connection(lambda path=path: Reader(path, lost), address.hostname, address.port)
    print("reading", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(len(lost), flush=True)


async def probe(url: str, everything: bool, seconds: float) -> None:
    """Prints the milliseconds from before a creation is sent to when its event has come, as JSON."""
    address = urlsplit(url)
    delays: list[float] = []
    began, heard = 0.0, asyncio.Event()  # by all of them

    async def listen() -> None:
        path = "/api/v1/events" if everything else f"/api/v1/events?work_directory={PROBE}"
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**24)
        writer.write(bench.get(path))
        async for line in reader:
            if PROBE.encode() in line and b"task.created" in line:
                delays.append((time.perf_counter() - began) * 1000)
                if len(delays) % PROBES == 0:
                    heard.set()

    listening = [asyncio.create_task(listen()) for _ in range(PROBES)]
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    await asyncio.sleep(bench.WARM_UP_SECONDS)
    for _ in range(round(seconds / PROBE_SECONDS)):
        began = time.perf_counter()
        writer.write(bench.post("/api/v1/tasks", {"work_directory": PROBE, "prompt": "x"}))
        await reader.readuntil(b'Z"}')
        async with asyncio.timeout(bench.PATIENCE_SECONDS):
            await heard.wait()
        heard.clear()
        await asyncio.sleep(PROBE_SECONDS)
    for task in listening:
        task.cancel()
    writer.close()
    print(json.dumps(delays), flush=True)


def measure(url: str, readers: int, connections: int, seconds: float, everything: bool) -> None:
    """One line of the table."""
    asked = ("--url", url, "--connections", str(connections), "--seconds", str(seconds))
    asked += ("--everything",) if everything else ()
    with subprocess.Popen(
        [sys.executable, __file__, "--role", "read", "--readers", str(readers), *asked],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
    ) as reading:
        try:
            bench.first_line(reading)
            probing = bench.start(__file__, "--role", "probe", *asked)
            try:
                load = bench.measure(url, "own directories", connections, seconds)
                out, _ = probing.communicate(timeout=seconds + bench.PATIENCE_SECONDS)
            finally:
                bench.stop(probing)
            lost, _ = reading.communicate(timeout=bench.PATIENCE_SECONDS)
        finally:
            reading.kill()
    ranked = statistics.quantiles(json.loads(out), n=100)
    what = "everything" if everything else "one directory"
    print(f"{readers:>8} {what:15}{load['requests'] / 3:>8,.0f}{load['p50']:>8.2f}{load['p95']:>8.2f}", end="")
    print(f"{ranked[49]:>10.1f}{ranked[94]:>8.1f}{lost.strip():>9}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="how long each line is measured (5)")
    parser.add_argument("--connections", type=int, default=20, help="that go through life cycles (20)")
    parser.add_argument("--readers", default="0,100,1000", help="how many at a time, separated by commas (0,100,1000)")
    for internal in ("--role", "--url"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--everything", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role == "read":
        uvloop.run(read(asked.url, int(asked.readers), asked.connections, asked.everything))
    elif asked.role == "probe":
        uvloop.run(probe(asked.url, asked.everything, asked.seconds))
    else:
        os.chdir(Path(__file__).parents[1])
        print(f"{bench.about_this_machine()}, load {os.getloadavg()[0]:.1f}", flush=True)
        print(f"{'':24}{'life':>8}{'ms per call':>16}{'ms to readers':>18}{'cut':>9}")
        print(f"{'readers':>8}{'':16}{'cycles/s':>8}{'p50':>8}{'p95':>8}{'p50':>10}{'p95':>8}{'off':>9}", flush=True)
        for everything in (False, True):
            for readers in map(int, asked.readers.split(",")):
                with bench.our_server() as url:
                    measure(url, readers, asked.connections, asked.seconds, everything)


if __name__ == "__main__":
    main()
