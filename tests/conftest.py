"""Real servers for the tests: each a process of its own, on a free port, with a database of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import Cluster, postgres

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

START_SECONDS = 30
STOP_SECONDS = 10


class ServerProcess:
    """A server; `start` may be called again, for the same port and database, once it has ended."""

    def __init__(self, directory: Path, *options: str, environ: dict[str, str] | None = None) -> None:
        self.database = directory / "tasks.db"
        self.record = f"sqlite:///{self.database}"
        self.log = directory / "server.log"
        self.options, self.environ = options, environ or {}
        self.port = 0
        self.url = ""

    def start(self) -> "ServerProcess":
        command = [sys.executable, "-m", "task_orchestrator", "serve", "--port", str(self.port)]
        command += ["--database", self.record, *self.options]
        with self.log.open("ab") as log:
            environ = {**os.environ, **self.environ}
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("Task Orchestrator is listening on http"), first + self.log.read_text()
        self.url = first.split()[-1]
        self.port = int(self.url.rpartition(":")[2])
        return self

    @property
    def pid(self) -> int:
        return self.process.pid

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, as a power failure of the process."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path).start()
    yield running
    if running.process.poll() is None:
        running.terminate()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of this process's own."""
    with postgres() as running:
        yield running


@pytest.fixture
def postgres_url(cluster: Cluster) -> Iterator[str]:
    """An empty database on it."""
    name = cluster.create_database()
    yield cluster.url(name)
    cluster.drop_database(name)
