"""Five hundred agents wait for a task over MCP: what that costs, and that the server can be stopped meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import ServerProcess
from tests.mcp.wire import REVISIONS, Connection, call, calling, connection, result_of
from tests.web.conftest import Api, connected, until
from tests.web.honest import resident

PARKED = 500
DIRECTORIES = 10
GROWTH_BYTES_MAX = 60 * 2**20
STOP_SECONDS = 2
ATTEMPTS = 2  # where others keep the machine busy, the end takes longer


@asynccontextmanager
async def parked(server: ServerProcess, api: Api, revisions: tuple[str, ...]) -> AsyncIterator[list[Connection]]:
    """That many claims that wait, a few opened at a time."""
    async with AsyncExitStack() as stack:
        opened: list[Connection] = []
        for first in range(0, PARKED, 50):
            some = range(first, first + 50)
            opened += await asyncio.gather(*(stack.enter_async_context(connection(server.port)) for _ in some))
            for number in some:
                asked = {"work_directory": f"/w{number % DIRECTORIES}", "wait_seconds": 50, "worker_id": f"w{number}"}
                revision = revisions[number % len(revisions)]
                opened[number][1].write(calling(revision, "claim_next_task", asked))
        await until(lambda: all_wait(api))
        yield opened


async def all_wait(api: Api) -> bool:
    found = (await api.get("/api/v1/work-directories")).data["work_directories"]
    return sum(it["waiting_workers"] for it in found) == PARKED


@pytest.mark.parametrize("revisions", [REVISIONS[:1], REVISIONS[1:]], ids=["without handshake", "with handshake"])
async def test_500_parked_claims_cost_little_and_do_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revisions: tuple[str, ...]
) -> None:
    """Whoever is handed a task meanwhile gets it; the others get an answer, or an end, when the server stops."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)  # what watches every line takes memory, too
    for attempt in range(ATTEMPTS):
        (folder := tmp_path / str(attempt)).mkdir()
        growth, took, said = await parking(folder, revisions)
        print(f"{growth / 1e6:.0f} MB for {PARKED}, stopped after {took:.2f} s, {said}")
        assert said.total() == PARKED
        assert said["task"] == 1
        assert growth < GROWTH_BYTES_MAX
        if took < STOP_SECONDS:
            break
    assert took < STOP_SECONDS


async def parking(folder: Path, revisions: tuple[str, ...]) -> tuple[int, float, Counter[str]]:
    """By how many bytes the server grew, how many seconds its end took, and what came of the claims."""
    server = ServerProcess(folder).start()
    try:
        async with connected(server) as api:
            for number in range(DIRECTORIES):  # so that what is loaded once is loaded, and the directories are known
                await api.create(f"/w{number}")
                asked = {"work_directory": f"/w{number}", "wait_seconds": 0}
                await asyncio.gather(*(call(server.port, it, "claim_next_task", asked) for it in revisions))
            before = resident(server.pid)
            async with parked(server, api, revisions) as claims:
                growth = resident(server.pid) - before
                answers = [asyncio.create_task(reader.read()) for reader, _ in claims]
                made = await api.create("/w0")
                handed, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
                assert [result_of(it.result())["task"]["task_id"] for it in handed] == [made["task_id"]]
                began = time.perf_counter()
                assert await asyncio.to_thread(server.terminate) == 0
                took = time.perf_counter() - began
                said = Counter(map(ending, await asyncio.gather(*answers)))
    finally:
        if server.process.poll() is None:
            server.terminate()
    assert "Traceback" not in server.log.read_text()
    return growth, took, said


def ending(answer: bytes) -> str:
    if b'"structuredContent"' not in answer:
        return "closed"
    return "task" if result_of(answer)["task"] else "nothing"
