"""One writer, one transaction per batch, readers that see what is committed; and files that are refused."""

import asyncio
import os
import re
import shutil
import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dispatcher.errors import RecordFailed
from dispatcher.messages import Claim, Create, Reconfigure
from dispatcher.ports import Change, Configured
from dispatcher.record import Filter
from dispatcher.rules import Rules
from dispatcher.task import Status
from storage.encryption import EncryptionKey
from storage.errors import AlreadyOwned, KeyFault, NotOurs, StorageError, TooNew
from storage.sqlite import journal as sqlite
from storage.sqlite import lists, queries, store
from storage.sqlite.driver import connect
from storage.sqlite.hop import hop
from storage.sqlite.store import open_store
from storage.sqlite.versions import migrate
from storage.steps import steps
from tests.dispatcher.test_board import Desk
from tests.dispatcher.world import database
from tests.web.conftest import until

ON_ENCRYPTED_FILES = True

STATUSES = ", ".join(Status)
STEPS = steps(files("storage.sqlite"))


def created(**fields: object) -> Change:
    return Desk().effects(Create(**{"work_directory": "/w", "prompt": "do it", **fields})).changes[0]  # type: ignore[arg-type]


async def total(opened: store.SqliteStore) -> int:
    return (await opened.record.page(Filter(), "-created_at", 10)).total


async def test_what_is_committed_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Every field of a task and of its history, in the readers and after the file is opened again."""
    desk = Desk()
    desk.create(tags=("a", "b"), metadata={"é": [1, None]}, expires_at=5, delay_seconds=1.5, auto_retry=True)
    desk.create(prompt="zwölf 🦊")
    desk.claim(worker_id="ann", lease_seconds=1.5)
    tasks = lists.page(desk.db, Filter(), "-created_at", 10).tasks
    entries = [queries.entries_of(desk.db, task.task_id, 1)[-1] for task in tasks]
    async with open_store(tmp_path / "deep" / "tasks.db") as opened:
        await opened.commit([Change(None, task, entry) for task, entry in zip(tasks, entries, strict=True)])
        assert [list(await opened.record.history(task.task_id, 10)) for task in tasks] == [[entry] for entry in entries]
        assert [await opened.record.task(task.task_id) for task in tasks] == list(tasks)
        assert await opened.record.waiting("/w") == 1
    async with open_store(tmp_path / "deep" / "tasks.db") as opened:
        snapshot = await opened.load()
        assert (snapshot.last_arrival, snapshot.working) == (2, (tasks[0],))


async def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    async with open_store(tmp_path / "tasks.db") as opened:
        one = created()
        other = evolve(one, after=evolve(one.after, arrival=2, task_id="other"))  # its history line is already there
        with pytest.raises(sqlite3.IntegrityError):
            await opened.commit([one, other])
        assert await total(opened) == 0
        await opened.commit([one])
        assert await opened.record.task(one.after.task_id) == one.after


async def test_a_task_that_is_not_as_the_board_believes_is_not_written(tmp_path: Path) -> None:
    """The write itself checks the version once more."""
    async with open_store(tmp_path / "tasks.db") as opened:
        one = created()
        await opened.commit([one])
        stale = evolve(one.after, version=7)
        with pytest.raises(sqlite3.IntegrityError, match="version"):
            await opened.commit([Change(stale, stale.change(1, ready=True), None)])
        assert await opened.record.task(one.after.task_id) == one.after


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with open_store(tmp_path / "tasks.db") as opened:
        with pytest.raises(RecordFailed, match="readonly"):
            await opened.record._read(lambda db: db.execute("delete from tasks"))


@pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
async def test_the_writer_syncs_as_it_is_told_and_never_checkpoints_within_a_commit(
    tmp_path: Path, synchronous: str, level: int
) -> None:
    async with open_store(tmp_path / "tasks.db", synchronous=synchronous) as opened:  # type: ignore[arg-type]
        ask = ("journal_mode", "synchronous", "wal_autocheckpoint")
        pragmas = [
            await hop(opened._writer, lambda db, name=name: db.execute(f"pragma {name}").fetchone()[0]) for name in ask
        ]
        assert pragmas == ["wal", level, 0]


async def test_the_log_is_copied_back_when_it_is_long_and_emptied_when_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []
    checkpointed = asyncio.Event()
    real = store._checkpoint

    def checkpoint(db: sqlite3.Connection, mode: str) -> None:
        real(db, mode)
        modes.append(mode)
        loop.call_soon_threadsafe(checkpointed.set)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(store, "_checkpoint", checkpoint)
    monkeypatch.setattr(store, "IDLE_SECONDS", 0.05)
    desk = Desk()
    async with open_store(tmp_path / "tasks.db") as opened:
        monkeypatch.setattr(store, "LOG_BYTES_MAX", 3 * store.CHANGE_BYTES)
        await opened.commit([desk.effects(Create(work_directory="/w", prompt="do it")).changes[0] for _ in range(4)])
        await asyncio.wait_for(checkpointed.wait(), 5)
        checkpointed.clear()
        await opened.commit(desk.effects(Create(work_directory="/w", prompt="do it")).changes)
        await asyncio.wait_for(checkpointed.wait(), 5)
        assert modes == ["passive", "truncate"]
        assert await asyncio.to_thread(os.path.getsize, tmp_path / "tasks.db-wal") == 0
        assert await total(opened) == 5


async def test_the_log_that_a_crash_has_left_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nothing is ever committed after it."""
    desk = Desk()
    crashed, copy = tmp_path / "tasks.db", tmp_path / "copy.db"
    async with open_store(crashed) as opened:
        await opened.commit(desk.effects(Create(work_directory="/w", prompt="do it")).changes)
        for end in ("", "-wal"):
            await asyncio.to_thread(shutil.copy, f"{crashed}{end}", f"{copy}{end}")
    log = tmp_path / "copy.db-wal"
    assert log.stat().st_size > 0
    monkeypatch.setattr(store, "IDLE_SECONDS", 0.05)
    async with open_store(copy) as opened:
        await until(lambda: log.stat().st_size == 0)
        assert await total(opened) == 1


