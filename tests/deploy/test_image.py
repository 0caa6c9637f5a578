"""The Dockerfile, as far as it can be told without building it."""

import re
import subprocess
import sys

import trustme

from tests.deploy.files import PROJECT, environment_of_the_image, known_variables, settings_from
from tests.postgres import free_port
from tests.web.conftest import running

DOCKERFILE = (PROJECT / "Dockerfile").read_text()
IGNORED = (PROJECT / ".dockerignore").read_text().splitlines()


def lets_through(path):
    """What .dockerignore does: everything is left out but what it names."""
    assert "*" in IGNORED
    return f"!{path}" in IGNORED


def test_it_is_given_all_that_it_is_made_of():
    copied = " ".join(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)).split()
    assert copied
    assert all(it == "." or (lets_through(it) and (PROJECT / it).exists()) for it in copied)
    packages = ("dispatcher", "storage", "web", "task_orchestrator", "pyproject.toml", "README.md", "LICENSE")
    assert all(lets_through(it) for it in packages)


def test_it_is_given_nothing_that_is_not_there():
    named = [it.removeprefix("!") for it in IGNORED if it.startswith("!")]
    assert all((PROJECT / it).exists() for it in named)


def test_it_serves_every_record():
    """It is made from the locks that have PostgreSQL's driver and SQLCipher, and all else as the other one has it."""
    (options,) = re.findall(r"--require-hashes((?: -r \S+)+)", DOCKERFILE)
    locks = options.replace("-r", "").split()

    def pinned(path):
        return set(re.findall(r"^([a-z0-9-]+==\S+)", path.read_text(), re.MULTILINE))

    given = [pinned(PROJECT / lock) for lock in locks]
    more = set().union(*given) - pinned(PROJECT / "requirements.txt")
    assert {it.partition("==")[0] for it in more} >= {"asyncpg", "sqlcipher3"}
    assert all(pinned(PROJECT / "requirements.txt") <= it for it in given)


def test_the_server_takes_its_environment():
    given = environment_of_the_image()
    assert settings_from(given).server.host == "0.0.0.0"
    assert given.keys() - {"PATH", "PYTHONUNBUFFERED"} <= known_variables()
    assert f"EXPOSE {given['SERVER_PORT']}" in DOCKERFILE


async def test_its_check_of_health_works(server, tmp_path):
    """The very line, against a real server, with and without TLS; and it fails where there is none."""
    (probe,) = re.findall(r'^HEALTHCHECK .* CMD \["python", "-c", "(.*)"\]$', DOCKERFILE, re.MULTILINE)

    def status(port, **environ):
        environ["SERVER_PORT"] = str(port)
        return subprocess.run([sys.executable, "-c", probe], env=environ, capture_output=True, timeout=30).returncode

    assert status(server.port) == 0
    assert status(free_port()) != 0
    made = trustme.CA().issue_cert("tasks.example")
    for name, blobs in (("key", [made.private_key_pem]), ("cert", made.cert_chain_pems)):
        (tmp_path / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
    tls = {"APP_SERVER_TLS_CERT": str(tmp_path / "cert"), "APP_SERVER_TLS_KEY": str(tmp_path / "key")}
    place = tmp_path / "secured"
    place.mkdir()
    with running(place, **tls) as secured:
        assert status(secured.port, **tls) == 0
        assert status(secured.port) != 0
