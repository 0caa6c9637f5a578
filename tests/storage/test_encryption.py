"""An encrypted file shows nothing, opens by its key alone, and can be given another one at any moment."""

import asyncio
import logging
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from time import sleep

import pytest

from dispatcher.errors import NoRoom
from dispatcher.messages import Create
from dispatcher.ports import Changes
from dispatcher.record import Filter
from storage.encryption import EncryptionKey, given_key, read_key
from storage.errors import AlreadyOwned, KeyFault, NotOurs, StorageError
from storage.sqlite import journal, rekey
from storage.sqlite.cipher import Form, fits, form_of
from storage.sqlite.driver import connect, connect_cipher
from storage.sqlite.hop import hop
from storage.sqlite.rekey import rekey_file
from storage.sqlite.search import index_some
from storage.sqlite.store import open_store
from tests.conftest import KEY
from tests.dispatcher.test_board import Desk
from tests.storage.busy import busy, rows_of

RAW, PHRASE, OTHER = (EncryptionKey(text, "the test") for text in (KEY, "zwölf Boxkämpfer 🦊", "f" * 64))
SECRET = "nobody but the worker may read this"
ENDS = ("", "-wal", "-shm", "-journal")
KILLED = """
import sys
from pathlib import Path
from storage.encryption import EncryptionKey
from storage.sqlite.rekey import rekey_file
old, new = (EncryptionKey(text, "the test") if text else None for text in sys.argv[2:4])
print("go", flush=True)
rekey_file(Path(sys.argv[1]), old, new)
"""
READING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("select count(*) from tasks").fetchall()
print("reads", flush=True)
sys.stdin.read()
"""


def digests(folder: Path) -> dict[str, str]:
    """Of all that lies there, but the owner's lock."""
    return {
        it.name: sha256(it.read_bytes()).hexdigest()
        for it in sorted(folder.iterdir())
        if it.is_file() and it.suffix != ".lock"
    }


def contents(path: Path) -> dict[str, bytes]:
    """Of the file, its log and what else it has, by how their names end."""
    ends = {end: Path(f"{path}{end}") for end in ENDS}
    return {end: it.read_bytes() for end, it in ends.items() if it.exists()}


def lay_down(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    for end, content in files.items():
        Path(f"{path}{end}").write_bytes(content)
    return path


@pytest.mark.parametrize("key", [RAW, PHRASE], ids=["raw", "phrase"])
async def test_nothing_of_it_can_be_read_in_its_files(tmp_path: Path, key: EncryptionKey) -> None:
    """Neither while the server runs, nor in what a crash leaves, nor after it. In a plain file all of it is found."""
    for name, with_key in (("plain", None), ("encrypted", key)):
        path = tmp_path / name / "tasks.db"
        told = []
        async with open_store(path, key=with_key) as opened:
            desk = Desk()
            for _ in range(3):
                await opened.commit(desk.effects(Create(work_directory="/srv/app", prompt=SECRET)).changes)
            told.append(contents(path))
        told.append(contents(path))
        assert told[0].keys() == {"", "-wal", "-shm"}
        everything = [b"".join(files.values()) for files in told]
        words = (SECRET.encode(), b"SQLite format 3", b"CREATE TABLE", b"/srv/app", b"idempotency")
        found = [word in content for word in words for content in everything]
        assert all(found) if with_key is None else not any(found), found
        assert form_of(path) is (Form.ENCRYPTED if with_key else Form.PLAIN)


@pytest.mark.parametrize("key", [RAW, PHRASE], ids=["raw", "phrase"])
async def test_it_is_there_again_with_its_key(tmp_path: Path, key: EncryptionKey) -> None:
    path = tmp_path / "tasks.db"
    change = Desk().effects(Create(work_directory="/w", prompt=SECRET)).changes[0]
    async with open_store(path, key=key) as opened:
        await opened.commit([change])
    async with open_store(path, key=EncryptionKey(key.text, "elsewhere")) as opened:
        assert await opened.record.task(change.after.task_id) == change.after
        assert (await opened.record.page(Filter(text="THE WORKER"), "-created_at", 10)).total == 1


async def test_a_file_is_as_any_tool_for_sqlcipher_makes_it(tmp_path: Path) -> None:
    """Who has lost this program, but not the passphrase, has lost nothing."""
    path = tmp_path / "tasks.db"
    async with open_store(path, key=PHRASE):
        pass
    with closing(connect_cipher(path, "rw", None)) as db:
        db.execute(f"pragma key = '{PHRASE.text}'")
        assert db.execute("select seq from last_numbers").fetchall() == [(0,)]


@pytest.mark.parametrize("key", [None, PHRASE, OTHER], ids=["none", "phrase", "raw"])
@pytest.mark.parametrize("crashed", [False, True])
async def test_with_another_key_or_none_it_is_refused_and_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], key: EncryptionKey | None, crashed: bool
) -> None:
    path = tmp_path / "one" / "tasks.db"
    async with open_store(path, key=RAW) as opened:
        await opened.commit(Desk().effects(Create(work_directory="/w", prompt=SECRET)).changes)
        lay_down(tmp_path / "two" / "tasks.db", contents(path))
    folder = tmp_path / ("two" if crashed else "one")
    before = digests(folder)
    refusal = r"^\S+tasks.db: it (is encrypted, or no database: give its key|cannot be opened with this key)[^\n]*$"
    with pytest.raises(KeyFault, match=refusal) as refused:
        async with open_store(folder / "tasks.db", key=key):
            pass
    assert all(text not in str(refused.value) for text in (KEY, PHRASE.text, OTHER.text))
    assert digests(folder) == before
    assert capfd.readouterr() == ("", "")
    async with open_store(folder / "tasks.db", key=RAW) as opened:
        assert await opened.record.waiting("/w") == 1


