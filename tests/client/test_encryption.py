"""The key of an encrypted record: where it is given, what is said if it is not the one, and how it is changed."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.encryption import EncryptionKey
from storage.sqlite.driver import connect
from tests.client.processes import Done, run_cli
from tests.conftest import ENCRYPTED, ENCRYPTION_KEY, KEY, ServerProcess
from tests.storage.busy import busy, rows_of
from tests.storage.test_encryption import contents
from tests.web.conftest import connected, refused_start

KEY_FILE = "APP_DATABASE_ENCRYPTION_KEY_FILE"
WORDS = "a passphrase, with spaces"


def key_file(folder: Path, text: str = KEY, name: str = "key") -> Path:
    file = folder / name
    file.write_text(f"{text}\n")
    file.chmod(0o600)
    return file


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def key(text: str) -> EncryptionKey:
    return EncryptionKey(text, "the test")


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose record is encrypted, and has a task."""
    server = ServerProcess(tmp_path, record=ENCRYPTED).start()
    yield server
    if server.process.poll() is None:
        assert server.terminate() == 0


async def test_a_server_takes_its_key_from_a_file_or_a_variable(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, environ={KEY_FILE: str(key_file(tmp_path, WORDS))}).start()
    async with connected(server) as api:
        task = await api.create("/w", prompt="nobody else may read this")
    server.kill()
    assert not any(b"nobody else" in content for content in contents(server.database).values())
    server.environ = {ENCRYPTION_KEY: WORDS}
    server.start()
    async with connected(server) as api:
        assert (await api.show(task))["prompt"] == "nobody else may read this"
        settings = (await api.get("/api/v1/config")).data["settings"]
        assert settings["database.encryption_key"]["value"] not in (None, WORDS)
        assert not settings["database.encryption_key"]["reloadable"]
    assert server.terminate() == 0
    assert WORDS not in server.log.read_text()


def test_what_is_wrong_with_the_key_is_said_in_one_line(tmp_path: Path, sealed: ServerProcess) -> None:
    assert sealed.terminate() == 0
    plain = ServerProcess(tmp_path / "plain")
    (tmp_path / "plain").mkdir()
    assert plain.start().terminate() == 0
    mine, theirs = key_file(tmp_path), key_file(tmp_path, name="open")
    theirs.chmod(0o644)
    other = "0" * 64
    before = sealed.database.read_bytes(), plain.database.read_bytes()
    for database, environ, says in (
        (sealed.database, {}, "it is encrypted, or no database: give its key by database.encryption_key_file or"),
        (sealed.database, {ENCRYPTION_KEY: other}, "it cannot be opened with this key (database.encryption_key)"),
        (sealed.database, {KEY_FILE: str(theirs)}, f"database.encryption_key_file: {theirs} can be read or changed by"),
        (plain.database, {KEY_FILE: str(mine)}, f"a key is given (database.encryption_key_file: {mine})"),
        (sealed.database, {KEY_FILE: str(mine), ENCRYPTION_KEY: KEY}, f"{ENCRYPTION_KEY}: must not be set with"),
    ):
        refused = refused_start(database, **environ)
        assert (refused.returncode, refused.stdout) == (2, ""), refused
        assert len(refused.stderr.splitlines()) == 1
        assert says in refused.stderr
        assert KEY not in refused.stderr
    assert (sealed.database.read_bytes(), plain.database.read_bytes()) == before


def test_the_key_is_not_in_the_list_of_processes(sealed: ServerProcess) -> None:
    assert KEY.encode() not in Path(f"/proc/{sealed.pid}/cmdline").read_bytes()


async def test_statistics_are_rebuilt_in_an_encrypted_file(sealed: ServerProcess) -> None:
    async with connected(sealed) as api:
        await api.create("/w")
    assert sealed.terminate() == 0
    options = ("stats", "rebuild", "--database", url(sealed.database))
    rebuilt = await run_cli(*options, environ={ENCRYPTION_KEY: KEY})
    assert (rebuilt.code, rebuilt.out) == (0, f"{sealed.database}: rebuilt from the whole history\n")
    refused = await run_cli(*options)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "it is encrypted" in refused.err


