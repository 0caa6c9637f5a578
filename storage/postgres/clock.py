"""The time of day that servers sharing a record decide by: that of its database."""

import time


class DatabaseClock:
    """Milliseconds since the epoch: counted by this machine's monotonic clock, set by the database's. It never runs
    backwards; where it is ahead it stands still until it is right."""

    def __init__(self) -> None:
        self._offset = 0  # to be added to the monotonic clock
        self._last = 0

    def __call__(self) -> int:
        self._last = max(self._last, self._offset + _now())
        return self._last

    def heard(self, moment: int, asked_at: int, heard_at: int) -> None:
        """The database's time was `moment` between two others of `monotonic`. A difference that the way explains is
        none."""
        if moment < self._offset + asked_at:
            self._offset = moment - asked_at
        elif moment > self._offset + heard_at:
            self._offset = moment - heard_at

    @staticmethod
    def monotonic() -> int:
        return _now()


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
