"""The schema on PostgreSQL: brought about by many servers at once, and shared by releases that follow each other."""

import asyncio
from importlib.resources import files

import asyncpg
import pytest

from storage.errors import NotOurs, StorageError, TooNew
from storage.postgres.versions import migrate
from storage.steps import steps
from tests.postgres import Cluster

STEPS = steps(files("storage.postgres"))
SECOND = "alter table instances add column host text; insert into duties values ('second', 'x', 0)"
THIRD = "insert into duties values ('third', 'x', 0)"
BROKEN = "insert into duties values ('half', 'x', 0); select 1 / 0"
TABLES = "select count(*) from pg_class where relnamespace = 'public'::regnamespace"


async def bring(url: str, sql: list[str]) -> None:
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection, sql)
    finally:
        await connection.close()


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_ten_servers_may_bring_about_the_schema_at_once(postgres_url: str) -> None:
    """Each step is taken once, whatever the isolation of transactions is by default."""
    name = await ask(postgres_url, "select current_database()")
    await ask(postgres_url, f"alter database {name} set default_transaction_isolation = 'serializable'")
    await asyncio.gather(*(bring(postgres_url, [*STEPS, SECOND, THIRD]) for _ in range(10)))
    assert await ask(postgres_url, "select array_agg(version) from schema_version") == [len(STEPS) + 2]
    assert await ask(postgres_url, "select array_agg(duty order by duty) from duties") == ["second", "third"]
    assert await ask(postgres_url, "select seq from last_numbers") == 0


async def test_the_release_before_works_on_the_newer_schema(postgres_url: str) -> None:
    """So servers can be replaced one after the other; whoever comes later still finds it as it was left."""
    await bring(postgres_url, STEPS)
    await bring(postgres_url, [*STEPS, SECOND])
    await bring(postgres_url, STEPS)
    assert await ask(postgres_url, "select version from schema_version") == len(STEPS) + 1


async def test_a_release_two_versions_behind_is_refused(postgres_url: str) -> None:
    await bring(postgres_url, [*STEPS, SECOND, THIRD])
    with pytest.raises(TooNew, match=f"version {len(STEPS) + 2}, this release knows {len(STEPS)}: use a newer release"):
        await bring(postgres_url, STEPS)


async def test_a_step_that_fails_leaves_the_version_before_it(postgres_url: str) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await bring(postgres_url, [*STEPS, BROKEN])
    assert await ask(postgres_url, "select version from schema_version") == len(STEPS)
    assert await ask(postgres_url, "select count(*) from duties") == 0
    await bring(postgres_url, [*STEPS, SECOND])


@pytest.mark.parametrize(
    "theirs",
    [
        "create table tasks (id integer)",
        "create sequence arrivals",
        "create table schema_version (version integer, name text)",
        "create table schema_version (version integer); insert into schema_version values (1)",
        "create table schema_version (version integer)",
    ],
)
async def test_a_database_of_another_program_is_left_alone(postgres_url: str, theirs: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(theirs)
    await connection.close()
    before = await ask(postgres_url, TABLES)
    with pytest.raises(NotOurs, match="another program"):
        await bring(postgres_url, STEPS)
    assert await ask(postgres_url, TABLES) == before


async def test_a_database_that_cannot_hold_every_text_is_refused(cluster: Cluster) -> None:
    cluster.sql("create database latin encoding 'LATIN1' template template0")
    try:
        with pytest.raises(StorageError, match="its encoding is LATIN1"):
            await bring(cluster.url("latin"), STEPS)
        assert await ask(cluster.url("latin"), TABLES) == 0
    finally:
        cluster.drop_database("latin")