async def test_the_first_key_for_callers_can_be_made_in_an_encrypted_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    options = ("keys", "create", "ann", "--scopes", "admin", "--database", url(path))
    made = await run_cli(*options, environ={ENCRYPTION_KEY: KEY})
    assert made.code == 0, made.err
    refused = await run_cli(*options)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    with closing(connect(path, "ro", key(KEY))) as db:
        assert db.execute("select count(*) from keys").fetchone() == (1,)


async def test_a_record_is_moved_from_and_to_an_encrypted_file(tmp_path: Path) -> None:
    first, second, third = busy(tmp_path / "first.db"), tmp_path / "second.db", tmp_path / "third.db"
    one, other = key_file(tmp_path), key_file(tmp_path, WORDS, "other")
    there = await run_cli("migrate", "--from", url(first), "--to", url(second), "--to-key-file", str(one))
    assert there.code == 0, there.err
    ends = ("--from", url(second), "--from-key-file", str(one), "--to", url(third), "--to-key-file", str(other))
    assert (await run_cli("migrate", *ends)).code == 0
    assert (await run_cli("migrate", *ends, "--verify-only", "--json")).json["is_same"]
    assert rows_of(first) == rows_of(second, key(KEY)) == rows_of(third, key(WORDS))
    refused = await run_cli("migrate", "--from", url(second), "--to", url(tmp_path / "no.db"))
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "--from-key-file" in refused.err
    ends = ("--from", url(first), "--to", "postgresql://host/name", "--to-key-file", str(one))
    assert (await run_cli("migrate", *ends)).err == "--to-key-file is for SQLite\n"


async def test_a_file_is_encrypted_given_another_key_and_decrypted(tmp_path: Path) -> None:
    path = busy(tmp_path / "tasks.db")
    there = rows_of(path)
    one, other = key_file(tmp_path), key_file(tmp_path, WORDS, "other")

    async def rekey(*options: str, **environ: str) -> Done:
        return await run_cli("database", "rekey", "--database", url(path), *options, environ=environ)

    encrypted = await rekey("--new-key-file", str(one))
    assert (encrypted.code, encrypted.out) == (0, f"{path}: encrypted with the new key\n")
    assert rows_of(path, key(KEY)) == there
    again = await rekey("--new-key-file", str(one))
    assert (again.code, again.out) == (0, f"{path}: it is encrypted with the new key already\n")
    changed = await rekey("--new-key-file", str(other), **{KEY_FILE: str(one)})
    assert changed.code == 0, changed.err
    assert rows_of(path, key(WORDS)) == there
    refused = await rekey("--plain", **{KEY_FILE: str(one)})
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert refused.err.startswith(f"nothing was changed: {path}: it cannot be opened with this key")
    opened = await rekey("--plain", **{ENCRYPTION_KEY: WORDS})
    assert (opened.code, opened.out) == (0, f"{path}: not encrypted\n")
    assert rows_of(path) == there


async def test_a_new_key_may_come_by_the_standard_input(tmp_path: Path) -> None:
    path = busy(tmp_path / "tasks.db")
    options = ("--database", url(path), "--new-key-file", "/dev/stdin")
    assert (await run_cli("database", "rekey", *options, stdin=KEY.encode())).code == 0
    with closing(connect(path, "ro", key(KEY))) as db:
        assert db.execute("select count(*) from tasks").fetchone() != (0,)


async def test_what_cannot_be_given_another_key_is_told_in_one_line(tmp_path: Path, sealed: ServerProcess) -> None:
    new = str(key_file(tmp_path, WORDS))
    for options, code, says in (
        (("--database", url(sealed.database), "--new-key-file", new), 1, "another server is using it"),
        (("--database", url(sealed.database)), 2, "give either --new-key-file or --plain"),
        (("--database", url(sealed.database), "--new-key-file", "/none"), 2, "--new-key-file: /none cannot be read"),
    ):
        refused = await run_cli("database", "rekey", *options)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (code, "", 1), refused
        assert says in refused.err