async def test_a_plain_file_is_not_taken_for_an_encrypted_one(tmp_path: Path) -> None:
    async with open_store(tmp_path / "tasks.db"):
        pass
    before = digests(tmp_path)
    with pytest.raises(KeyFault, match=r"not encrypted, but a key is given \(the test\): .*database rekey"):
        async with open_store(tmp_path / "tasks.db", key=RAW):
            pass
    assert digests(tmp_path) == before


async def test_a_first_page_that_was_torn_is_found_in_the_log(tmp_path: Path) -> None:
    """As after a power failure within a checkpoint: SQLite has a whole one, and so the key is not in doubt."""
    path = tmp_path / "tasks.db"
    async with open_store(path, key=RAW) as opened:
        await opened.commit(Desk().effects(Create(work_directory="/w", prompt=SECRET)).changes)
        await hop(opened._writer, lambda db: db.execute("create table more (a)"))  # which changes the first page
        crashed = contents(path)
    torn = crashed[""][:512] + bytes(512) + crashed[""][1024:]
    copy = lay_down(tmp_path / "copy.db", {"": torn})
    assert not fits(RAW, copy)
    lay_down(copy, {"-wal": crashed["-wal"]})
    assert fits(RAW, copy)
    assert not fits(OTHER, copy)
    async with open_store(copy, key=RAW) as opened:
        assert await opened.record.waiting("/w") == 1


async def test_without_the_library_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlcipher3", None)
    with pytest.raises(
        StorageError, match=r"tasks.db: sqlcipher3 is missing.*pip install task-orchestrator\[encryption\]$"
    ):
        async with open_store(tmp_path / "tasks.db", key=RAW):
            pass
    assert not (tmp_path / "tasks.db").exists()


async def test_errors_are_those_of_sqlite3(tmp_path: Path) -> None:
    """With their numbers, whoever has found them."""
    async with open_store(tmp_path / "tasks.db", key=RAW) as opened:
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed") as failed:
            await hop(opened._writer, lambda db: db.execute("insert into last_numbers values (2, 0, 0)"))
        assert failed.value.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CONSTRAINT
        assert failed.value.sqlite_errorname.startswith("SQLITE_CONSTRAINT")
        with pytest.raises(ValueError, match="mine"):
            await hop(opened._writer, _raise)


def _raise(db: sqlite3.Connection) -> None:
    raise ValueError("mine")


@pytest.mark.parametrize(("free", "lacks"), [(4096, NoRoom), (2**30, sqlite3.OperationalError)])
async def test_a_log_that_cannot_grow_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, lacks: type[Exception]
) -> None:
    """sqlcipher3 says only that it is an I/O error; how much room there is tells the rest."""

    def commit(db: sqlite3.Connection, changes: Changes) -> float:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR, "SQLITE_IOERR"
        raise error

    changes = Desk().effects(Create(work_directory="/w", prompt=SECRET)).changes
    async with open_store(tmp_path / "tasks.db", key=RAW) as opened:
        monkeypatch.setattr(journal, "commit", commit)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        with pytest.raises(lacks):
            await opened.commit(changes)
        assert opened.short_of_room == (lacks is NoRoom)


