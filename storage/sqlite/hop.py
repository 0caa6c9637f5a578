"""Work on a connection is done in its thread, a whole piece at a time: a hop costs more than a statement."""

import sqlite3
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from storage.sqlite.driver import errors_of_sqlite3

P = ParamSpec("P")
T = TypeVar("T")


async def hop(
    connection: aiosqlite.Connection,
    work: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do a piece of work in the connection's thread, all of it in one go. Raises what it raises, and sqlite3.Error."""
    return await connection._execute(_told, work, connection._conn, *args, **kwargs)  # type: ignore[no-any-return,no-untyped-call]


def _told(
    work: Callable[Concatenate[sqlite3.Connection, P], T], db: sqlite3.Connection, *args: P.args, **kwargs: P.kwargs
) -> T:
    with errors_of_sqlite3():
        return work(db, *args, **kwargs)