async def test_a_checkpoint_never_waits_for_a_reader(tmp_path: Path, key: EncryptionKey | None) -> None:
    """Somebody who reads for long, in another process perhaps, does not hold up the commits."""
    desk = Desk()
    async with open_store(tmp_path / "tasks.db", timeout_seconds=1000) as opened:
        await opened.commit(desk.effects(Create(work_directory="/w", prompt="do it")).changes)
        reader = connect(tmp_path / "tasks.db", "rw", key)
        reader.execute("begin")
        reader.execute("select count(*) from tasks").fetchone()
        await opened.commit(desk.effects(Create(work_directory="/w", prompt="do it")).changes)
        await asyncio.wait_for(opened._checkpoint("truncate"), 10)
        assert await hop(opened._writer, lambda db: db.execute("pragma busy_timeout").fetchone()) == (1_000_000,)
        reader.close()


async def test_a_second_writer_is_refused_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "tasks.db")
    async with open_store(tmp_path / "tasks.db"):
        for path in (tmp_path / "tasks.db", tmp_path / "link.db"):
            with pytest.raises(AlreadyOwned, match=rf"another server is using it \(process {os.getpid()}\)"):
                async with open_store(path):
                    pass
    async with open_store(tmp_path / "link.db"):
        pass


async def test_a_file_with_several_names_is_refused(tmp_path: Path) -> None:
    """A lock beside one name says nothing to whoever comes by the other."""
    async with open_store(tmp_path / "tasks.db"):
        pass
    (tmp_path / "other.db").hardlink_to(tmp_path / "tasks.db")
    for name in ("tasks.db", "other.db"):
        with pytest.raises(AlreadyOwned, match="several names"):
            async with open_store(tmp_path / name):
                pass


async def test_a_file_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path, key: EncryptionKey | None) -> None:
    path = tmp_path / "tasks.db"
    async with open_store(path):
        pass
    with closing(connect(path, "rw", key)) as db:
        db.execute("pragma user_version = 99")
    before = path.read_bytes()
    with pytest.raises(TooNew, match="version 99, this release knows 1"):
        async with open_store(path):
            pass
    assert path.read_bytes() == before