async def test_a_backup_is_encrypted_too(tmp_path: Path) -> None:
    """By the connection's own means, while it is written to."""
    path, copy = tmp_path / "tasks.db", tmp_path / "copy.db"
    change = Desk().effects(Create(work_directory="/w", prompt=SECRET)).changes[0]

    def back_up(db: sqlite3.Connection) -> None:
        with closing(connect(copy, "rwc", PHRASE)) as target:
            db.backup(target)

    async with open_store(path, key=PHRASE) as opened:
        await opened.commit([change])
        await hop(opened._writer, back_up)
    assert SECRET.encode() not in copy.read_bytes()
    assert fits(PHRASE, copy)
    async with open_store(copy, key=PHRASE) as opened:
        assert await opened.record.task(change.after.task_id) == change.after


# The key


def test_a_key_is_a_line_in_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f" {KEY}\n")
    file.chmod(0o600)
    key = given_key(str(file), None)
    assert key is not None
    assert (key.text, key.origin) == (KEY, f"database.encryption_key_file: {file}")
    assert KEY not in repr(key)
    assert KEY not in repr(given_key(None, KEY))
    assert given_key(None, None) is None


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    with pytest.raises(KeyFault, match=rf"^--it: {file} can be read or changed by others: say `chmod 600 {file}`$"):
        read_key(file, "--it")
    file.chmod(0o640)  # a group of the service's own, as Kubernetes makes one
    assert read_key(file, "--it").text == KEY


@pytest.mark.parametrize("content", [b"", b" \n", b"one\ntwo\n", b"\xff" * 32, b"a\0b", b"x" * 5000])
def test_what_is_no_line_of_text_is_no_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(KeyFault, match="is not one line of text: make one with `openssl rand -hex 32`"):
        read_key(file, "--it")


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFault, match=rf"^--it: {tmp_path}/none cannot be read: No such file or directory$"):
        read_key(tmp_path / "none", "--it")


async def test_who_has_a_short_key_is_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, (text, warned) in enumerate((("guess me", True), ("x" * 16, False))):
        caplog.clear()
        async with open_store(tmp_path / f"{number}.db", key=EncryptionKey(text, "the test")):
            pass
        assert ("the encryption key (the test) is short" in caplog.text) == warned
        assert text not in caplog.text


# Another key


