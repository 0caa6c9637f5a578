"""Real servers for the tests: each a process of its own, on a free port, with a database of its own."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

from storage.encryption import EncryptionKey
from storage.sqlite.driver import Mode, connect
from tests.postgres import Cluster, postgres

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

ENCRYPTED = "encrypted"  # a record in a file of the server's own, by KEY
KEY = "5ec2e7" * 10 + "00ff"
ENCRYPTION_KEY = "APP_DATABASE_ENCRYPTION_KEY"

START_SECONDS = 30
STOP_SECONDS = 10


class ServerProcess:
    """A server; `start` may be called again, for the same port and database, once it has ended."""

    def __init__(
        self, directory: Path, *options: str, environ: dict[str, str] | None = None, record: str | None = None
    ) -> None:
        """`record`: the URL of the database, if not of a file of its own, or ENCRYPTED."""
        self.database = directory / "tasks.db"
        self.record = record if record not in (None, ENCRYPTED) else f"sqlite:///{self.database}"
        self.log = directory / "server.log"
        self.options, self.environ = options, environ or {}
        if record == ENCRYPTED:
            self.environ = {**self.environ, ENCRYPTION_KEY: KEY}
        self.under: tuple[str, ...] = ()  # a program that starts it
        self.module = "task_orchestrator"
        self.port = 0
        self.url = ""

    def start(self) -> "ServerProcess":
        command = [*self.under, sys.executable, "-m", self.module, "serve", "--port", str(self.port)]
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

    def opened(self, mode: Mode = "rw") -> "closing[sqlite3.Connection]":
        """The file of its record, as somebody else may open it."""
        text = self.environ.get(ENCRYPTION_KEY) or os.environ.get(ENCRYPTION_KEY)
        return closing(connect(self.database, mode, EncryptionKey(text, "the tests") if text else None))

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of the contract are asked of a server on each kind of record: a module says so by ON_EVERY_RECORD, but
    for those whose answer does not come from the record. Some are enough to know that an encrypted file is as a plain
    one: ON_ENCRYPTED_RECORD; with APP_DATABASE_ENCRYPTION_KEY in the environment all files are encrypted.
    """
    if "record" in metafunc.fixturenames:
        everywhere = getattr(metafunc.module, "ON_EVERY_RECORD", False)
        alone = metafunc.definition.get_closest_marker("once") is not None
        kinds = ["sqlite", "postgres"] if everywhere and not alone else ["sqlite"]
        if getattr(metafunc.module, "ON_ENCRYPTED_RECORD", False) and not alone:
            kinds.append(ENCRYPTED)
        metafunc.parametrize("record", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The URL of an empty database; None, or ENCRYPTED: a file of the server's own."""
    yield from _empty_database(request, getattr(request, "param", "sqlite"))


def _empty_database(request: pytest.FixtureRequest, kind: str) -> Iterator[str | None]:
    if kind in ("sqlite", ENCRYPTED):
        yield None if kind == "sqlite" else ENCRYPTED
        return
    cluster = request.getfixturevalue("cluster")
    name = cluster.create_database()
    yield cluster.url(name)
    cluster.drop_database(name)


def kind_of(record: str | None) -> str:
    return "sqlite" if record is None else ENCRYPTED if record == ENCRYPTED else "postgres"


@pytest.fixture(scope="module")
def other_record(request: pytest.FixtureRequest, record: str | None) -> Iterator[str | None]:
    """Another one, for a second server that does not share."""
    yield from _empty_database(request, kind_of(record))


@pytest.fixture
def own_record(request: pytest.FixtureRequest, record: str | None) -> Iterator[str | None]:
    """One for a test alone."""
    yield from _empty_database(request, kind_of(record))


@pytest.fixture
def server(tmp_path: Path, own_record: str | None) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path, record=own_record).start()
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
