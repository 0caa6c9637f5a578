"""What can go wrong, one function for each: it comes, and most of it goes again. The server may have died of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chaos import Chaos

SLOW_SECONDS = (0.05, 0.3)
HOUR_SECONDS = 3600.0
ROOM_AGAIN_SECONDS = 10  # after which tasks must be accepted again


async def term(chaos: Chaos) -> None:
    """It is told to stop, and stops in good order."""
    if (status := await chaos.one.terminate()) != 0:
        chaos.ledger.find("stuck", f"SIGTERM was followed by exit status {status}: {chaos.one.last_words()}")


async def slow_disk(chaos: Chaos) -> None:
    """Each commit takes longer; perhaps it still does when the server is killed."""
    shortest, longest = SLOW_SECONDS
    await chaos.one.tell(f"slow {shortest} {longest}")
    await chaos.a_while(0.5, 1.5)
    if chaos.rng.random() < 0.5:
        await chaos.one.tell("slow 0 0")
    chaos.must_run("while its disk was slow")


async def disk_full(chaos: Chaos) -> None:
    """Whatever it does meanwhile, it must take tasks again once there is room; perhaps it is killed before."""
    await chaos.one.room.fill(chaos.one.tell)
    try:
        await chaos.a_while(0.3, 1.5)
        if chaos.rng.random() < 0.3:
            await chaos.kill()
    finally:
        await chaos.one.room.clear(chaos.one.tell)
    chaos.counts["exits"] += chaos.one.exit_status == 1
    await chaos.revive()
    await _takes_tasks_again(chaos)


async def _takes_tasks_again(chaos: Chaos) -> None:
    created, deadline = chaos.ledger.created, time.monotonic() + ROOM_AGAIN_SECONDS
    while chaos.ledger.created == created and chaos.tasks_are_wanted:
        if time.monotonic() > deadline:
            chaos.ledger.find("stuck", f"{ROOM_AGAIN_SECONDS} s after there is room again no task is accepted")
            return
        await chaos.a_while(0.01, 0.02)


async def clock(chaos: Chaos) -> None:
    """The wall clock is set an hour forward or back, and stays so, in the server that runs and the ones to come."""
    others = {-HOUR_SECONDS, 0.0, HOUR_SECONDS} - {chaos.one.offset_seconds}
    chaos.one.offset_seconds = chaos.rng.choice(sorted(others))
    await chaos.one.tell(f"clock {chaos.one.offset_seconds}")
    chaos.clock_was_set = True  # what that means for the leases shows when the server starts again
    await chaos.a_while(0.2, 0.5)
    chaos.must_run("when the clock was set")


async def drop_connections(chaos: Chaos) -> None:
    """Half of the clients lose all their connections at the same moment."""
    for agent in chaos.rng.sample(chaos.agents, len(chaos.agents) // 2):
        agent.cut(reset=chaos.rng.random() < 0.5)
    await chaos.a_while(0.1, 0.5)
    chaos.must_run("when connections were dropped")


async def storage_error(chaos: Chaos) -> None:
    """A commit or a read raises: nothing was written."""
    await chaos.one.tell(f"fail {chaos.rng.choice(('commit', 'commit', 'fetch'))}")
    await chaos.dies_of("storage error")


async def storage_lies(chaos: Chaos) -> None:
    """A commit raises, though all was written."""
    await chaos.one.tell("lie")
    await chaos.dies_of("storage lie")


WEATHER: dict[str, Callable[[Chaos], Awaitable[None]]] = {
    "term": term,
    "slow-disk": slow_disk,
    "disk-full": disk_full,
    "clock": clock,
    "drop-connections": drop_connections,
    "storage-error": storage_error,
    "storage-lies": storage_lies,
}
FAULTS = ("kill", *WEATHER)
COMMANDED = ("slow-disk", "disk-full", "clock", "storage-error", "storage-lies")
"""These need a server that takes commands."""
