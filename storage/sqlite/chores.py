"""What may wait until there is time for it: done in short steps, in the gaps between the commits."""

import sqlite3
from asyncio import Event
from collections.abc import Callable

from attrs import field, frozen

LATER_SECONDS = 0.5  # so long after it was called for it begins
AGAIN_SECONDS = 5  # so long after it went wrong it begins again
SHARE = 0.1  # of the writer's time, while it has other work too
SHARE_IN_HASTE = 0.5


@frozen
class Step:
    """What was done, in one short transaction. `log_bytes` is about how much it added to the write-ahead log, at most;
    `in_haste`: so much is left that others suffer from it. `more`: there may be more to do."""

    seconds: float = 0
    log_bytes: int = 0
    in_haste: bool = False
    more: bool = False

    @property
    def rest_seconds(self) -> float:
        """How long to leave the writer to others before the next one."""
        return self.seconds * (1 / (SHARE_IN_HASTE if self.in_haste else SHARE) - 1)


@frozen(eq=False)
class Chore:
    """`step` is told whether it is the first of a row. `trouble`: what is said if it goes wrong."""

    step: Callable[[sqlite3.Connection, bool], Step]
    trouble: str
    due: Event = field(factory=Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.due.set()  # the last owner may have left something
