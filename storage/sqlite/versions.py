"""Brings a database file to the schema that this release knows: forward only, each step in one transaction."""

import sqlite3

from storage.errors import NotOurs, TooNew

APPLICATION_ID = 0x5441534B  # "TASK": how the file says whose it is


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
        except BaseException:
            db.rollback()
            raise
