"""Outlast a restart of the server."""

from asyncio import get_running_loop, sleep
from collections.abc import Awaitable, Callable
from typing import TypeVar

from task_orchestrator.backoff import pause_after, pauses
from task_orchestrator.display import complain
from task_orchestrator.errors import Refused, Unreachable

RESTART_SECONDS = 60.0

T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], seconds: float = RESTART_SECONDS) -> T:
    """Repeat a call that changes nothing until the server answers it, and say so on standard error once.

    Raises what the call raised last when `seconds` have passed, and at once what no repeating will mend.
    """
    clock = get_running_loop().time
    until, waits, told = clock() + seconds, pauses(), False
    while True:
        try:
            return await call()
        except (Refused, Unreachable) as error:
            pause = pause_after(error, waits)
            if clock() + pause > until or (isinstance(error, Refused) and not error.temporary):
                raise
            if not told:
                complain(f"{error}; trying again for {seconds:.0f} s")
                told = True
            await sleep(pause)
