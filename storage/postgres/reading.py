"""How the record is read: on a connection of the pool, and what has to agree as of one moment in one transaction."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

Reader: TypeAlias = "PoolConnectionProxy[Record]"

# It is ended by whoever takes the connection back. Plans are made for the values asked for, which are very unequal; no
# read is worth a second process, or a compiler; and of what is asked for a page of, little is looked at.
ONE_MOMENT = """
    begin isolation level repeatable read, read only;
    set local plan_cache_mode = force_custom_plan;
    set local max_parallel_workers_per_gather = 0;
    set local jit = off;
    set local enable_hashjoin = off;
    set local enable_mergejoin = off"""


async def see_one_moment(db: Reader) -> None:
    """From here on no commit is seen any more."""
    await db.execute(ONE_MOMENT)
