"""How long to wait before trying again."""

from collections.abc import Iterator
from random import uniform

SHORTEST_SECONDS = 0.2
LONGEST_SECONDS = 10.0


def pauses() -> Iterator[float]:
    """Endless seconds to wait between tries, from 0.2 to 10: the ceiling doubles, the rest is chance.

    Chance keeps a hundred workers from knocking at the same moment when their server comes back.
    """
    ceiling = 2 * SHORTEST_SECONDS
    while True:
        yield uniform(SHORTEST_SECONDS, ceiling)  # noqa: S311 - it may be guessed
        ceiling = min(2 * ceiling, LONGEST_SECONDS)
