"""A server and its PostgreSQL: it waits for it, says what is wrong with it, and tells nobody the password."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.conftest import ServerProcess
from tests.postgres import Cluster, free_port, postgres
from tests.web.conftest import Api, connected, raw, refused_start, text_of, until

SECRET = "open-sesame"
NOWHERE = f"postgresql://ann:{SECRET}@127.0.0.1:1/tasks"


@pytest.fixture
def stopped() -> Iterator[Cluster]:
    """One that is ready to be started."""
    with postgres() as cluster:
        cluster.stop()
        yield cluster


async def says(port: int, path: str) -> tuple[int, str] | None:
    try:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, (await answer.json())["status"]
    except OSError:
        return None


def started(directory: Path, url: str, port: int = 0, **environ: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "task_orchestrator", "serve", "--port", str(port), "--database", url]
    settings = {"env": {**os.environ, **environ}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=directory, **settings)


async def test_it_waits_for_its_database_and_says_so(tmp_path: Path, stopped: Cluster) -> None:
    port = free_port()
    process = started(tmp_path, stopped.url(), port)
    try:
        await until(lambda: says(port, "/health/ready"))
        assert await says(port, "/health/live") == (200, "alive")
        assert await says(port, "/health/ready") == (503, "starting")
        stopped.start()

        async def ready() -> bool:
            return await says(port, "/health/ready") == (200, "ready")

        await until(ready)
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=15)
    assert process.returncode == 0
    assert out.startswith("Task Orchestrator is listening on")


async def test_who_stops_it_meanwhile_need_not_wait(tmp_path: Path) -> None:
    port = free_port()
    process = started(tmp_path, NOWHERE, port)
    await until(lambda: says(port, "/health/live"))
    process.terminate()
    out, log = process.communicate(timeout=5)
    assert (process.returncode, out) == (0, "")
    assert "told to stop while starting" in log


def test_a_database_that_does_not_come_is_told_in_one_line(tmp_path: Path) -> None:
    process = started(tmp_path, NOWHERE, APP_DATABASE_TIMEOUT_SECONDS="1", LOG_LEVEL="error")
    _, log = process.communicate(timeout=15)
    assert process.returncode == 1
    (line,) = log.splitlines()
    assert line.startswith("task-orchestrator cannot start: PostgreSQL")
    assert SECRET not in log


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h:0/x",
        "postgresql://u@h:99999/x",
        "postgresql://u@h/a b",
        "mysql://u@h/x",
        "postgres:/x",
    ],
)
def test_a_url_that_cannot_be_one_is_refused_before_anything_is_tried(tmp_path: Path, url: str) -> None:
    process = started(tmp_path, url)
    _, log = process.communicate(timeout=15)
    assert process.returncode == 2
    assert log.startswith("--database: must be ")


def test_bounds_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    more = {"APP_DATABASE_MAX_CONNECTIONS": "5", "APP_DATABASE_MIN_CONNECTIONS": "6"}
    done = refused_start(tmp_path / "tasks.db", **more)
    assert done.returncode == 2
    assert "APP_DATABASE_MIN_CONNECTIONS" in done.stderr


def test_without_the_driver_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "asyncpg.py").write_text("raise ModuleNotFoundError(name='asyncpg')")
    process = started(tmp_path, NOWHERE, PYTHONPATH=str(tmp_path))
    _, log = process.communicate(timeout=15)
    assert process.returncode == 1
    assert log == "task-orchestrator cannot start: asyncpg is missing, which PostgreSQL takes: pip install asyncpg\n"


async def test_nobody_is_told_the_password(tmp_path: Path, cluster: Cluster) -> None:
    """Neither by the greeting nor by the log, the settings or the health."""
    name = cluster.create_database()
    url = cluster.url(name).replace("postgres@", f"postgres:{SECRET}@")
    server = ServerProcess(tmp_path, record=url).start()
    try:
        async with connected(server) as api:
            settings = (await api.get("/api/v1/config")).data["settings"]
            shown = settings["database.url"]["value"]
            assert shown == f"postgresql://postgres@/{name}"
            await _looks_everywhere(api)
        assert (await raw(server, text_of("GET", "/health"))).status == 200
    finally:
        server.process.terminate()
        out, _ = server.process.communicate(timeout=15)
        cluster.drop_database(name)
    assert SECRET not in out + server.log.read_text()


async def _looks_everywhere(api: Api) -> None:
    for path in ("/health", "/metrics", "/api/v1/config", "/api/v1/config/history", "/api/v1/limits", "/openapi.json"):
        assert SECRET.encode() not in (await api.get(path)).content


# What a later release may do to the schema: whatever the one before it need not know.
NEXT = """
    alter table tasks add column cost numeric, add column kind text not null default 'plain';
    alter table history add column origin text;
    create table budgets (work_directory text primary key, cost numeric not null);
    create index tasks_by_kind on tasks (kind, arrival);
    update schema_version set version = version + 1"""


async def test_while_instances_are_replaced_the_old_one_works_on_the_schema_of_the_new(
    tmp_path: Path, cluster: Cluster
) -> None:
    """Before, while and after the schema is brought up to date, and also when it starts anew."""
    name = cluster.create_database()
    server = ServerProcess(tmp_path, record=cluster.url(name)).start()
    try:
        async with connected(server) as api:
            before = await api.claimed("/old", tags=["a"])
            cluster.sql(NEXT, name)
            assert (await api.tell(before, "complete", result=1)).status == 200
            await _lives(api, "/during")
        server.terminate()
        server.start()
        async with connected(server) as api:
            await _lives(api, "/after")
            events = (await api.call("GET", "/api/v1/events", headers={"Accept": "application/json"})).data["events"]
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        cluster.sql("update schema_version set version = version + 1", name)
        server.terminate()
        refused = started(tmp_path, cluster.url(name))
        _, log = refused.communicate(timeout=15)
        assert refused.returncode == 1
        assert "use a newer release" in log
    finally:
        if server.process.poll() is None:
            server.terminate()
        cluster.drop_database(name)


async def _lives(api: Api, directory: str) -> None:
    """A task through its whole life, and what is told of it."""
    task = await api.claimed(directory, tags=["a"], metadata={"b": 1})
    assert (await api.tell(task, "heartbeat", metadata={"session_id": "s"})).status == 200
    assert (await api.tell(task, "fail", error_message="no", retryable=True, retry_after_seconds=0)).status == 200
    again = await api.next(directory, tags="a")
    assert again["metadata"] == {"b": 1, "session_id": "s"}
    assert (await api.tell(again, "complete", result={"c": 2})).status == 200
    listed = (await api.get("/api/v1/tasks", work_directory=directory, tags="a", q="tidy")).data["tasks"]
    assert [(it["task_id"], it["status"]) for it in listed] == [(task["task_id"], "completed")]
    kept = await api.create(directory, depends_on=[task["task_id"]])
    assert (await api.call("PATCH", f"/api/v1/tasks/{kept['task_id']}", json={"priority": "high"})).status == 200
    assert (await api.post(f"/api/v1/tasks/{kept['task_id']}/cancel", {})).status == 200
    assert (await api.call("DELETE", f"/api/v1/tasks/{kept['task_id']}")).status == 200


async def test_while_its_database_is_away_it_says_so_and_goes_on_by_itself(tmp_path: Path, stopped: Cluster) -> None:
    """What is asked for meanwhile waits, or is turned down at once; nothing is lost and nothing done twice."""
    stopped.start()
    server = ServerProcess(tmp_path, record=stopped.url()).start()
    try:
        async with connected(server) as api:
            await api.create("/w", "before")
            stopped.stop(signal.SIGQUIT)
            waiting = asyncio.create_task(api.create("/w", "meanwhile"))

            async def cut_off() -> bool:
                return (await api.get("/health/ready")).json["status"] == "cut off"

            await until(cut_off)
            refused = await api.post("/api/v1/tasks", {"work_directory": "/w", "prompt": "turned down"})
            assert refused.refused(503, "UNAVAILABLE") == {}
            assert int(refused.headers["Retry-After"]) >= 1
            (await api.get("/api/v1/tasks")).refused(502, "DATABASE_ERROR")
            health = await api.get("/health")
            assert (health.status, health.json["status"], health.json["database"]) == (503, "unhealthy", "unreachable")
            assert (await api.get("/health/live")).status == 200
            assert (await api.get("/metrics")).status == 200
            stopped.start()
            await waiting
            listed = (await api.get("/api/v1/tasks", work_directory="/w", sort="created_at")).data["tasks"]
            assert [task["prompt"] for task in listed] == ["before", "meanwhile"]
            assert (await api.get("/health/ready")).json == {"status": "ready"}
        stopped.stop(signal.SIGQUIT)
        assert server.terminate() == 0  # it need not be there to say goodbye to
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()
