"""How long is a claim held up while very many tasks are cancelled, reprioritised or deleted in one call?

    .venv/bin/python scripts/bench_bulk.py [--tasks 100000]

A client creates and claims tasks one after the other, in a directory of its own, first by itself and then during each
bulk call. Prints the longest and the 99th percentile of the times until a claim was answered, and what the call took.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from tests.conftest import ServerProcess  # noqa: E402

TASKS = "/api/v1/tasks"
PROMPT = "Read the module and its tests, find out why the totals are off by one, fix it and say what it was. " * 3
ALONE_SECONDS = 5


async def claims(session: ClientSession, over: asyncio.Event, directory: str) -> list[float]:
    """Milliseconds until each claim was answered."""
    took = []
    while not over.is_set():
        await post(session, TASKS, {"work_directory": directory, "prompt": PROMPT})
        began = time.perf_counter()
        async with session.get(f"{TASKS}/next", params={"work_path": directory}) as response:
            assert (await response.json())["data"] is not None
        took.append((time.perf_counter() - began) * 1000)
    return took


async def post(session: ClientSession, path: str, body: object) -> Any:
    return read(await send(session, path, body))


async def send(session: ClientSession, path: str, body: object) -> bytes:
    async with session.post(path, json=body) as response:
        answer = await response.read()
        assert response.status in (200, 201), answer
        return answer


def read(answer: bytes) -> Any:
    return json.loads(answer)["data"]


async def during(session: ClientSession, what: str, work: Any) -> Any:
    over = asyncio.Event()
    claiming = asyncio.create_task(claims(session, over, f"/claims/{what.replace(' ', '-')}"))
    began = time.perf_counter()
    answer = await work
    seconds = time.perf_counter() - began
    over.set()
    took = await claiming
    p99 = statistics.quantiles(took, n=100)[98]
    figures = f"{len(took):6} claims, p99 {p99:5.1f} ms, longest {max(took):5.1f} ms"
    print(f"{what:28} {seconds:5.1f} s  {figures}", flush=True)
    return answer


async def measure(url: str, tasks: int) -> None:
    timeout = ClientTimeout(total=None)
    async with ClientSession(url, timeout=timeout) as session, ClientSession(url, timeout=timeout) as claiming:
        ids: list[str] = []
        for _ in range(0, tasks, 1000):
            batch = [{"work_directory": "/bulk", "prompt": PROMPT, "tags": ["bench"]}] * min(1000, tasks)
            made = await post(session, f"{TASKS}/batch", {"tasks": batch})
            ids += [task["task_id"] for task in made["tasks"]]
        print(f"{len(ids)} tasks wait")
        only = {"filter": {"work_directory": "/bulk"}}
        await during(claiming, "nothing else", asyncio.sleep(ALONE_SECONDS))
        for what, verb, body in (
            ("dry run", "cancel", {**only, "dry_run": True}),
            ("dry run by ids", "cancel", {"ids": ids, "dry_run": True}),
            ("priority", "priority", {**only, "priority": "high"}),
            ("cancel by ids", "cancel", {"ids": ids}),
            ("cancel again, all refused", "cancel", only),
            ("delete", "delete", only),
        ):
            # Read afterwards: to take 7 MB apart holds up the claims of this very process.
            answer = read(await during(claiming, what, send(session, f"{TASKS}/{verb}", body)))
            assert answer["matched"] == len(ids), answer["matched"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = ServerProcess(Path(directory)).start()
        try:
            asyncio.run(measure(server.url, options.tasks))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
