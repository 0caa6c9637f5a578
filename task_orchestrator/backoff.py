"""How long to wait before trying again."""

from collections.abc import Iterator
from random import uniform

from task_orchestrator.errors import OrchestratorError, Refused

SHORTEST_SECONDS = 0.2
LONGEST_SECONDS = 10.0
TOLD_SECONDS_MAX = 60.0  # whatever the server says


def pauses() -> Iterator[float]:
    """Endless seconds to wait between tries, from 0.2 to 10: the ceiling doubles, the rest is chance.

    Chance keeps a hundred workers from knocking at the same moment when their server comes back.
    """
    ceiling = 2 * SHORTEST_SECONDS
    while True:
        yield uniform(SHORTEST_SECONDS, ceiling)
        ceiling = min(2 * ceiling, LONGEST_SECONDS)


def pause_after(error: OrchestratorError | None, waits: Iterator[float]) -> float:
    """The next of the pauses. Who came too often first waits as long as the server says: the next try would only be
    refused too, and the pause spreads those who were told the same."""
    pause = next(waits)
    if isinstance(error, Refused) and error.status == 429:
        pause += min(error.retry_after_seconds or 0, TOLD_SECONDS_MAX)
    return pause
