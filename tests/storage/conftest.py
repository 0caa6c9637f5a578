"""A test that takes `reader_of` runs on every database."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from tests.postgres import Cluster
from tests.storage.readers import OnPostgres, OnSqlite, Reader, on_postgres

ReaderOf = Callable[[sqlite3.Connection], Reader]


@pytest.fixture(scope="module")
def on_pg(cluster: Cluster) -> Iterator[OnPostgres]:
    """Each test fills it anew."""
    with on_postgres(cluster) as reader:
        yield reader


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def reader_of(request: pytest.FixtureRequest) -> ReaderOf:
    """Of the rows that a SQLite database has, here or there."""
    if request.param == "sqlite":
        return OnSqlite
    on_pg: OnPostgres = request.getfixturevalue("on_pg")
    return on_pg.fill


@pytest.fixture(scope="module")
def common_url(cluster: Cluster) -> Iterator[str]:
    """A database that the tests of a module share; each empties it."""
    name = cluster.create_database()
    yield cluster.url(name)
    cluster.drop_database(name)
