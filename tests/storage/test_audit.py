"""The audit log as both databases keep it: one chain without gaps, which shows whatever is done to it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg.transaction import Transaction
from attrs import evolve, fields

from dispatcher.audit import AuditEntry, AuditFilter, AuditLog, Deed, Head, chained, verify
from dispatcher.errors import RecordFailed
from storage.store import open_store
from tests.postgres import Cluster

ALL = AuditFilter()
NUMBER = 9


def deed(number: int, **more: Any) -> Deed:
    return Deed(at=1000 + number, action="keys_create", outcome="ok", who="ann ö", target=f"t{number}", **more)


class Base:
    """A database, and a way around all that guards it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite:")

    @asynccontextmanager
    async def log(self) -> AsyncIterator[AuditLog]:
        async with open_store(self.url, max_connections=5, min_connections=1) as store:
            yield store.audit_log

    async def execute(self, *statements: str) -> None:
        if self.is_sqlite:
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)) as db:
                for statement in statements:
                    db.execute(statement)
            return
        db = await asyncpg.connect(self.url)
        try:
            for statement in statements:
                await db.execute(statement)
        finally:
            await db.close()

    async def tamper(self, *statements: str) -> None:
        """As somebody does who may do everything."""
        if self.is_sqlite:
            names = ("audit_grows_at_its_end", "audit_is_not_changed", "audit_is_not_removed")
            disarm = [f"drop trigger if exists {name}" for name in names]
        else:
            disarm = ["alter table audit disable trigger all"]
        await self.execute(*disarm, *statements)


