"""A real PostgreSQL for the tests: started by themselves, in a temporary directory, and gone with them."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

from attrs import define, field

START_SECONDS = 60
NOBODY = 65534  # root may not run it
DEBIAN = Path("/usr/lib/postgresql")
# Nothing of it has to survive a power failure.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "unix_socket_permissions": "0777",
    "timezone": "UTC",
}


def binary(name: str) -> str:
    """The newest one that is installed. Debian keeps them off the PATH."""
    places = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]), reverse=True)
    found = str(places[0]) if places else shutil.which(name)
    assert found, f"the tests need PostgreSQL, and there is no {name}: apt-get install postgresql"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@define(eq=False)
class Cluster:
    """One server. It listens on a Unix socket; with a `port`, on that of 127.0.0.1 too."""

    place: Path
    port: int | None = None
    settings: dict[str, str] = field(factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    _numbers: "count[int]" = field(factory=lambda: count(1))

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def number(self) -> int:
        """Names the socket, too."""
        return self.port or 5432

    def init(self) -> "Cluster":
        options = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        self.run("initdb", f"--pgdata={self.data}", *options)
        return self

    def run(self, name: str, *arguments: str) -> str:
        """One of PostgreSQL's own programs; what it says."""
        done = subprocess.run(
            [binary(name), *arguments],
            cwd=self.place,
            env=self._environ(),
            capture_output=True,
            text=True,
            **_as_nobody(),
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> "Cluster":
        """Returns when it takes connections."""
        listen = {"listen_addresses": "127.0.0.1" if self.port else "", "port": str(self.number)}
        given = SETTINGS | {"unix_socket_directories": str(self.place)} | listen | self.settings
        options = [f"--{name}={value}" for name, value in given.items()]
        with (self.place / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary("postgres"), "-D", str(self.data), *options],
                cwd=self.place,
                env=self._environ(),
                stdout=log,
                stderr=log,
                **_as_nobody(),
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        for _ in range(START_SECONDS * 20):
            assert self.process.poll() is None, (self.place / "postgres.log").read_text()
            ready = [binary("pg_isready"), "-q", "-h", str(self.place), "-p", str(self.number), "-t", "1"]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("PostgreSQL does not start: " + (self.place / "postgres.log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: at once and in good order. SIGQUIT: as if it had crashed."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(START_SECONDS)
            self.process = None

    def crash(self) -> None:
        """All its processes at once, as a power failure of the machine; but what was written is still there."""
        assert self.process is not None
        for pid in (self.process.pid, *self._children()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(START_SECONDS)
        self.process = None

    def _children(self) -> Iterator[int]:
        assert self.process is not None
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    yield int(stat.parent.name)

    def backends(self, user: str) -> list[int]:
        """The processes that serve the connections of a user."""
        found = self.sql(f"select pid from pg_stat_activity where usename = '{user}' and pid <> pg_backend_pid()")
        return [int(pid) for pid in found.split()]

    def terminate_backends(self, user: str) -> None:
        self.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}'")

    def url(self, database: str = "postgres", *, tcp: bool = False) -> str:
        if tcp:
            return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        return f"postgresql://postgres@/{database}?host={quote(str(self.place), safe='/')}&port={self.number}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql says, one line per row."""
        where = ["-h", str(self.place), "-p", str(self.number), "-U", "postgres", "-d", database]
        return self.run("psql", *where, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement).strip()

    def create_database(self) -> str:
        """An empty one; its name."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.sql(f"create database {name}")
        return name

    def drop_database(self, name: str) -> None:
        self.sql(f"drop database {name} with (force)")

    def _environ(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.place), "LC_ALL": "C"}


def _as_nobody() -> dict[str, object]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def postgres(port: int | None = None, settings: dict[str, str] | None = None) -> Iterator[Cluster]:
    """A new server, running."""
    with directory() as place:
        cluster = Cluster(place, port, settings or {}).init().start()
        try:
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def directory() -> Iterator[Path]:
    """Where a server may lie. Sockets have short names, hence the system's own temporary directory."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        place = Path(name)
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        place.chmod(0o755)
        yield place
