"""TLS on real sockets: the certificate and its renewal, what is refused at the start, who dawdles, and the client."""

import asyncio
import os
import signal
import socket
import ssl
import sys
from asyncio.subprocess import DEVNULL
from contextlib import asynccontextmanager, closing

import pytest
import trustme
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from task_orchestrator.client import Client
from task_orchestrator.errors import Unreachable
from tests.postgres import free_port
from tests.web.conftest import PATIENCE_SECONDS, TASKS, Api, refused_start, running, text_of, until
from web.access.tls import Certificate, certificate_of
from web.server_log import Log
from web.settings import Server, SettingsError
from web.starting import starting

END = "-----END CERTIFICATE-----"
HSTS = "Strict-Transport-Security"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def issue(authority, directory, *names):
    """A certificate and its key in these files, in place of those before."""
    made = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
    made.private_key_pem.write_to_path(directory / "new.key")
    (directory / "new.key").chmod(0o600)
    (directory / "new.pem").write_bytes(b"".join(it.bytes() for it in made.cert_chain_pems))
    (directory / "new.key").replace(directory / "server.key")
    (directory / "new.pem").replace(directory / "server.pem")
    leaf = (directory / "server.pem").read_text().partition(END)[0]
    return ssl.PEM_cert_to_DER_cert(f"{leaf}{END}")


def files(directory):
    return {"APP_SERVER_TLS_CERT": str(directory / "server.pem"), "APP_SERVER_TLS_KEY": str(directory / "server.key")}


@pytest.fixture
def secured(tmp_path, authority):
    issue(authority, tmp_path)
    with running(tmp_path, **files(tmp_path), APP_SERVER_REQUEST_TIMEOUT_SECONDS="2") as server:
        yield server


@pytest.fixture
def believing(authority):
    """Believes the authority of these tests, and no other."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def calling(server, context):
    connector, timeout = TCPConnector(ssl=context, limit=0), ClientTimeout(total=PATIENCE_SECONDS)
    watched = asyncio.get_running_loop()._selector.get_map()  # no other way to see a TLS connection end
    before = len(watched)
    async with ClientSession(connector=connector, timeout=timeout) as session:
        yield Api(session, server.url)
    await until(lambda: len(watched) <= before)
    await asyncio.sleep(0)


async def shown(server, context, name="localhost"):
    """The certificate that a new connection gets to see."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname=name)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found


def hang_up(server):
    os.kill(server.pid, signal.SIGHUP)


async def test_a_life_of_a_task_over_tls(secured, believing):
    assert secured.url.startswith("https://127.0.0.1:")
    async with calling(secured, believing) as api, api.stream("/a") as events:
        made = await api.create("/a")
        task = await events.task()
        assert task["task_id"] == made["task_id"]
        assert (await api.tell(task, "complete")).status == 200


async def test_nothing_that_is_handed_out_is_held_up(secured, believing):
    """What the encryption still has in hand is waited for, and nothing else."""
    async with calling(secured, believing) as api, api.stream("/b") as events:
        for round in range(8):
            await api.create("/a", "x" * (1 + 1200 * round))
            assert (await api.tell(await api.next("/a"), "complete")).status == 200
            await api.create("/b")
            task = await events.task()
            assert (await api.tell(task, "heartbeat", lease_seconds=0.02)).status == 200
            assert (await events.next())[0] == "cancel"
            assert (await api.tell(await events.task(), "complete")).status == 200


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
@pytest.mark.parametrize("how", ["stream", "claim"])
async def test_what_a_worker_does_not_read_is_given_back(secured, believing, how, leaves):
    """It was handed a hundred large tasks at once, and reads none; whether it goes or only stays deaf."""
    async with calling(secured, believing) as api:
        large = {"metadata": {"a": "x" * 65_000}}
        made = await asyncio.gather(*(api.create("/a", **large) for _ in range(100)))
        query, body = "work_path=/a&capacity=100", {"work_directory": "/a", "limit": 100}
        ask = ("GET", f"{TASKS}/stream?{query}") if how == "stream" else ("POST", f"{TASKS}/claim", body)
        with closing(await asyncio.to_thread(ask_deafly, secured, believing, text_of(*ask))) as deaf:

            async def handed_out():
                return await api.status(made[-1]) == "working"

            await until(handed_out)
            if leaves:
                deaf.close()
            again = await api.next("/a", wait_seconds=10)
        assert (again["attempt"], again["retry_count"]) == (2, 0)


def ask_deafly(server, context, request):
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", server.port))
    deaf = context.wrap_socket(plain, server_hostname="localhost")
    deaf.sendall(request)
    return deaf


async def test_the_certificate_is_renewed_while_connections_stay(secured, believing, authority, tmp_path):
    """A stream goes on, a connection that idles too, and whoever comes anew sees the new one."""
    async with calling(secured, believing) as old, calling(secured, believing) as other:
        first = await shown(secured, believing)
        assert (await other.get("/health/live")).status == 200
        async with old.stream("/a") as events:
            second = issue(authority, tmp_path)
            assert second != first
            hang_up(secured)

            async def is_renewed():
                return await shown(secured, believing) == second

            await until(is_renewed)
            made = await other.create("/a")
            assert (await events.task())["task_id"] == made["task_id"]
    assert "the certificate was read again" in secured.log.read_text()


