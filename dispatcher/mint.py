"""Makes task ids, lease tokens and chance."""

from random import Random
from secrets import randbits, token_urlsafe
from uuid import UUID

from attrs import define, field


@define
class SystemMint:
    """Task ids are UUIDv7 (RFC 9562, method 1): milliseconds, a 12-bit counter, 62 random bits."""

    _random: Random = field(factory=Random)
    _last: int = 0  # milliseconds and counter of the latest id

    def task_id(self, now: int) -> str:
        self._last = max(now << 12, self._last + 1)  # the counter runs over into the next millisecond
        ms, counter = self._last >> 12, self._last & 0xFFF
        return str(UUID(int=ms << 80 | 7 << 76 | counter << 64 | 2 << 62 | randbits(62)))

    def lease_token(self) -> str:
        return token_urlsafe(16)

    def jitter(self) -> float:
        return self._random.uniform(-1, 1)
