"""How long do lists, counts and searches take with a million tasks, while tasks live and die beside them?

    .venv/bin/python scripts/bench_lists.py [--tasks 1000000] [--seconds 60] [--database PATH]

Fills a database, which takes some minutes (in the system's temporary directory, and it is kept: the next run with as
many tasks uses it again), starts the server on it, finds out how many life cycles a second this machine can do, and
then calls lists of every kind while half as many go on. Nothing is asserted.
"""

import argparse
import asyncio
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson
import uvloop
from bench import Caller, about_this_machine, life_cycles, serving, start, still_well, stop

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispatcher.fields import Priority
from dispatcher.ports import Change
from dispatcher.task import Status, Task
from storage.sqlite import journal as sqlite
from storage.sqlite import search
from storage.sqlite.versions import migrate
from storage.steps import steps

WORDS = " ".join(" ".join(topics.values()).split())
DIRECTORIES = [
    f"/srv/projects/{team}/service-{number}" for team in ("core", "web", "data", "tools") for number in range(50)
]
WORKERS = [f"worker-{number}" for number in range(300)]
TAGS = {"backend": 0.3, "frontend": 0.2, "docs": 0.1, "urgent": 0.02, "nightly": 0.001}
BATCH = 5000  # tasks written in one transaction
FIRST_AT = 1_700_000_000_000
STEP_MS = 1000  # from one creation to the next
CYCLERS = 20  # connections that go through life cycles
LISTERS = 2  # connections that list

Query = dict[str, object]


# The tasks


def fill(path: Path, tasks: int) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, steps(files("storage.sqlite")))
    db.executescript("pragma journal_mode = wal; pragma synchronous = off; pragma cache_size = -400000")
    chance, began = random.Random(1), time.monotonic()
    for first in range(1, tasks + 1, BATCH):
        arrivals = range(first, min(first + BATCH, tasks + 1))
        sqlite.commit(db, [Change(None, task(arrival, tasks, chance), None) for arrival in arrivals])
    print(f"{tasks:,} tasks written in {time.monotonic() - began:.0f} s", flush=True)
    search.SLICE, search.SLICE_CHARACTERS_MAX, search.MERGE_PAGES = BATCH, BATCH * 1000, 1000
    began = time.monotonic()
    while search.index_some(db, is_first=False).more:
        pass
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()
    print(f"and indexed for searches in {time.monotonic() - began:.0f} s; {path.stat().st_size >> 20} MiB", flush=True)


def task(arrival: int, tasks: int, chance: random.Random) -> Task:
    """The newest tenth waits, most of the others are done; a hundred at most are being worked on."""
    at = FIRST_AT + arrival * STEP_MS
    place, luck = chance.randrange(len(WORDS) - 300), chance.random()
    fate = Status.FAILED if luck < 0.05 else Status.CANCELLED if luck < 0.08 else Status.COMPLETED
    status = Status.WAITING if arrival > tasks * 0.9 else Status.WORKING if luck > 0.9999 else fate
    seen = status is not Status.WAITING
    never = at * 2 if status is Status.WORKING else None
    return Task(
        arrival=arrival,
        task_id=f"{at:012x}"[:8] + f"-{at & 0xFFFF:04x}-7{arrival % 4096:03x}-8000-{arrival:012x}",
        created_at=at,
        work_directory=chance.choice(DIRECTORIES),
        prompt=f"{WORDS[place : place + 280].strip()} (ticket {arrival})",
        priority=chance.choices(list(Priority), (2, 7, 1))[0],
        tags=(*(tag for tag, share in TAGS.items() if chance.random() < share), f"team-{chance.randrange(50)}"),
        max_retries=3,
        timeout_seconds=3600,
        status=status,
        ready=not seen,
        available_at=at,
        updated_at=at + chance.randrange(10_000_000) * seen,
        attempt=int(seen),
        worker_id=chance.choice(WORKERS) if seen else None,
        lease_token=f"token-{arrival}" if never else None,
        lease_expires_at=never,
        deadline_at=never,
        started_at=at if seen else None,
        completed_at=at + 5000 if seen and not never else None,
        result="done" if status is Status.COMPLETED else None,
    )


# The calls


def moment(arrival: int) -> str:
    ms = FIRST_AT + arrival * STEP_MS
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03}Z"