async def test_a_bad_certificate_leaves_the_good_one_in_force(secured, believing, authority, tmp_path):
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"
    first = await shown(secured, believing)
    whole = cert.read_bytes()
    another_key = authority.issue_cert("localhost").private_key_pem.bytes()
    for number, (file, content) in enumerate([(cert, None), (cert, b"x"), (cert, whole[:400]), (key, another_key)], 1):
        cert.write_bytes(whole)
        file.unlink() if content is None else file.write_bytes(content)
        hang_up(secured)
        await until(lambda times=number: secured.log.read_text().count("the certificate stays as it was") == times)
        assert await shown(secured, believing) == first
    second = issue(authority, tmp_path)
    hang_up(secured)
    await until(lambda: "the certificate was read again" in secured.log.read_text())
    assert await shown(secured, believing) == second != first


@pytest.fixture
def faulty(tmp_path, authority):
    """Files by their names; good ones are `server.pem` and `server.key`."""
    issue(authority, tmp_path)
    authority.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "other.key")
    (tmp_path / "text.pem").write_text("no certificate")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    (tmp_path / "garbled.pem").write_text(f"{begin}\nAAAA\n{end}\n")
    key = load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.key").write_bytes(key.private_bytes(*form))
    return tmp_path


@pytest.mark.parametrize(
    ("cert", "key", "setting", "file", "reason"),
    [
        ("none.pem", "server.key", "server.tls_cert", "none.pem", "cannot be read: No such file"),
        ("server.pem", "none.key", "server.tls_key", "none.key", "cannot be read: No such file"),
        ("", "server.key", "server.tls_cert", "", "cannot be read: Is a directory"),
        ("text.pem", "server.key", "server.tls_cert", "text.pem", "holds no certificate in PEM"),
        ("server.key", "server.key", "server.tls_cert", "server.key", "holds no certificate in PEM"),
        ("server.pem", "server.pem", "server.tls_key", "server.pem", "holds no private key in PEM"),
        ("server.pem", "other.key", "server.tls_key", "other.key", "is not the key of"),
        ("server.pem", "locked.key", "server.tls_key", "locked.key", "is encrypted"),
        ("garbled.pem", "server.key", "server.tls_cert", "garbled.pem", "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_setting_and_its_file(faulty, cert, key, setting, file, reason):
    with pytest.raises(SettingsError) as caught:
        Certificate(str(faulty / cert), str(faulty / key))
    (fault,) = caught.value.faults
    assert fault.field == setting
    assert str(faulty / file) in fault.reason
    assert reason in fault.reason


def test_a_certificate_that_cannot_be_used_is_told_at_the_start(tmp_path):
    """In one line, and no database is made."""
    refused = refused_start(tmp_path / "new" / "tasks.db", **files(tmp_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"server.tls_cert: {tmp_path}/server.pem cannot be read: No such file or directory\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("given", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_a_certificate_needs_its_key_and_a_key_its_certificate(tmp_path, given, missing):
    refused = refused_start(tmp_path / "tasks.db", **{f"APP_SERVER_TLS_{given}": "file"})
    assert refused.returncode == 2
    assert f"server.tls_{missing.lower()}" in refused.stderr
    assert "is required with" in refused.stderr


async def test_a_key_that_everybody_can_read_is_told(tmp_path, authority):
    issue(authority, tmp_path)
    (tmp_path / "server.key").chmod(0o644)
    with running(tmp_path, **files(tmp_path)) as server:
        assert "server.key can be read by every user" in server.log.read_text()
    server.log.unlink()
    (tmp_path / "server.key").chmod(0o640)
    with running(tmp_path, **files(tmp_path)) as server:
        assert "can be read" not in server.log.read_text()


async def test_who_does_not_finish_the_greeting_is_cut_off(secured, believing):
    """Silence, nonsense, plain HTTP and half a greeting; meanwhile the others are served, and nothing is an error."""
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        believing.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    half = hello.read()[:60]
    sockets = []
    for said in (b"", half, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(200)):
        it = socket.create_connection(("127.0.0.1", secured.port))
        it.sendall(said)
        sockets.append(it)
    async with calling(secured, believing) as api:
        assert (await api.get("/health/live")).status == 200

    def over(it):
        it.settimeout(PATIENCE_SECONDS)
        with closing(it):
            try:
                while it.recv(1000):  # it may say why
                    pass
            except ConnectionError:
                pass

    await asyncio.gather(*(asyncio.to_thread(over, it) for it in sockets))
    assert "error" not in secured.log.read_text().lower()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tls_1_2_and_newer_is_spoken_with_or_without_a_name_and_nothing_older(secured, believing):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        believing.minimum_version = believing.maximum_version = version
        for name in ("localhost", "127.0.0.1"):  # an address is not sent as a name
            assert await shown(secured, believing, name)
    believing.set_ciphers("ALL:@SECLEVEL=0")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        believing.minimum_version = believing.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown(secured, believing)


async def test_only_under_tls_browsers_are_told_to_keep_to_it(tmp_path, authority, believing):
    """Not for this machine's own names: they belong to every other server on it as well."""
    issue(authority, tmp_path, "tasks.example", "localhost")
    environ = files(tmp_path) | {"API_SECRET_KEY": "k" * 20}
    with running(tmp_path, **environ) as server:
        async with calling(server, believing) as api:
            api.url = f"https://localhost:{server.port}"
            for path, host, told in (
                ("/health", "tasks.example", "max-age=31536000"),
                (TASKS, "tasks.example", "max-age=31536000"),  # refused
                ("/health", "localhost", None),
                ("/health", "127.0.0.1:8443", None),
            ):
                answer = await api.call("GET", path, headers={"Host": host})
                assert answer.headers.get(HSTS) == told, (path, host)
    environ = {"APP_SERVER_TRUSTED_PROXIES": "127.0.0.1", "API_SECRET_KEY": "k" * 20, "APP_SERVER_HSTS_SECONDS": "0"}
    with running(tmp_path, **environ) as server:
        async with calling(server, believing) as api:
            for scheme, told in (("https", "max-age=0"), ("http", None)):
                headers = {"Host": "tasks.example", "X-Forwarded-Proto": scheme}
                assert (await api.call("GET", "/health", headers=headers)).headers.get(HSTS) == told


async def test_a_page_without_tls_may_not_ask_a_server_with_it(secured, believing):
    """Whoever sits on the wire can make up the one, but not the other."""
    async with calling(secured, believing) as api:
        own = secured.url
        assert (await api.call("GET", TASKS, headers={"Origin": own})).status == 200
        foreign = {"Origin": own.replace("https", "http")}
        (await api.call("GET", TASKS, headers=foreign)).refused(403, "FORBIDDEN")


async def test_the_client_believes_whom_it_is_told_to(secured, authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    async with Client(secured.url, ca_file=str(tmp_path / "authority.pem")) as client:
        made = await client.submit("x", work_directory="/a")
        assert (await client.get(made["task_id"]))["status"] == "waiting"
    async with Client(secured.url) as client:
        with pytest.raises(Unreachable, match="certificate"):
            await client.list()
    for file, reason in ((tmp_path / "none", "No such file"), (tmp_path / "server.key", "holds no certificate")):
        with pytest.raises(ValueError, match=reason):
            Client(secured.url, ca_file=str(file))


async def test_the_command_line_takes_the_authority_from_the_environment(secured, authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    command = [sys.executable, "-m", "task_orchestrator", "list", "--json"]
    known = str(tmp_path / "authority.pem")
    for environ, code in (({"TASK_ORCHESTRATOR_CA_FILE": known}, 0), ({"SSL_CERT_FILE": known}, 0), ({}, 3)):
        environ = {**os.environ, "TASK_ORCHESTRATOR_URL": secured.url, **environ}
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=DEVNULL, stderr=DEVNULL)
        assert await process.wait() == code


async def test_while_it_starts_it_speaks_tls_already(tmp_path, authority, believing):
    """Whoever asks before the record has been read is not answered in the clear."""
    issue(authority, tmp_path)
    settings = Server(port=free_port(), tls_cert=str(tmp_path / "server.pem"), tls_key=str(tmp_path / "server.key"))
    async with starting(settings, Log(), certificate_of(settings)), ClientSession() as session:
        url = f"//127.0.0.1:{settings.port}/health/ready"
        async with session.get(f"https:{url}", ssl=believing) as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "starting"})
        with pytest.raises(ClientError):
            await session.get(f"http:{url}")


async def test_the_cookie_of_a_session_goes_over_tls_alone_once_it_was_made_there(tmp_path, authority, believing):
    """Be it that TLS ends here, or at a proxy before us."""
    issue(authority, tmp_path)
    key = "correct-horse-battery-staple"
    plain = {"APP_SERVER_TRUSTED_PROXIES": "127.0.0.1"}
    for environ, cases in (
        (files(tmp_path), (({}, True), ({"X-Forwarded-Proto": "http"}, True))),
        (plain, (({}, False), ({"X-Forwarded-Proto": "https"}, True))),
    ):
        with running(tmp_path, **environ, API_SECRET_KEY=key) as server:
            async with calling(server, believing) as api:
                for headers, is_secure in cases:
                    answer = await api.call("POST", "/api/v1/session", json={"key": key}, headers=headers)
                    (cookie,) = answer.headers.getall("Set-Cookie")
                    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
                    assert {"httponly", "samesite=strict", "path=/"} <= attributes
                    assert ("secure" in attributes) is is_secure, (environ, headers)