async def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path, key: EncryptionKey | None) -> None:
    theirs = KeyFault if key else NotOurs
    foreign, text = tmp_path / "foreign.db", tmp_path / "notes.txt"
    with sqlite3.connect(foreign) as db:
        db.execute("create table songs (title text)")
    db.close()
    text.write_text("not a database, and long enough for SQLite to look at it twice " * 20)
    before = foreign.read_bytes(), text.read_bytes()
    for path, refusal in ((foreign, theirs), (text, StorageError), (tmp_path, StorageError)):
        with pytest.raises(refusal):
            async with open_store(path):
                pass
    assert (foreign.read_bytes(), text.read_bytes()) == before


def test_migrations_bring_old_and_new_files_to_the_same_place() -> None:
    later = [*STEPS, "create table more (a text) strict;", "alter table more add column b text;"]
    old, new = (sqlite3.connect(":memory:", isolation_level=None) for _ in range(2))
    migrate(old, STEPS)
    migrate(old, later)
    migrate(new, later)
    schema = "select type, name, sql from sqlite_schema order by name"
    assert old.execute(schema).fetchall() == new.execute(schema).fetchall()
    assert old.execute("pragma user_version").fetchone() == (3,)


def test_a_migration_that_fails_changes_nothing() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db, STEPS)
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, [*STEPS, "create table more (a text) strict; insert into nowhere values (1);"])
    assert db.execute("pragma user_version").fetchone() == (1,)
    assert db.execute("select 1 from sqlite_schema where name = 'more'").fetchall() == []


def test_numbered_files_follow_the_schema(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "schema.sql").write_text("one")
    (tmp_path / "migrations" / "0002_more.sql").write_text("two")
    assert steps(tmp_path) == ["one", "two"]
    (tmp_path / "migrations" / "0004_gap.sql").write_text("four")
    with pytest.raises(AssertionError, match="0003"):
        steps(tmp_path)


def test_every_table_is_strict_and_claims_are_served_by_their_index() -> None:
    desk = Desk()
    loose = "select name from pragma_table_list where type = 'table' and not strict and name not like 'sqlite%'"
    assert desk.db.execute(loose).fetchall() == []
    one_directory = f"{queries.DIRECTORY_COUNTS} where work_directory = ?"
    written = (sqlite.READY, sqlite.READY_WITH_TAGS, sqlite.DUE, sqlite.WHO_DEPENDS)
    for query in (*written, queries.TASK_BY_ID, queries.AHEAD, queries.CREATED_AT, one_directory):
        wanted = max(map(int, re.findall(r"\?(\d)", query)), default=query.count("?"))
        plan = [row[3] for row in desk.db.execute(f"explain query plan {query}", ["1"] * wanted)]
        assert all("VIRTUAL" in line or not re.search("SCAN|TEMP B-TREE", line) for line in plan), plan


def test_the_counts_of_a_directory_are_kept_in_step() -> None:
    desk = Desk()
    for _ in range(3):
        desk.create()
    desk.say(Claim(work_directories=("/w",), limit=2))
    counts = desk.db.execute(f"select work_directory, {STATUSES} from work_directories").fetchall()
    assert counts == [("/w", 1, 2, 0, 0, 0)]


async def test_a_version_of_the_settings_is_read_back_as_it_was(tmp_path: Path) -> None:
    """By readers, newest first, and by the next owner of the file."""
    desk = Desk()
    made = []
    for number in (1, 2, 3):
        runtime = {"task.max_task_retries": number, "webhooks.events": ["é", None]}
        changes = {"task.max_task_retries": {"from": number - 1, "to": number}}
        reason = "so" if number % 2 else None
        made += desk.effects(
            Reconfigure(rules=Rules(), who="ann", reason=reason, changes=changes, runtime=runtime), number
        ).changes
    rows = [change.after for change in made if isinstance(change, Configured)]
    async with open_store(tmp_path / "tasks.db") as store:
        await store.commit(made[:1])
        await store.commit(made[1:])
        assert await store.record.config_versions(2, 0) == ([rows[2], rows[1]], 3)
        assert await store.record.config_versions(2, 2) == ([rows[0]], 3)
        assert await store.record.config_version(2) == rows[1]
        assert await store.record.config_version(4) is None
        with pytest.raises(sqlite3.IntegrityError):
            await store.commit(made[:1])
    async with open_store(tmp_path / "tasks.db") as store:
        snapshot = await store.load()
        assert (snapshot.config_version, snapshot.runtime) == (3, rows[2].runtime)
        assert snapshot.last_seq == 3


