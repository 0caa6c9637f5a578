"""Work on a connection is done in its thread, a whole piece at a time: a hop costs more than a statement."""

import sqlite3
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")


async def hop(
    connection: aiosqlite.Connection,
    work: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do a piece of work in the connection's thread, all of it in one go."""
    return await connection._execute(work, connection._conn, *args, **kwargs)  # type: ignore[no-any-return,no-untyped-call]
