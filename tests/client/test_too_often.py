"""A client that comes too often waits as long as it is told to, and loses nothing."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from task_orchestrator import Client, Refused, Unreachable, Worker
from task_orchestrator.backoff import TOLD_SECONDS_MAX, pause_after
from task_orchestrator.patience import patiently
from tests.conftest import ServerProcess


@pytest.fixture
def limited(tmp_path):
    """A server that lets through four requests a second, and no more than three at once."""
    settings = {"ENABLED": "true", "REQUESTS_PER_SECOND": "4", "BURST": "3"}
    server = ServerProcess(tmp_path, environ={f"APP_RATE_LIMIT_{name}": value for name, value in settings.items()})
    yield server.start()
    assert server.terminate() == 0


async def test_a_worker_that_comes_too_often_waits_and_does_its_work_all_the_same(limited, tmp_path):
    notices = []
    async with Client(limited.url) as client, Client(limited.url) as other:
        for number in range(3):
            await patiently(lambda number=number: client.submit(f"echo {number}", work_directory=str(tmp_path)))
        worker = Worker(
            client,
            str(tmp_path),
            "sh",
            logs=False,
            concurrency=3,
            lease_seconds=30,
            notice=lambda event, **facts: notices.append((event, facts)),
        )
        running = asyncio.create_task(worker.run())

        async def all_done():
            page = await patiently(lambda: other.list(status="completed"))
            return page["total"] == 3

        while not await all_done():
            pass  # it is paced by the server
        worker.stop()
        assert await running == 0
        says = await patiently(other.rate_limits)
        assert (says["enabled"], says["settings"]["burst"]) == (True, 3)
        assert says["refused"]["address"] >= 1
    told = [facts["pause_seconds"] for event, facts in notices if event in ("retrying", "reconnecting")]
    assert told
    assert all(pause >= 1.2 for pause in told)  # what the server said, and a bit of chance
    assert not [event for event, _ in notices if event in ("refused", "lost", "abandoned")]


@pytest.mark.parametrize(
    ("status", "said", "least", "most"),
    [
        (429, 3.0, 3.2, 3.4),
        (429, None, 0.2, 0.4),
        (429, 1e9, TOLD_SECONDS_MAX + 0.2, TOLD_SECONDS_MAX + 0.4),
        (503, 3.0, 0.2, 0.4),  # it may be back any moment
    ],
)
def test_only_who_comes_too_often_waits_longer(status, said, least, most):
    error = Refused(status, "SAID_SO", "no", {}, said)
    assert least <= pause_after(error, iter([0.3])) <= most


def test_without_an_answer_the_pause_is_the_usual_one():
    assert pause_after(Unreachable("gone"), iter([0.3])) == pause_after(None, iter([0.3])) == 0.3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("9" * 400, None)],
)
async def test_the_refusal_knows_when_to_come_again(header, seconds):
    async def refuse(request):
        headers = {"Retry-After": header} if header else None
        return web.json_response({"error": {"code": "RATE_LIMITED"}}, status=429, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(app) as server, Client(str(server.make_url("")).rstrip("/")) as client:
        for call in (client.limits(), anext(client.stream(work_directory="/a"))):
            with pytest.raises(Refused) as refused:
                await call
            assert (refused.value.temporary, refused.value.retry_after_seconds) == (True, seconds)
