"""Cancel, retry and the rest that people do to tasks from outside, against a real server."""

import asyncio
import signal
from asyncio.subprocess import PIPE

import pytest

from task_orchestrator import Client, Refused, Unreachable
from task_orchestrator.patience import patiently
from tests.client.processes import run_cli, start, until
from tests.conftest import ServerProcess

LONG = "touch begun; sleep 1000"


@pytest.fixture
def submitted(client, directory):
    """Submit a task of this test's directory; returns its id."""

    async def submit(prompt="x", **fields):
        return (await client.submit(prompt, work_directory=str(directory), **fields))["task_id"]

    return submit


async def test_cancel(cli, client, directory, submitted):
    """A waiting task is cancelled, a working one only with --force, and nothing twice."""
    task_id = await submitted()
    done = await cli("cancel", task_id, "--reason", "no need")
    assert (done.code, done.out, done.err) == (0, f"{task_id} cancelled\n", "")
    assert (await client.get(task_id))["status"] == "cancelled"
    assert (await client.history(task_id))[-1]["details"]["reason"] == "no need"
    done = await cli("cancel", task_id)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("refused (409 INVALID_STATE): ")
    task_id = await submitted()
    await client.claim(work_directory=str(directory))
    assert (await cli("cancel", task_id)).code == 1
    assert (await cli("cancel", task_id, "--force", "--json")).json["status"] == "cancelled"


async def test_retry(cli, client, directory, submitted):
    """A failed task waits again; another cannot be tried again."""
    task_id = await submitted()
    assert (await cli("retry", task_id)).code == 1
    for options in ((), ("--json",)):
        (claimed,) = await client.claim(work_directory=str(directory))
        await client.fail(task_id, "broken", lease_token=claimed["lease_token"])
        done = await cli("retry", task_id, *options)
        assert done.code == 0
        assert done.json["status"] == "waiting" if options else done.out == f"{task_id} waiting\n"
    assert (await client.get(task_id))["retry_count"] == 2


async def test_the_client_cancels_and_retries(client, directory, submitted):
    """Its methods answer with the whole task."""
    task_id = await submitted()
    (claimed,) = await client.claim(work_directory=str(directory), claim_id="one claim")
    assert await client.claim(work_directory=str(directory), claim_id="one claim") == [claimed]
    await client.fail(task_id, "broken", lease_token=claimed["lease_token"])
    assert (await client.retry(task_id))["status"] == "waiting"
    await client.claim(work_directory=str(directory))
    with pytest.raises(Refused):
        await client.cancel(task_id)
    assert (await client.cancel(task_id, "over", force=True))["prompt"] == "x"


async def test_priority(cli, client, directory, submitted):
    """Of several tasks at once; those whose priority cannot change are named, and the others change."""
    first, second = await submitted(), await submitted()
    done = await cli("priority", "high", first, second, first, "--reason", "urgent")
    assert (done.code, done.out, done.err) == (0, f"{first} high\n{second} high\n", "")
    assert [(await client.get(task_id))["priority"] for task_id in (first, second)] == ["high", "high"]
    assert (await client.history(first))[-1]["details"] == {"changed": ["priority"], "reason": "urgent"}
    await client.cancel(first)
    done = await cli("priority", "low", first, second, "nobody")
    assert (done.code, done.out) == (1, f"{second} low\n")
    assert done.err == f"refused (INVALID_STATE): {first}\nrefused (TASK_NOT_FOUND): nobody\n"
    done = await cli("priority", "medium", first, second, "--json")
    assert done.code == 1
    assert done.json["skipped"] == [{"task_id": first, "code": "INVALID_STATE"}]
    for wrong in (["urgent", first], ["low"], [first]):
        assert (await cli("priority", *wrong)).code == 2


async def test_the_client_steers_many(client, directory, submitted):
    """By ids or by a filter, which may not be empty unless all are meant."""
    ids = [await submitted() for _ in range(3)]
    nothing = {"skipped": [], "skipped_count": 0}
    only = {"work_directory": str(directory)}
    assert await client.steer_many("cancel", filter=only, dry_run=True) == {"matched": 3, "changed": 3, **nothing}
    assert await client.steer_many("cancel", ids=ids[:2], reason="over") == {"matched": 2, "changed": 2, **nothing}
    with pytest.raises(Refused) as refused:
        await client.steer_many("delete", filter={})
    assert refused.value.code == "FILTER_TOO_WIDE"
    assert (await client.steer_many("delete", filter={}, all=True))["changed"] == 2


async def test_an_idempotency_key(client, submitted):
    """With the same key the same task comes back, and no second one is made."""
    assert await submitted(idempotency_key="k") == await submitted(idempotency_key="k")
    assert (await client.list())["total"] == 1


