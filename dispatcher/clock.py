"""The time of day that decisions are made by."""

import time


class SystemClock:
    """Milliseconds since the epoch. Read once at the start, then counted by the monotonic clock: when somebody sets
    the machine's clock, leases neither live on for an hour nor all expire at once."""

    def __init__(self) -> None:
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        return (self._epoch_ns + time.monotonic_ns()) // 1_000_000
