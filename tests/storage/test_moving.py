"""Whatever a record holds arrives, however often the way there is interrupted; and nothing else is ever touched."""

import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from attrs import evolve

from storage import moving
from storage.contents import TABLES
from storage.errors import AlreadyOwned, NotOurs, StorageError, TooNew
from storage.moving import Moved, compare, move
from storage.postgres import forms as postgres_forms
from storage.postgres import moving as postgres_moving
from storage.postgres import store as postgres_store
from storage.postgres.connections import Address
from storage.postgres.moving import PostgresEnd, refuse_half_moved
from storage.postgres.versions import MOVING, OURS, migrate
from storage.sqlite import forms as sqlite_forms
from storage.sqlite import moving as sqlite_moving
from storage.sqlite.moving import SqliteEnd
from storage.sqlite.rebuild import rebuild_file
from storage.sqlite.store import open_store
from storage.steps import steps
from tests.dispatcher.world import database
from tests.postgres import Cluster
from tests.storage.busy import MOVED_NOT, busy, rows_of

NOT_MOVED = {"instances", "duties", "schema_version"}


class Silence:
    def copied(self, table: str, rows: int, total: int) -> None: ...

    compared = copied


class Crash(Exception):
    """Not a failure of the record: the process is gone."""


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


async def moved(source: Path | str, target: Path | str, **options: Any) -> Moved:
    urls = (sqlite_url(end) if isinstance(end, Path) else end for end in (source, target))
    return await move(*urls, Silence(), **options)


async def ask(url: str, query: str, *values: Any) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *values)
    finally:
        await connection.close()


def crash_after(monkeypatch: pytest.MonkeyPatch, end: type, writes: int, *, before: bool) -> None:
    """The process dies so many transactions later, before the last of them or behind it."""
    real, left = end.write, [writes]  # type: ignore[attr-defined]

    async def write(self: Any, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0 and before:
            raise Crash
        await real(self, *arguments)
        if left[0] < 0:
            raise Crash

    monkeypatch.setattr(end, "write", write)


@pytest.fixture
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "BATCH_ROWS", 7)
    monkeypatch.setattr(sqlite_moving, "PART_ROWS", 3)
    for table, form in postgres_forms.FORMS.items():
        monkeypatch.setitem(postgres_forms.FORMS, table, evolve(form, part_rows=3))


# Everything arrives


@pytest.mark.parametrize("seed", range(4))
async def test_there_and_back_again_it_is_the_same_row_by_row(postgres_url: str, tmp_path: Path, seed: int) -> None:
    """Whatever has happened in it: whatever is not the same afterwards would be found by its servers one day."""
    first, second = busy(tmp_path / "first.db", seed), tmp_path / "deep" / "second.db"
    before = rows_of(first)
    assert all(before.values()), [name for name, rows in before.items() if not rows]
    assert (await moved(first, postgres_url)).is_same
    assert (await moved(postgres_url, second)).is_same
    assert rows_of(second) == before == rows_of(first)


async def test_between_two_of_a_kind_it_is_the_same(cluster: Cluster, postgres_url: str, tmp_path: Path) -> None:
    first, second, third = busy(tmp_path / "first.db"), tmp_path / "second.db", tmp_path / "third.db"
    other = cluster.create_database()
    assert (await moved(first, second)).is_same
    assert (await moved(second, postgres_url)).is_same
    assert (await moved(postgres_url, cluster.url(other))).is_same
    assert (await moved(cluster.url(other), third)).is_same
    cluster.drop_database(other)
    assert rows_of(third) == rows_of(second) == rows_of(first)