def kinds(tasks: int, chance: random.Random) -> dict[str, Callable[[], Query]]:
    def directory() -> str:
        return chance.choice(DIRECTORIES)

    def team() -> str:
        return f"team-{chance.randrange(50)}"

    def hour() -> Query:
        first = chance.randrange(tasks)
        return {"created_after": moment(first), "created_before": moment(first + 3600)}

    def half() -> Query:
        return {"created_after": moment(tasks // 4), "created_before": moment(tasks * 3 // 4)}

    def ticket() -> str:
        return f"ticket {chance.randrange(tasks)}"

    word = chance.choice
    words = ("function", "object", "exception", "iterator", "method resolution", "keyword argument")
    return {
        "newest": lambda: {},
        "oldest": lambda: {"sort": "created_at"},
        "a thousand": lambda: {"limit": 1000},
        "last changed": lambda: {"sort": "-updated_at"},
        "first changed": lambda: {"sort": "updated_at"},
        "most urgent": lambda: {"sort": "priority"},
        "least urgent": lambda: {"sort": "-priority"},
        "offset half": lambda: {"offset": tasks // 2},
        "offset near the end": lambda: {"offset": tasks - 1000},
        "offset half, last changed": lambda: {"offset": tasks // 2, "sort": "-updated_at"},
        "offset half, most urgent": lambda: {"offset": tasks // 2, "sort": "priority"},
        "waiting": lambda: {"status": "waiting"},
        "waiting, oldest": lambda: {"status": "waiting", "sort": "created_at"},
        "waiting, most urgent": lambda: {"status": "waiting", "sort": "priority"},
        "working, first changed": lambda: {"status": "working", "sort": "updated_at"},
        "failed": lambda: {"status": "failed"},
        "failed, last changed": lambda: {"status": "failed", "sort": "-updated_at"},
        "completed, last changed": lambda: {"status": "completed", "sort": "-updated_at"},
        "completed, deep": lambda: {"status": "completed", "offset": tasks // 3},
        "ended": lambda: {"status": "completed,failed,cancelled"},
        "high": lambda: {"priority": "high"},
        "low failed, last changed": lambda: {"priority": "low", "status": "failed", "sort": "-updated_at"},
        "directory": lambda: {"work_directory": directory()},
        "directory, waiting": lambda: {"work_directory": directory(), "status": "waiting", "sort": "priority"},
        "directory, last changed": lambda: {"work_directory": directory(), "sort": "-updated_at"},
        "30 directories": lambda: {"work_directory": ",".join(chance.sample(DIRECTORIES, 30))},
        "100 directories": lambda: {
            "work_directory": ",".join(chance.sample(DIRECTORIES, 100)),
            "priority": "high,low",
        },
        "rare tag": lambda: {"tags": "nightly"},
        "common tag": lambda: {"tags": "backend"},
        "common tag, last changed": lambda: {"tags": "backend", "sort": "-updated_at"},
        "two common tags": lambda: {"tags": "backend,frontend"},
        "any of three tags": lambda: {"tags": f"backend,docs,{team()}", "tag_mode": "any"},
        "rare and common tag": lambda: {"tags": f"backend,{team()}"},
        "tag, waiting": lambda: {"tags": "backend", "status": "waiting"},
        "tag, failed": lambda: {"tags": "docs", "status": "failed", "sort": "-updated_at"},
        "tag, completed": lambda: {"tags": "backend", "status": "completed"},
        "tag, directory": lambda: {"tags": "backend", "work_directory": directory()},
        "worker": lambda: {"worker_id": word(WORKERS)},
        "worker, failed": lambda: {"worker_id": word(WORKERS), "status": "failed", "sort": "-updated_at"},
        "100 workers, completed": lambda: {"worker_id": ",".join(WORKERS[:100]), "status": "completed"},
        "an hour": hour,
        "half of the time": half,
        "half of the time, urgent failed": lambda: half() | {"status": "failed", "sort": "priority"},
        "half of the time, medium": lambda: half() | {"priority": "medium", "sort": "-updated_at"},
        "search: the": lambda: {"q": "the"},
        "search: a word": lambda: {"q": word(words)},
        "search: a ticket": lambda: {"q": ticket()},
        "search: nothing": lambda: {"q": "xyzzy plugh"},
        "search: two letters": lambda: {"q": "if"},
        "search: one sign": lambda: {"q": "§"},
        "search: oldest": lambda: {"q": word(words), "sort": "created_at"},
        "search: most urgent": lambda: {"q": word(words), "sort": "priority"},
        "search: last changed": lambda: {"q": word(words), "sort": "-updated_at"},
        "search: the, last changed": lambda: {"q": "THE", "sort": "-updated_at"},
        "search: failed": lambda: {"q": word(words), "status": "failed"},
        "search: the, failed": lambda: {"q": "the", "status": "failed", "sort": "updated_at"},
        "search: working": lambda: {"q": "the", "status": "working"},
        "search: directory": lambda: {"q": word(words), "work_directory": directory()},
        "search: tag": lambda: {"q": word(words), "tags": "backend"},
        "search: rare tag": lambda: {"q": "the", "tags": "nightly"},
        "search: worker": lambda: {"q": word(words), "worker_id": word(WORKERS)},
        "search: half of the time": lambda: half() | {"q": word(words)},
        "cursor": lambda: {"status": "completed"},
        "cursor, last changed": lambda: {"sort": "-updated_at"},
        "cursor, search": lambda: {"q": "object", "sort": "priority"},
    }


class Lister:
    """Calls each kind in turn; those of cursors go on where the last one ended."""

    def __init__(self, session: aiohttp.ClientSession, url: str, tasks: int, seed: int) -> None:
        self.session, self.url = session, url
        self.kinds = kinds(tasks, random.Random(seed))
        self.cursors: dict[str, Query] = {}
        self.took: dict[str, list[float]] = {name: [] for name in self.kinds}

    async def run(self, seconds: float) -> None:
        end, names = time.monotonic() + seconds, list(self.kinds)
        while time.monotonic() < end:
            random.shuffle(names)
            for name in names:
                if time.monotonic() < end:
                    await self.call(name)

    async def call(self, name: str) -> None:
        query = self.kinds[name]() | self.cursors.get(name, {})
        began = time.perf_counter()
        async with self.session.get(f"{self.url}/api/v1/tasks?{urlencode(query)}") as response:
            body = await response.read()
        self.took[name].append((time.perf_counter() - began) * 1000)
        answer = orjson.loads(body)
        if not answer["success"]:
            raise RuntimeError(f"{query}: {answer}")
        if name.startswith("cursor"):
            after = answer["data"]["next_cursor"]
            self.cursors[name] = {"cursor": after} if after else {}


class PacedCaller(Caller):
    """Sends no more than so many requests a second."""

    interval = 0.0
    due = 0.0

    def _send(self, request: bytes) -> None:
        now = time.monotonic()
        self.due = max(self.due + self.interval, now)
        asyncio.get_running_loop().call_later(self.due - now, super()._send, request)


async def cycles(url: str, rate: float, seconds: float) -> None:
    """Life cycles at a rate (0: as many as go), and prints how many a second there were."""
    address, loop = urlsplit(url), asyncio.get_running_loop()
    latencies: list[float] = []
    broken = loop.create_future()
    PacedCaller.interval = CYCLERS / (rate * 3) if rate else 0
    for number in range(CYCLERS):
        caller = PacedCaller(life_cycles(f"/srv/bench/{number}"), latencies, broken)
        await loop.create_connection(lambda caller=caller: caller, address.hostname, address.port)
    await still_well(broken, seconds)
    ranked = statistics.quantiles(latencies, n=100)
    told = {"rate": len(latencies) / 3 / seconds, "p50": ranked[49] * 1000, "p99": ranked[98] * 1000}
    print(orjson.dumps(told).decode(), flush=True)


# The bench


@contextmanager
def life_beside(url: str, rate: float, seconds: float) -> Iterator["subprocess.Popen[str]"]:
    process = start(__file__, "--role", "cycles", "--url", url, "--rate", str(rate), "--seconds", str(seconds))
    try:
        yield process
    finally:
        stop(process)


def told_by(process: "subprocess.Popen[str]") -> Any:
    out, _ = process.communicate()
    return orjson.loads(out)


async def list_all(url: str, tasks: int, seconds: float) -> dict[str, list[float]]:
    async with aiohttp.ClientSession() as session:
        listers = [Lister(session, url, tasks, seed) for seed in range(LISTERS)]
        await asyncio.gather(*(lister.run(seconds) for lister in listers))
    return {name: [ms for lister in listers for ms in lister.took[name]] for name in listers[0].took}


def bench(path: Path, tasks: int, seconds: float, rate: float) -> None:
    print(about_this_machine(), f"load of the last minute {os.getloadavg()[0]:.1f}", flush=True)
    options = ("--port", "0", "--database", f"sqlite:///{path}", "--log-level", "warning")
    with serving("-m", "task_orchestrator", "serve", *options) as url:
        if not rate:
            with life_beside(url, 0, 5) as process:
                most = told_by(process)["rate"]
            print(f"at most {most:,.0f} life cycles/s with {CYCLERS} connections", flush=True)
            rate = most / 2
        with life_beside(url, rate, seconds + 2) as process:
            took = asyncio.run(list_all(url, tasks, seconds))
            beside = told_by(process)
        print(
            f"beside: {beside['rate']:,.0f} life cycles/s, p50 {beside['p50']:.1f}, p99 {beside['p99']:.1f} ms per call"
        )
        show(took)


def show(took: dict[str, list[float]]) -> None:
    print(f"{'':34}{'calls':>7}{'p50':>8}{'p95':>8}{'p99':>8} ms")
    for name, latencies in [*took.items(), ("all", [ms for each in took.values() for ms in each])]:
        if len(latencies) > 1:
            ranked = statistics.quantiles(latencies, n=100, method="inclusive")
            print(f"{name:34}{len(latencies):>7}{ranked[49]:>8.1f}{ranked[94]:>8.1f}{ranked[98]:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000, help="how many there are (1000000)")
    parser.add_argument("--seconds", type=float, default=60, help="how long is measured (60)")
    parser.add_argument("--rate", type=float, default=0, help="life cycles a second (half of what is possible)")
    parser.add_argument("--database", type=Path, help="where the tasks are, or are to be written")
    for internal in ("--role", "--url"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role == "cycles":
        uvloop.run(cycles(asked.url, asked.rate, asked.seconds))
        return
    path = asked.database or Path(tempfile.gettempdir()) / f"bench-lists-{asked.tasks}.db"
    if not path.exists():
        fill(path, asked.tasks)
    os.chdir(Path(__file__).parents[1])
    bench(path, asked.tasks, asked.seconds, asked.rate)


if __name__ == "__main__":
    main()
