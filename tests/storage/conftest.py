"""A test that takes `reader_of` runs on every database; one of a module that says ON_ENCRYPTED_FILES, on both kinds of
files."""

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from storage.encryption import EncryptionKey
from storage.sqlite.store import open_store
from tests.conftest import KEY
from tests.postgres import Cluster
from tests.storage.readers import OnPostgres, OnSqlite, Reader, on_postgres

SQLCIPHER_KEY = EncryptionKey(KEY, "the tests")

ReaderOf = Callable[[sqlite3.Connection], Reader]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if getattr(metafunc.module, "ON_ENCRYPTED_FILES", False) and "tmp_path" in metafunc.fixturenames:
        metafunc.parametrize("key", [None, SQLCIPHER_KEY], ids=["plain", "encrypted"], indirect=True)


@pytest.fixture(autouse=True)
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EncryptionKey | None:
    """Of the files that the test's module opens."""
    key: EncryptionKey | None = getattr(request, "param", None)
    if key is not None:
        monkeypatch.setattr(request.module, "open_store", partial(open_store, key=key))
    return key


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