@pytest.fixture(params=["sqlite", "postgres"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Base]:
    if request.param == "sqlite":
        yield Base(f"sqlite:///{tmp_path / 'tasks.db'}")
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    name = cluster.create_database()
    yield Base(cluster.url(name))
    cluster.drop_database(name)


async def written(log: AuditLog) -> list[AuditEntry]:
    return [
        *await log.append([deed(n) for n in range(1, 4)]),
        *await log.append([deed(n) for n in range(4, NUMBER + 1)]),
    ]


async def test_what_was_appended_is_read_back_in_one_chain(base: Base) -> None:
    async with base.log() as log:
        entries = await written(log)
        assert entries == chained([deed(n) for n in range(1, NUMBER + 1)], Head(0, "0" * 64))
        assert await log.page(ALL, 100, after=0) == entries
        assert await log.page(ALL, 100) == entries[::-1]
        assert await log.page(ALL, 2, after=3) == entries[3:5]
        assert await log.page(ALL, 2, before=3) == entries[1::-1]
    async with base.log() as log:  # and goes on behind it
        (last,) = await log.append([deed(10)])
        assert (last.number, last.previous_hash) == (NUMBER + 1, entries[-1].hash)
        assert (await verify(log)).head == Head(last.number, last.hash)


async def test_a_filter_narrows(base: Base) -> None:
    async with base.log() as log:
        await log.append([deed(1), deed(2, request_id="x"), evolve(deed(3), who=None, outcome="FORBIDDEN")])

        async def numbers(**only: Any) -> list[int]:
            return [entry.number for entry in await log.page(AuditFilter(**only), 100)]

        assert await numbers(who="ann ö") == [2, 1]
        assert await numbers(outcomes=("FORBIDDEN", "x")) == [3]
        assert await numbers(actions=("other",)) == []
        assert await numbers(since=1002) == [3, 2]
        assert await numbers(since=1002, until=1003) == [2]
        assert await numbers(actions=("keys_create", "y"), outcomes=("ok",)) == [2, 1]


async def test_nothing_is_changed_nor_removed_nor_put_between(base: Base) -> None:
    """By accident, that is: who owns the database can take the triggers away."""
    async with base.log() as log:
        entries = await written(log)
    others = ", ".join(field.name for field in fields(AuditEntry)[1:])
    again = f"insert into audit select {{}}, {others}"
    attempts = [
        "update audit set who = 'eve' where number = 2",
        "delete from audit where number = 9",
        "delete from audit",
        again.format("number + 10") + " from audit where number = 9",
        again.format("number - 10") + " from audit where number = 9",
    ]
    if not base.is_sqlite:
        attempts += ["truncate audit", "truncate audit, keys cascade"]
    for attempt in attempts:
        with pytest.raises((sqlite3.Error, asyncpg.PostgresError), match=r"append-only|at its end"):
            await base.execute(attempt)
    async with base.log() as log:
        assert await log.page(ALL, 100, after=0) == entries


OTHERWISE = {
    "number": "number + 100",
    "at": "at + 1",
    "who": "null",
    "address": "'10.0.0.1'",
    "action": "'keys_revoke'",
    "target": "'t4 '",
    "outcome": "'FORBIDDEN'",
    "request_id": "'x'",
    "details": "'{ }'",
    "previous_hash": "hash",
    "hash": "previous_hash",
}


@pytest.mark.parametrize("column", [field.name for field in fields(AuditEntry)])
async def test_a_change_of_any_column_is_found(base: Base, column: str) -> None:
    async with base.log() as log:
        await written(log)
    await base.tamper(f"update audit set {column} = {OTHERWISE[column]} where number = 4")
    async with base.log() as log:
        told = await verify(log)
    assert told.entries == 3
    assert told.broken is not None
    assert told.broken.number == (5 if column == "number" else 4)


SWAPPED = ", ".join(
    f"{field.name} = (select {field.name} from audit as other where other.number = 11 - audit.number)"
    for field in fields(AuditEntry)
    if field.name != "number"
)


@pytest.mark.parametrize(
    ("done", "first"),
    [
        (["delete from audit where number = 4"], 5),
        (["delete from audit where number = 4", "update audit set number = 4 where number = 5"], 4),
        (["delete from audit where number < 4"], 4),
        (["create table was as select * from audit", f"update audit set {SWAPPED} where number in (5, 6)"], 5),
        (
            [
                "create table x as select * from audit where number = 1",
                "update x set number = 0",
                "insert into audit select * from x",
            ],
            0,
        ),
        (
            [
                "create table x as select * from audit where number = 9",
                "update x set number = 10",
                "insert into audit select * from x",
            ],
            10,
        ),
    ],
    ids=["removed", "removed and closed up", "its beginning removed", "swapped", "put in front", "repeated"],
)
async def test_what_is_removed_moved_or_added_is_found(base: Base, done: list[str], first: int) -> None:
    async with base.log() as log:
        await written(log)
    await base.tamper(*done)
    async with base.log() as log:
        told = await verify(log)
    assert told.broken is not None
    assert told.broken.number == first


async def test_what_is_cut_off_is_found_by_who_knows_where_it_ended(base: Base) -> None:
    async with base.log() as log:
        end = (await written(log))[-1]
        assert (await verify(log, Head(end.number, end.hash))).broken is None
    await base.tamper("delete from audit where number > 6")
    async with base.log() as log:
        assert (await verify(log)).broken is None  # that is what a chain cannot tell
        told = await verify(log, Head(end.number, end.hash))
        assert told.broken is not None
        assert told.broken.number == NUMBER
        await log.append([evolve(deed(n), who="eve") for n in (7, 8, 9)])
        assert (await verify(log)).broken is None
        told = await verify(log, Head(end.number, end.hash))
        assert told.broken is not None
        assert "known" in told.broken.reason


async def test_many_that_append_at_once_make_one_chain(cluster: Cluster, postgres_url: str) -> None:
    """Two servers, and many batches at each."""
    one, other = Base(postgres_url), Base(postgres_url)
    async with one.log() as here, other.log() as there:
        sizes = [1, 2, 5] * 10
        await asyncio.gather(*(log.append([deed(n) for n in range(size)]) for size in sizes for log in (here, there)))
        told = await verify(here)
        assert (told.entries, told.broken) == (2 * sum(sizes), None)


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = Transaction.__aexit__

    async def lost(self: Transaction, *error: Any) -> None:
        await leave(self, *error)
        monkeypatch.undo()
        raise ConnectionResetError("lost")

    async with Base(postgres_url).log() as log:
        first = await log.append([deed(1)])
        monkeypatch.setattr(Transaction, "__aexit__", lost)
        with pytest.raises(RecordFailed):
            await log.append([deed(2), deed(3)])
        again = await log.append([deed(2), deed(3)])
        await log.append([deed(4)])
        assert [*first, *again] == (await log.page(ALL, 9, after=0))[:3]
        assert (await verify(log)).entries == 4


async def test_a_commit_that_failed_is_made_the_next_time(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave = Transaction.__aexit__

    async def lost(self: Transaction, *_: Any) -> None:
        error = ConnectionResetError("lost")
        monkeypatch.undo()
        await leave(self, type(error), error, None)
        raise error

    async with Base(postgres_url).log() as log:
        monkeypatch.setattr(Transaction, "__aexit__", lost)
        with pytest.raises(RecordFailed):
            await log.append([deed(1)])
        assert not await log.page(ALL, 9)
        await log.append([deed(1)])
        assert (await verify(log)).entries == 1
