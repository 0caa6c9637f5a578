"""Three real servers on one real PostgreSQL behind a real nginx, replaced one after the other under load."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ServerProcess
from tests.deploy.nginx import door
from tests.web.conftest import TASKS, connected, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts/setup brings nginx on Linux only")
TASKS_MADE, WORKERS = 120, 4


@contextmanager
def three(tmp_path, url):
    servers = []
    try:
        for number in range(3):
            place = tmp_path / str(number)
            place.mkdir()
            servers.append(ServerProcess(place, environ={"APP_DATABASE_MAX_CONNECTIONS": "20"}))
            servers[-1].record = url
        with ThreadPoolExecutor() as starting:  # all at once, on an empty database
            list(starting.map(ServerProcess.start, servers))
        yield servers
    finally:
        for it in servers:
            if hasattr(it, "process") and it.process.poll() is None:
                it.terminate()


async def insisted(api, path, body, **headers):
    """Say it until it is taken or refused, as whoever was told 502 or 503 should."""
    while True:
        answer = await api.call("POST", path, json=body, headers=headers)
        if answer.status not in (502, 503):
            return answer.data
        await asyncio.sleep(0.05)


async def submit(api, directory):
    for number in range(TASKS_MADE):
        body = {"work_directory": directory, "prompt": f"number {number}"}
        await insisted(api, TASKS, body, **{"Idempotency-Key": uuid4().hex})


async def work(api, directory, done):
    while len(done) < TASKS_MADE:
        asked = {"work_directory": directory, "claim_id": uuid4().hex, "wait_seconds": 1, "worker_id": "w"}
        for task in (await insisted(api, f"{TASKS}/claim", asked))["tasks"]:
            said = {"lease_token": task["lease_token"], "result": task["prompt"]}
            await insisted(api, f"{TASKS}/{task['task_id']}/complete", said)
            done.append(task["prompt"])


async def read(api, directory, done, answers):
    while len(done) < TASKS_MADE:
        answers.append((await api.get(TASKS, work_directory=directory, limit=1)).status)


async def replace(servers, done):
    """Each once, when some more tasks are done; the next one when the last is ready again."""
    for number, server in enumerate(servers, start=1):
        await until(lambda wanted=number * TASKS_MADE // 8: len(done) >= wanted)
        assert await asyncio.to_thread(server.terminate) == 0
        await asyncio.to_thread(server.start)
        async with connected(server) as direct:
            assert (await direct.get("/health/ready")).status == 200


async def counted(server, name):
    async with connected(server) as direct:
        text = (await direct.get("/metrics")).content.decode()
    samples = (it for family in text_string_to_metric_families(text) for it in family.samples)
    return sum(it.value for it in samples if it.name == name)


async def test_replaced_one_by_one_nothing_is_lost_or_done_twice(tmp_path, postgres_url, directory):
    with three(tmp_path, postgres_url) as servers:
        async with door(tmp_path, *servers) as api:
            done, answers = [], []
            workers = [work(api, directory, done) for _ in range(WORKERS)]
            async with asyncio.timeout(60):
                await asyncio.gather(
                    submit(api, directory), read(api, directory, done, answers), replace(servers, done), *workers
                )
            assert sorted(done) == sorted(f"number {number}" for number in range(TASKS_MADE))
            assert set(answers) == {200}
            listed = (await api.get(TASKS, work_directory=directory, limit=1000)).data["tasks"]
    assert {it["status"] for it in listed} == {"completed"}
    assert {(it["result"], it["retry_count"]) for it in listed} == {(prompt, 0) for prompt in done}


async def test_what_happened_is_counted_once_over_all_instances(tmp_path, postgres_url, directory):
    """So that a sum over the instances is the truth, as the dashboard has it; and each tells how many wait in all."""
    with three(tmp_path, postgres_url) as servers:
        async with door(tmp_path, *servers) as api:
            for _ in range(9):
                await api.create(directory)
        for server in servers:
            await until(lambda server=server: all_told(server))
        assert sum([await counted(it, "task_created_total") for it in servers]) == 9


async def all_told(server):
    return await counted(server, "waiting_tasks") == 9
