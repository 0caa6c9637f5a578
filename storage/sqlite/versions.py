"""Brings a database file to the schema that this release knows: forward only, each step in one transaction."""

import sqlite3
from importlib.resources.abc import Traversable

from storage.errors import NotOurs, TooNew

APPLICATION_ID = 0x5441534B  # "TASK": how the file says whose it is


def steps(package: Traversable) -> list[str]:
    """The SQL of every version in order: schema.sql is version 1, migrations/NNNN_*.sql is version NNNN."""
    later = package / "migrations"
    numbered = sorted((file for file in later.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    for version, file in enumerate(numbered, start=2):
        assert int(file.name.split("_")[0]) == version, f"{file.name} should be number {version:04}"
    return [(package / "schema.sql").read_text()] + [file.read_text() for file in numbered]


def migrate(db: sqlite3.Connection, steps: list[str]) -> None:
    """Raises TooNew or NotOurs without having touched anything."""
    (version,) = db.execute("pragma user_version").fetchone()
    (owner,) = db.execute("pragma application_id").fetchone()
    (tables,) = db.execute("select count(*) from sqlite_schema").fetchone()
    if owner != APPLICATION_ID and (tables or version or owner):
        raise NotOurs("it is an SQLite database of another program")
    if version > len(steps):
        raise TooNew(f"its schema is version {version}, this release knows {len(steps)}: use a newer release")
    for number, sql in list(enumerate(steps, start=1))[version:]:
        try:
            stamp = f"pragma user_version = {number}; pragma application_id = {APPLICATION_ID}"
            db.executescript(f"begin immediate; {sql}; {stamp}; commit")
        except sqlite3.Error:
            db.rollback()
            raise