async def test_servers_find_there_what_they_need(postgres_url: str, tmp_path: Path) -> None:
    """What one record keeps otherwise than the other, and the numbers that are given out next."""
    path = busy(tmp_path / "tasks.db")
    await moved(path, postgres_url)
    await moved(postgres_url, back := tmp_path / "back.db")
    async with open_store(path) as here, open_store(back) as there:
        assert await here.load() == await there.load()
    with closing(sqlite3.connect(path)) as db:
        arrival, seq = db.execute("select arrival, seq from last_numbers").fetchone()
        keys = db.execute("select idempotency_key, work_directory, arrival from tasks where idempotency_key > ''")
        keys_there = "select array_agg((key, work_directory, arrival) order by key) from idempotency_keys"
        assert sorted(keys) == await ask(postgres_url, keys_there)
        prompts = {prompt for (prompt,) in db.execute("select prompt from tasks")}
    assert await ask(postgres_url, "select seq from last_numbers") == seq
    assert await ask(postgres_url, "select nextval('arrivals')") == arrival + 1
    number = await ask(postgres_url, "select max(number) from additions")
    assert await ask(postgres_url, "insert into additions (tallies) values ('[]') returning number") == number + 1
    folded = await ask(postgres_url, "select array_agg(distinct coalesce(folded, prompt)) from tasks")
    assert set(folded) == {prompt.casefold() for prompt in prompts}
    assert await ask(postgres_url, "select count(*) from tasks where folded = prompt") == 0
    assert await ask(postgres_url, "select count(*) from history where work_directory = '' and task_id is null") > 0
    assert await ask(postgres_url, "select count(*) from pg_stats where tablename = 'tasks'") > 0  # analyzed


async def test_an_empty_record_can_be_moved(postgres_url: str, tmp_path: Path) -> None:
    async with open_store(tmp_path / "tasks.db"):
        pass
    assert (await moved(tmp_path / "tasks.db", postgres_url)).is_same
    assert await ask(postgres_url, "select (last_value, is_called) from arrivals") == (1, False)
    await moved(postgres_url, tmp_path / "back.db")
    assert rows_of(tmp_path / "back.db") == rows_of(tmp_path / "tasks.db")


async def test_no_table_and_no_column_is_forgotten(postgres_url: str) -> None:
    """Who adds one to a schema says here whether it is moved."""
    connection = await asyncpg.connect(postgres_url)
    await migrate(connection, steps(files("storage.postgres")))
    columns = await connection.fetch(
        "select relname, array_agg(attname::text) from pg_class join pg_attribute on attrelid = pg_class.oid "
        "where relkind in ('r', 'p') and not relispartition and attnum > 0 and not attisdropped "
        "and relnamespace = 'public'::regnamespace group by relname"
    )
    await connection.close()
    there = {name: set(names) - {"only_row"} for name, names in columns if name not in NOT_MOVED}
    assert there == {name: set(names) for name, names in TABLES.items()} | {"last_numbers": {"seq"}}
    with closing(database()) as db:
        tables = [name for (name,) in db.execute("select name from sqlite_schema where type = 'table'")]
        ours = [name for name in tables if not name.startswith(MOVED_NOT)]
        here = {name: {row[1] for row in db.execute(f"pragma table_info({name})")} - {"only_row"} for name in ours}
    assert here == {name: set(form.written) for name, form in sqlite_forms.FORMS.items() if form.written}


# Interruptions


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_however_often_it_is_interrupted_all_arrives_once(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_small_steps: None, seed: int, back: bool
) -> None:
    first, second, rng = busy(tmp_path / "first.db", seed), tmp_path / "second.db", random.Random(seed)
    if back:
        await moved(first, postgres_url)
    source, target, end = (postgres_url, second, SqliteEnd) if back else (first, postgres_url, PostgresEnd)
    crashes = 0
    while True:
        with monkeypatch.context() as patch:
            crash_after(patch, end, rng.randrange(40), before=rng.random() < 0.5)
            try:
                result = await moved(source, target)
                break
            except Crash:
                crashes += 1
    assert result.is_same
    assert result.resumed > 0
    assert crashes > 3
    if not back:
        await moved(postgres_url, second)
    assert rows_of(second) == rows_of(first)


async def test_no_server_takes_what_has_not_arrived_completely(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_small_steps: None
) -> None:
    first, second = busy(tmp_path / "first.db"), tmp_path / "second.db"
    for target, end in ((postgres_url, PostgresEnd), (second, SqliteEnd)):
        with monkeypatch.context() as patch:
            crash_after(patch, end, 9, before=True)
            with pytest.raises(Crash):
                await moved(first, target)
    with pytest.raises(StorageError, match=r"second\.db: a move into it is not complete"):
        async with open_store(second):
            pass
    with pytest.raises(StorageError, match=r"second\.db: a move into it is not complete"):
        rebuild_file(second, lambda seq, last: None)
    connection = await asyncpg.connect(postgres_url)
    with pytest.raises(StorageError, match="a move into it is not complete"):
        await refuse_half_moved(connection)
    for end_url in (second, postgres_url):  # nor does another move
        with pytest.raises(StorageError, match="a move into it is not complete"):
            await moved(end_url, tmp_path / "third.db")
    await moved(first, postgres_url)
    await refuse_half_moved(connection)
    await connection.close()