async def test_list_takes_what_the_server_takes(client, directory, tmp_path, submitted):
    """One directory, a limit and an offset."""
    tasks = [await submitted() for _ in range(3)]
    await client.submit("elsewhere", work_directory=str(tmp_path))
    page = await client.list(work_directory=str(directory), limit=1, offset=1)
    assert [task["task_id"] for task in page["tasks"]] == [tasks[1]]
    assert page["total"] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_once_interrupted(server, client, worker, directory, submitted, number):
    """The one task was not done: it is given back, and the exit code is 1."""
    task_id = await submitted(LONG)
    running = await worker(server.url, directory, "sh", "--once")
    await until((directory / "begun").exists)
    running.send(number)
    assert await running.exit_code() == 1
    assert (await client.get(task_id))["status"] == "waiting"


@pytest.mark.parametrize("options", [(), ("--once",)])
async def test_tags_of_a_worker(server, client, worker, directory, submitted, options):
    """It takes only tasks that bear all of them."""
    other = await submitted("true", tags=["a"])
    ours = await submitted("true", tags=["a", "b c"])
    await worker(server.url, directory, "sh", "--tag", "a", "--tag", "b c", *options)
    assert (await client.get(ours, wait_seconds=30, until="terminal"))["status"] == "completed"
    assert (await client.get(other))["status"] == "waiting"


async def test_the_key_is_not_the_commands(server, client, directory, submitted):
    """A command finds no API key in its environment."""
    arguments = ("worker", "--once", "--work-directory", str(directory), "--exec", "env")
    task_id = await submitted()
    environ = {"TASK_ORCHESTRATOR_API_KEY": "secret-key", "A_KEY": "other"}
    process = await start(*arguments, url=server.url, stdout=PIPE, environ=environ)
    await process.communicate()
    said = (await client.get(task_id))["result"]["output"]
    assert "A_KEY=other" in said
    assert "secret-key" not in said


async def test_waiting_and_watching_outlast_a_restart(server, client, directory, submitted):
    """A server that goes and comes back does not end them, and they say so once."""
    wait = ("submit", "x", "--wait", "--work-directory", str(directory))
    waiting = await start(*wait, url=server.url, stdout=PIPE, stderr=PIPE)
    task_id = (await asyncio.wait_for(waiting.stderr.readline(), 30)).decode().strip()
    watching = await start("watch", task_id, url=server.url, stdout=PIPE, stderr=PIPE)
    assert b"created" in await asyncio.wait_for(watching.stdout.readline(), 30)
    server.kill()
    for process in (waiting, watching):
        assert b"trying again" in await asyncio.wait_for(process.stderr.readline(), 30)
    server.start()
    (claimed,) = await client.claim(work_directory=str(directory))
    await client.complete(task_id, lease_token=claimed["lease_token"], result="fine")
    for process in (waiting, watching):
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, err) == (0, b"")
        assert b"completed" in out


async def test_patience_has_an_end():
    """When the time is over the last error is told."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable):
            await patiently(client.health, seconds=0.5)


async def test_a_directory_of_another_machine(cli, client, directory):
    """It is noted, and the task is submitted all the same."""
    done = await cli("submit", "x", "--work-directory", f"{directory}/nowhere")
    assert (done.code, done.err) == (0, f"note: {directory}/nowhere does not exist on this machine\n")
    assert (await client.get(done.out.strip()))["status"] == "waiting"


async def test_a_missing_key(tmp_path):
    """The error says where the key belongs."""
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": "k" * 40}).start()
    try:
        done = await run_cli("list", url=server.url)
    finally:
        server.terminate()
    assert (done.code, done.err.splitlines()[-1]) == (1, "give the right key in TASK_ORCHESTRATOR_API_KEY")


async def test_a_worker_says_that_it_waits(server, directory):
    """Also when the connection was lost meanwhile."""
    arguments = ("worker", "--work-directory", str(directory), "--exec", "sh")
    process = await start(*arguments, url=server.url, stdout=PIPE, stderr=PIPE)
    line = f"waiting for tasks of {directory} at {server.url}\n".encode()
    try:
        assert await asyncio.wait_for(process.stderr.readline(), 30) == line
        server.kill()
        server.start()
        assert await asyncio.wait_for(process.stderr.readline(), 30) == line
    finally:
        process.terminate()
        await process.communicate()


async def test_show_a_working_task(cli, client, directory, submitted):
    """Until when its worker holds it, and how far it says it is."""
    task_id = await submitted()
    (claimed,) = await client.claim(work_directory=str(directory), lease_seconds=60)
    progress = {"percent": 40, "message": "half way"}
    await client.heartbeat(task_id, claimed["lease_token"], lease_seconds=60, progress=progress)
    shown = (await cli("show", task_id)).out
    assert "\nlease_expires_at 20" in shown
    assert "\nprogress         40 % half way\n" in shown