@pytest.mark.parametrize("before", [None, RAW, PHRASE], ids=["plain", "raw", "phrase"])
@pytest.mark.parametrize("after", [None, OTHER, PHRASE], ids=["plain", "raw", "phrase"])
def test_a_file_is_given_another_key_and_has_the_same_rows(
    tmp_path: Path, before: EncryptionKey | None, after: EncryptionKey | None
) -> None:
    path = busy(tmp_path / "tasks.db")
    path.chmod(0o640)
    with closing(connect(path, "rw", None)) as db:
        index_some(db, True)
    there = rows_of(path)
    rekey_file(path, None, before)
    assert rekey_file(path, before, after) == (before is not after)
    assert rows_of(path, after) == there
    with closing(connect(path, "rw", after)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        db.execute("insert into prompts (prompts) values ('integrity-check')")  # the index of the prompts
        assert db.execute("select count(*) from prompts where prompts match 'lin'").fetchone() != (0,)
        assert [db.execute(f"pragma {name}").fetchone()[0] for name in ("user_version", "application_id")] == [
            1,
            0x5441534B,
        ]
    for other in {None, RAW, PHRASE, OTHER} - {after}:
        with pytest.raises(KeyFault):
            connect(path, "ro", other)
    assert not list(tmp_path.glob("*.rekeying*"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_is_done_already_is_not_done_again(tmp_path: Path) -> None:
    """Also if it is said with the key of before."""
    path = busy(tmp_path / "tasks.db")
    assert rekey_file(path, None, RAW)
    before = digests(tmp_path)
    assert not rekey_file(path, OTHER, RAW)
    assert digests(tmp_path) == before


async def test_no_key_is_changed_while_a_server_has_the_file(tmp_path: Path) -> None:
    async with open_store(tmp_path / "tasks.db", key=RAW):
        with pytest.raises(AlreadyOwned, match="another server is using it"):
            rekey_file(tmp_path / "tasks.db", RAW, OTHER)
    async with open_store(tmp_path / "tasks.db", key=RAW):
        pass


async def test_what_a_crash_has_left_in_the_log_is_not_lost(tmp_path: Path) -> None:
    """It is copied back before the file is."""
    async with open_store(tmp_path / "tasks.db", key=RAW) as opened:
        await opened.commit(Desk().effects(Create(work_directory="/w", prompt=SECRET)).changes)
        crashed = contents(tmp_path / "tasks.db")
    copy = lay_down(tmp_path / "crashed" / "tasks.db", crashed)
    assert rekey_file(copy, RAW, OTHER)
    assert contents(copy).keys() == {""}
    async with open_store(copy, key=OTHER) as opened:
        assert await opened.record.waiting("/w") == 1


@pytest.mark.parametrize("key", [None, OTHER], ids=["none", "other"])
def test_who_has_not_the_key_cannot_change_it(tmp_path: Path, key: EncryptionKey | None) -> None:
    path = busy(tmp_path / "tasks.db")
    rekey_file(path, None, RAW)
    before = digests(tmp_path)
    with pytest.raises(KeyFault):
        rekey_file(path, key, None)
    assert digests(tmp_path) == before


def test_a_file_of_another_program_gets_no_key(tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.db", tmp_path / "notes.txt"
    with closing(sqlite3.connect(foreign)) as db, db:
        db.execute("create table songs (title text)")
    text.write_text("not a database")
    before = digests(tmp_path)
    for path in (foreign, text):
        with pytest.raises(NotOurs):
            rekey_file(path, None, RAW)
    with pytest.raises(StorageError, match="there is no such file"):
        rekey_file(tmp_path / "none.db", None, RAW)
    assert digests(tmp_path) == before


def test_a_file_that_somebody_else_reads_is_not_taken_from_them(tmp_path: Path) -> None:
    path = busy(tmp_path / "tasks.db")
    with subprocess.Popen(
        [sys.executable, "-c", READING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reads\n"
        with pytest.raises(StorageError, match="database is locked"):
            rekey_file(path, None, RAW)
        reader.communicate()
    assert form_of(path) is Form.PLAIN
    assert rekey_file(path, None, RAW)


def test_a_copy_that_is_not_the_same_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = busy(tmp_path / "tasks.db")
    there = rows_of(path, None)
    real = rekey._compare

    def one_less(db: sqlite3.Connection) -> None:
        db.execute("delete from draft.history where seq = 3")
        real(db)

    monkeypatch.setattr(rekey, "_compare", one_less)
    with pytest.raises(StorageError, match="copy is not the same"):
        rekey_file(path, None, RAW)
    assert rows_of(path, None) == there
    assert not list(tmp_path.glob("*.rekeying*"))


async def test_what_a_broken_off_change_has_left_is_removed(tmp_path: Path) -> None:
    """It may be a plain copy of what is encrypted."""
    path, left = tmp_path / "tasks.db", tmp_path / "tasks.db.rekeying"
    left.write_text(SECRET)
    async with open_store(path, key=RAW):
        assert not left.exists()
    left.write_text(SECRET)
    rekey_file(path, RAW, RAW)
    assert not left.exists()


@pytest.mark.parametrize(("old", "new"), [(None, RAW), (RAW, OTHER), (RAW, None)], ids=["seal", "change", "open"])
def test_killed_at_any_moment_it_has_one_of_the_two_keys(
    tmp_path: Path, old: EncryptionKey | None, new: EncryptionKey | None
) -> None:
    path = busy(tmp_path / "tasks.db")
    there = rows_of(path, None)
    rekey_file(path, None, old)
    texts = [key.text if key else "" for key in (old, new)]
    outcomes = set()
    for attempt in range(12):
        command = [sys.executable, "-c", KILLED, str(path), *texts]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"go\n"
            sleep(attempt * 0.01)  # somewhere in the middle
            process.send_signal(signal.SIGKILL)
        present = new if rekey.is_as_wanted(path, new) else old
        outcomes.add(present)
        with closing(connect(path, "rw", present)) as db:  # as a server does: what was broken off is rolled back
            assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert rows_of(path, present) == there
        rekey_file(path, present, old)
        assert not list(tmp_path.glob("*.rekeying*"))
    assert old in outcomes


@pytest.mark.parametrize(("old", "new"), [(None, RAW), (RAW, OTHER), (RAW, None)], ids=["seal", "change", "open"])
def test_it_is_replaced_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: EncryptionKey | None, new: EncryptionKey | None
) -> None:
    """Stopped before each call that changes something on the disk, the next server has the old key; after, the new."""
    path = busy(tmp_path / "tasks.db")
    there = rows_of(path, None)
    rekey_file(path, None, old)

    class Stopped(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    for where, name in ((rekey, "_settle"), (rekey, "_copy"), (rekey, "_compare"), (rekey, "_examine"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, stop)
            with pytest.raises(Stopped):
                rekey_file(path, old, new)
        assert rows_of(path, old) == there
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda it: stop() if stat.S_ISDIR(os.fstat(it).st_mode) else real(it))
    with pytest.raises(Stopped):
        rekey_file(path, old, new)
    assert rows_of(path, new) == there


def test_the_key_is_in_no_log_of_the_library(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        async with open_store(tmp_path / "tasks.db", key=RAW) as opened:
            await opened.load()

    caplog.set_level(logging.DEBUG)
    asyncio.run(use())
    assert caplog.records
    assert not re.search(KEY, caplog.text)