async def test_no_server_takes_what_is_being_moved(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, third = busy(tmp_path / "first.db"), tmp_path / "third.db"
    await moved(first, postgres_url)
    connection = await asyncpg.connect(postgres_url)
    refused: list[str] = []

    async def write(self: SqliteEnd, *arguments: Any) -> None:
        with pytest.raises(AlreadyOwned, match="it is being moved"):
            await refuse_half_moved(connection)
        with pytest.raises(AlreadyOwned, match="another server is using it"):
            async with open_store(third):
                pass
        with pytest.raises(AlreadyOwned, match="going on already"):
            await moved(postgres_url, tmp_path / "fourth.db")
        refused.append("both")
        raise Crash

    monkeypatch.setattr(SqliteEnd, "write", write)
    monkeypatch.setattr(postgres_moving, "LOCK_SECONDS", 0.1)
    with pytest.raises(Crash):
        await moved(postgres_url, third)
    assert refused == ["both"]
    await connection.execute(f"select pg_advisory_lock_shared({OURS}, {MOVING})")  # until PostgreSQL has seen it go
    await refuse_half_moved(connection)
    await connection.close()


async def test_a_server_and_a_move_that_begin_at_once_see_each_other(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move has looked for servers before this one was there; but that looks for moves once it can be seen."""
    await moved(busy(tmp_path / "first.db"), postgres_url)
    seen: list[int] = []

    async def look(connection: Any) -> None:
        seen.append(await ask(postgres_url, "select count(*) from instances"))
        await refuse_half_moved(connection)

    monkeypatch.setattr(postgres_store, "refuse_half_moved", look)
    address = Address(url=postgres_url, min_connections=0)
    mover = await asyncpg.connect(postgres_url)
    await mover.execute(f"select pg_advisory_lock({OURS}, {MOVING})")
    with pytest.raises(AlreadyOwned, match="it is being moved"):
        async with postgres_store.open_store(address):
            pass
    await mover.close()
    assert seen == [1]
    assert await ask(postgres_url, "select count(*) from instances") == 0
    async with postgres_store.open_store(address):
        with pytest.raises(AlreadyOwned, match="uses it, or did"):
            await moved(postgres_url, tmp_path / "second.db")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_source_that_has_changed_meanwhile_needs_a_new_beginning(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_small_steps: None, kind: str
) -> None:
    """And so does another source; which removes what the move has written, and nothing but that."""
    first, second = busy(tmp_path / "first.db"), tmp_path / "second.db"
    target, end = (second, SqliteEnd) if kind == "sqlite" else (postgres_url, PostgresEnd)
    with monkeypatch.context() as patch:
        crash_after(patch, end, 30, before=False)
        with pytest.raises(Crash):
            await moved(first, target)
    other = busy(tmp_path / "other.db", seed=9)
    with pytest.raises(StorageError, match=r"from .*first.db: start over with --restart"):
        await moved(other, target)
    with closing(sqlite3.connect(first)) as db, db:
        db.execute("update tasks set updated_at = 5000000000000, metadata = '{}' where arrival = 1")
    with pytest.raises(StorageError, match=r"first.db: it has changed since .* start over with --restart"):
        await moved(first, target)
    assert (await moved(first, target, restart=True)).is_same
    with pytest.raises(StorageError, match="it is not empty, and no move into it is unfinished"):
        await moved(first, target, restart=True)


# What is not the same


async def test_what_is_not_the_same_stays_unfinished(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = busy(tmp_path / "first.db")
    real: Callable[..., Any] = moving._compare_all

    async def compare_all(*arguments: Any) -> Any:
        await ask(postgres_url, "update tasks set result = 'null' where arrival = (select max(arrival) from tasks)")
        await ask(postgres_url, "delete from history where seq = 3")
        return await real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(moving, "_compare_all", compare_all)
        result = await moved(first, postgres_url)
    assert {one.table for one in result.tables if not one.is_same} == {"tasks", "history"}
    connection = await asyncpg.connect(postgres_url)
    with pytest.raises(StorageError, match="not complete"):
        await refuse_half_moved(connection)
    await connection.close()
    assert not (await moved(first, postgres_url)).is_same
    assert (await moved(first, postgres_url, restart=True)).is_same


async def test_two_records_can_be_compared_at_any_time(postgres_url: str, tmp_path: Path) -> None:
    first = busy(tmp_path / "first.db")
    await moved(first, postgres_url)
    assert (await compare(sqlite_url(first), postgres_url, Silence())).is_same
    await ask(postgres_url, "update task_logs set line = line || ' ' where number = 1")
    result = await compare(sqlite_url(first), postgres_url, Silence())
    assert [one.table for one in result.tables if not one.is_same] == ["task_logs"]


# Refusals


async def test_a_target_that_is_not_empty_is_not_touched(postgres_url: str, tmp_path: Path) -> None:
    first, second = busy(tmp_path / "first.db"), busy(tmp_path / "second.db", seed=2)
    before = rows_of(second)
    with pytest.raises(StorageError, match=r"second\.db: it is not empty"):
        await moved(first, second)
    assert rows_of(second) == before
    await moved(second, postgres_url)
    for restart in (False, True):
        with pytest.raises(StorageError, match="it is not empty"):
            await moved(first, postgres_url, restart=restart)
    assert (await compare(sqlite_url(second), postgres_url, Silence())).is_same


async def test_a_record_that_a_server_uses_is_not_touched(postgres_url: str, tmp_path: Path) -> None:
    first, second = busy(tmp_path / "first.db"), tmp_path / "second.db"
    for source, target in ((first, second), (second, first)):
        async with open_store(first if source == first else second):
            with pytest.raises(AlreadyOwned, match="another server is using it"):
                await moved(source, target)
    await moved(first, postgres_url)
    now = "(extract(epoch from now()) * 1000)::bigint"
    await ask(postgres_url, f"insert into instances values ('one', 0, {now} - 20000, 0, '')")
    await moved(postgres_url, tmp_path / "third.db")
    await ask(postgres_url, f"insert into instances values ('two', 0, {now} - 9000, 0, '')")
    for source, target in ((postgres_url, tmp_path / "fourth.db"), (first, postgres_url)):
        with pytest.raises(AlreadyOwned, match=r"the server two uses it, or did \d+ s ago"):
            await moved(source, target)


async def test_what_is_not_ours_is_not_touched(postgres_url: str, tmp_path: Path) -> None:
    first, theirs = busy(tmp_path / "first.db"), tmp_path / "theirs.db"
    with closing(sqlite3.connect(theirs)) as db:
        db.execute("create table tasks (id)")
    content = theirs.read_bytes()
    for source, target in ((theirs, tmp_path / "new.db"), (first, theirs)):
        with pytest.raises(NotOurs, match="program"):
            await moved(source, target)
    assert theirs.read_bytes() == content
    with pytest.raises(StorageError, match="there is no such file"):
        await moved(tmp_path / "none.db", tmp_path / "new.db")
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "new.db").exists()
    with pytest.raises(NotOurs, match="there is no record in it"):
        await moved(postgres_url, tmp_path / "new.db")
    await ask(postgres_url, "create table tasks (id integer)")
    with pytest.raises(NotOurs, match="it has tables of another program"):
        await moved(first, postgres_url)
    assert await ask(postgres_url, "select to_regclass('history')") is None


async def test_a_newer_record_is_not_touched(postgres_url: str, tmp_path: Path) -> None:
    """Not even by one version: what that adds would be left behind."""
    first = busy(tmp_path / "first.db")
    connection = await asyncpg.connect(postgres_url)
    await migrate(connection, [*steps(files("storage.postgres")), "select 1"])
    await connection.close()
    for source, target in ((postgres_url, tmp_path / "new.db"), (first, postgres_url)):
        with pytest.raises(TooNew, match="use a newer release"):
            await moved(source, target)
    with closing(sqlite3.connect(first)) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(TooNew, match="use a newer release"):
        await moved(first, tmp_path / "new.db")


async def test_what_cannot_be_reached_is_told_in_one_line_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as refused:
        await moved(busy(tmp_path / "first.db"), f"postgresql://ann:secret@/tasks?password=secret&host={tmp_path}")
    assert str(refused.value).startswith("postgresql://ann@/tasks: ")
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_without_asyncpg_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("storage.postgres.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StorageError, match="pip install asyncpg"):
        await moved(busy(tmp_path / "first.db"), "postgresql:///tasks")
