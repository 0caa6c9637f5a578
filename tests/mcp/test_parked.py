"""Five hundred agents wait for a task over MCP: what that costs, and that the server can be stopped meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
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


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path).start()
    yield server
    if server.process.poll() is None:
        assert server.terminate() == 0


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
    serving: ServerProcess, revisions: tuple[str, ...]
) -> None:
    """Others are answered meanwhile; whoever is handed a task gets it; the others get an answer when the server ends."""
    async with connected(serving) as api:
        for number in range(DIRECTORIES):  # so that what is loaded once is loaded, and the directories are known
            await api.create(f"/w{number}")
            for revision in revisions:
                await call(serving.port, revision, "claim_next_task", {"work_directory": f"/w{number}", "wait_seconds": 0})
        before = resident(serving.pid)
        async with parked(serving, api, revisions) as claims:
            growth = resident(serving.pid) - before
            began = time.perf_counter()
            made = await api.create("/w0")
            answers = [asyncio.create_task(reader.read()) for reader, _ in claims]
            await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            handed = [it for it in answers if it.done()]
            print(f"{growth / 2**20:.0f} MiB for {PARKED}, a task after {1000 * (time.perf_counter() - began):.0f} ms")
            assert [result_of(it.result())["task"]["task_id"] for it in handed] == [made["task_id"]]
            assert growth < GROWTH_BYTES_MAX
            began = time.perf_counter()
            assert await asyncio.to_thread(serving.terminate) == 0
            took = time.perf_counter() - began
            print(f"stopped after {took:.2f} s")
            assert took < STOP_SECONDS
            said = Counter(map(ending, await asyncio.gather(*answers)))
    assert said.total() == PARKED
    assert said["task"] == 1
    assert said.keys() <= {"task", "nothing", "closed"}, said
    print(said)
    assert "Traceback" not in serving.log.read_text()


def ending(answer: bytes) -> str:
    if b"claim_next_task" not in answer and b'"task"' not in answer:
        return "closed"
    return "task" if result_of(answer)["task"] else "nothing"
