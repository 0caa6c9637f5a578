"""The way to PostgreSQL: who is at its other end is checked, and a server that may not go it says so at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlencode

import pytest
import trustme
from attrs import frozen

from storage.errors import StorageError
from storage.postgres.tls import doubts, refuse_unusable
from tests.client.processes import run_cli
from tests.conftest import ServerProcess
from tests.postgres import NOBODY, Cluster, directory, free_port
from tests.web.conftest import connected
from tests.web.test_postgres import started

AT_ONCE_SECONDS = 60  # it would try for an hour
PATIENT = {"APP_DATABASE_TIMEOUT_SECONDS": "3600"}


@frozen
class Secured:
    """A PostgreSQL that takes TLS, by a certificate for localhost alone."""

    cluster: Cluster
    place: Path  # where certificates are: those by which it is checked, and others

    def url(self, database: str, host: str, **query: str) -> str:
        return f"postgresql://postgres@{host}:{self.cluster.port}/{database}?{urlencode(query)}"

    def root(self, name: str = "root.pem") -> str:
        return str(self.place / name)


@contextmanager
def secured() -> Iterator[Secured]:
    with directory() as place:
        ours, others = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(str(place / "root.pem"))
        others.cert_pem.write_to_path(str(place / "others.pem"))
        certificate = ours.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(str(place / "server.pem"))
        key = place / "server.key"
        certificate.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(key, NOBODY, NOBODY)
        tls = {"ssl": "on", "ssl_cert_file": str(place / "server.pem"), "ssl_key_file": str(key)}
        cluster = Cluster(place, free_port(), tls).init().start()
        try:
            yield Secured(cluster, place)
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def tls() -> Iterator[Secured]:
    with secured() as running:
        yield running


@pytest.fixture
def name(tls: Secured) -> Iterator[str]:
    name = tls.cluster.create_database()
    yield name
    tls.cluster.drop_database(name)


async def test_with_the_right_certificate_everything_is_encrypted_and_checked(
    tmp_path: Path, tls: Secured, name: str
) -> None:
    url = tls.url(name, "localhost", sslmode="verify-full", sslrootcert=tls.root())
    server = ServerProcess(tmp_path, record=url).start()
    try:
        async with connected(server) as api:
            task = await api.claimed("/w")
            assert (await api.tell(task, "complete", result=1)).status == 200
        open_ones = f"select ssl, count(*) from pg_stat_ssl join pg_stat_activity using (pid) where datname = '{name}'"
        assert tls.cluster.sql(f"{open_ones} and application_name = 'task-orchestrator' group by ssl").startswith("t|")
        assert "|" in tls.cluster.sql(f"{open_ones} group by ssl")
    finally:
        assert server.terminate() == 0
    assert "checks it" not in server.log.read_text()


@pytest.mark.parametrize(
    ("host", "mode", "root", "says"),
    [
        ("localhost", "verify-full", "others.pem", "its certificate is not accepted: "),
        ("localhost", "verify-ca", "others.pem", "its certificate is not accepted: "),
        ("127.0.0.1", "verify-full", "root.pem", "its certificate is not accepted: IP address mismatch"),
        ("localhost", "verify-full", "none.pem", "none.pem cannot be read: No such file or directory"),
        ("localhost", "verify-full", "server.key", "server.key holds no certificate"),
        ("localhost", "verify_full", "root.pem", "sslmode must be one of disable, allow, prefer, require, verify-ca"),
    ],
)
def test_what_cannot_be_trusted_is_refused_at_once(
    tmp_path: Path, tls: Secured, host: str, mode: str, root: str, says: str
) -> None:
    began = monotonic()
    url = tls.url("postgres", host, sslmode=mode, sslrootcert=tls.root(root))
    process = started(tmp_path, url, **PATIENT)
    out, log = process.communicate(timeout=AT_ONCE_SECONDS)
    assert (process.returncode, out) == (1, "")
    (line,) = log.splitlines()
    assert line.startswith(f"task-orchestrator cannot start: PostgreSQL at {host}:{tls.cluster.port}/postgres: ")
    assert says in line
    assert monotonic() - began < AT_ONCE_SECONDS


def test_a_database_without_tls_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    with directory() as place:
        cluster = Cluster(place, free_port()).init().start()
        try:
            process = started(tmp_path, f"{cluster.url(tcp=True)}?sslmode=require", **PATIENT)
            out, log = process.communicate(timeout=AT_ONCE_SECONDS)
        finally:
            cluster.stop()
    assert (process.returncode, out) == (1, "")
    (line,) = [line for line in log.splitlines() if line.startswith("task-orchestrator cannot start: ")]
    assert line.endswith("it offers no TLS, and sslmode asks for it")


async def test_who_encrypts_without_checking_is_warned(tmp_path: Path, tls: Secured, name: str) -> None:
    server = ServerProcess(tmp_path, record=tls.url(name, "127.0.0.1", sslmode="require")).start()
    assert server.terminate() == 0
    (warning,) = [line for line in server.log.read_text().splitlines() if "checks it" in line]
    assert "encrypted, but with whom is not checked: sslmode=verify-full&sslrootcert=FILE checks it" in warning


async def test_a_move_goes_the_same_way(tmp_path: Path, tls: Secured) -> None:
    for root, says in (("others.pem", "its certificate is not accepted: "), ("none.pem", "cannot be read: No such")):
        url = tls.url("postgres", "localhost", sslmode="verify-full", sslrootcert=tls.root(root))
        refused = await run_cli("migrate", "--from", url, "--to", f"sqlite:///{tmp_path}/new.db")
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (1, "", 1), refused
        assert says in refused.err


@pytest.mark.parametrize(
    ("place", "query", "doubted"),
    [
        ("ann@db.example/x", "", "may be that the connection is not encrypted"),
        ("ann@db.example:5432,[::1]:5433/x", "sslmode=prefer", "may be that"),
        ("ann@127.0.0.1/x", "sslmode=require", "with whom is not checked"),
        ("/x", "host=db.example&sslmode=allow", "may be that"),
        ("ann@db.example/x", "sslmode=require&sslrootcert=/root.pem", None),  # it is checked then, but for the name
        ("ann@db.example/x", "sslmode=verify-full", None),
        ("ann@db.example/x", "sslmode=disable", None),
        ("ann@127.0.0.1:5432,[::1]:5433,localhost/x", "", None),
        ("ann@/x", "host=/run/postgresql", None),
        ("/x", "", None),
    ],
)
def test_it_is_told_when_nobody_checks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, query: str, doubted: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    doubt = doubts(f"postgresql://{place}{'?' if query else ''}{query}")
    assert doubt is None if doubted is None else doubted in (doubt or "")


def test_the_environment_may_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert doubts("postgresql://ann@db.example/x") is None
    with pytest.raises(StorageError, match="sslmode=verify-full needs sslrootcert=FILE"):
        refuse_unusable("postgresql://ann@db.example/x")
    monkeypatch.setenv("PGSSLMODE", "always")
    with pytest.raises(StorageError, match="sslmode must be one of"):
        refuse_unusable("postgresql://ann@db.example/x")
    refuse_unusable("postgresql://ann@db.example/x?sslmode=disable")
    with pytest.raises(StorageError, match="name=value"):
        refuse_unusable("postgresql://ann@db.example/x?sslmode")