async def test_a_probe_writes_to_the_disk_and_changes_nothing(tmp_path: Path) -> None:
    """So it fails if that cannot be done."""
    path, log = tmp_path / "tasks.db", tmp_path / "tasks.db-wal"
    async with open_store(path) as opened:
        await opened.commit([created()])
        before, size = await hop(opened._writer, _dump), log.stat().st_size
        await opened.probe()
        assert log.stat().st_size >= size + store.PROBE_BYTES - 32
        assert await hop(opened._writer, _dump) == before
        await hop(opened._writer, lambda db: db.execute("pragma query_only = on").fetchone())
        with pytest.raises(RecordFailed):
            await opened.probe()
        await hop(opened._writer, lambda db: db.execute("pragma query_only = off").fetchone())
        await opened.probe()


def _dump(db: sqlite3.Connection) -> list[Any]:
    """All that is in the tables; an index of text does not show what it has."""
    names = "select name from sqlite_schema where type = 'table' and name <> 'prompts' order by name"
    return [db.execute(f"select * from {name}").fetchall() for (name,) in db.execute(names).fetchall()]


async def test_probes_alone_do_not_let_the_log_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOG_BYTES_MAX", 10 * store.PROBE_BYTES)
    log = tmp_path / "tasks.db-wal"
    async with open_store(tmp_path / "tasks.db") as opened:
        for _ in range(100):
            await opened.probe()
        assert log.stat().st_size < 50 * store.PROBE_BYTES


async def test_whoever_watches_is_told_of_every_commit(tmp_path: Path) -> None:
    """But not of one that failed."""
    told: list[tuple[int, float, float]] = []
    desk = Desk()
    changes = [desk.effects(Create(work_directory="/w", prompt="do it")).changes[0] for _ in range(3)]
    async with open_store(tmp_path / "tasks.db") as opened:
        opened.watch(lambda *commit: told.append(commit))
        await opened.commit(changes)
        with pytest.raises(sqlite3.IntegrityError):
            await opened.commit(changes)
    ((number, seconds, flushed_seconds),) = told
    assert number == 3
    assert seconds > flushed_seconds > 0


async def test_the_store_tells_how_much_room_there_is(tmp_path: Path) -> None:
    async with open_store(tmp_path / "tasks.db") as opened:
        await opened.commit([created()])
        room = await opened.room()
        assert 0 < room.free_bytes <= room.total_bytes
        assert room.log_bytes == (tmp_path / "tasks.db-wal").stat().st_size > 0


async def test_the_task_that_has_waited_longest_is_found_in_any_directory(tmp_path: Path) -> None:
    """Those that no longer wait do not count."""
    desk = Desk()
    async with open_store(tmp_path / "tasks.db") as opened:
        assert await opened.record.oldest_waiting() is None
        for at, path in ((10, "/w"), (20, "/c"), (30, "/a"), (40, "/w")):
            await opened.commit(desk.effects(Create(work_directory=path, prompt="do it"), at).changes)
        assert await opened.record.oldest_waiting() == 10
        await opened.commit(desk.effects(Claim(work_directories=("/w",)), 50).changes)
        assert await opened.record.oldest_waiting() == 20


def test_who_has_waited_longest_is_looked_up_and_not_searched_for() -> None:
    """Of each priority the index has the oldest in front, here and in each directory."""
    with closing(database()) as db:
        for query in (queries.OLDEST_WAITING, queries.DIRECTORY_COUNTS):
            plan = [row[3] for row in db.execute(f"explain query plan {query}")]
            assert (
                sum("(status=? AND priority=?)" in line or "AND status=? AND priority=?" in line for line in plan) == 3
            )
            assert not any("TEMP B-TREE" in line or line.startswith("SCAN tasks") for line in plan), plan
