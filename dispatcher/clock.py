"""The time of day that decisions are made by."""

import time


class SystemClock:
    """Milliseconds since the epoch. Read once at the start, then counted by the monotonic clock: when somebody sets
    the machine's clock, leases neither live on for an hour nor all expire at once. It starts no earlier than at
    `not_before`, the last moment on record, should the clock have been set back meanwhile."""

    def __init__(self, not_before: int = 0) -> None:
        self._epoch_ns = max(time.time_ns(), not_before * 1_000_000) - time.monotonic_ns()

    def __call__(self) -> int:
        return (self._epoch_ns + time.monotonic_ns()) // 1_000_000
