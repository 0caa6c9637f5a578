"""A server and its PostgreSQL: it waits for it, says what is wrong with it, and tells nobody the password."""

import os
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
    assert log == "task-orchestrator cannot start: asyncpg is missing: pip install 'task-orchestrator[postgres]'\n"


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
