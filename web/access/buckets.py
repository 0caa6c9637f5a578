"""Token buckets, many of one kind, in bounded memory. No I/O; the clock is given.

A bucket holds `burst` tokens and gets `per_second` new ones; what is let through takes one. Nothing is kept of it but
the moment at which it will be full again, so that a full one need not be kept at all.

Whoever can come from very many addresses must not make us forget those that have used up theirs. So buckets that were
hardly drawn from (*light*: less than an eighth is missing) and the others (*heavy*) do not crowd each other out: each
sort has its own room, and where one is full the bucket that was used longest ago is forgotten. To have a heavy one
forgotten one must draw an eighth from each of HEAVY_MOST others before it has filled up again, and so is let through
far more often by those than by the one that begins anew.
"""

from collections import OrderedDict
from collections.abc import Callable
from heapq import nlargest
from operator import itemgetter
from typing import NamedTuple

from attrs import frozen

LIGHT_MOST = 20_000
HEAVY_MOST = 80_000
LIGHT_SHARE = 8  # one of so many parts may be missing of a bucket that is light
IDLE_MOST = 1000  # where there are more, those that are full again are dropped bit by bit
SECOND = 1_000_000_000  # ns


@frozen
class Rate:
    """More than `burst` at once and `per_second` for long are not let through."""

    per_second: float
    burst: int

    @property
    def interval(self) -> int:
        """From one token to the next, ns."""
        return max(1, -int(-SECOND // self.per_second))

    @property
    def room(self) -> int:
        """How long an empty bucket takes to be full, ns."""
        return self.interval * self.burst


class Standing(NamedTuple):
    """How it stands with a bucket after somebody drew from it; the tightest is the least. Times are ns."""

    remaining: int  # whole tokens
    full_in: int
    refused_for: int  # until there is a token; 0: it was let through
    limit: int  # what the bucket holds


class Buckets:
    """Those of one kind, all of the same rate, by whatever they are named by."""

    def __init__(self, rate: Rate, clock: Callable[[], int]) -> None:
        """`clock` tells ns that nobody can set; if it jumps back all the same, a bucket is at worst empty."""
        self._clock = clock
        self._light: OrderedDict[str, int] = OrderedDict()  # when it will be full; the one used last stands last
        self._heavy: OrderedDict[str, int] = OrderedDict()
        self.forgotten = 0  # that were not full
        self._set(rate)

    def __len__(self) -> int:
        return len(self._light) + len(self._heavy)

    def __contains__(self, name: str) -> bool:
        """Perhaps something is missing from it."""
        return name in self._light or name in self._heavy

    def draw(self, name: str) -> Standing:
        """Take a token, if there is one."""
        return self._draw(name, self._interval)

    def look(self, name: str) -> Standing:
        """The same, but nothing is taken."""
        return self._draw(name, 0)

    def adopt(self, rate: Rate) -> None:
        """From now on it is this rate. What was taken from a bucket stays missing."""
        if rate == self.rate:
            return
        now, before, after = self._clock(), self._interval, rate.interval
        kept = (*self._light.items(), *self._heavy.items())
        missing = [(name, -(-(full_at - now) * after // before)) for name, full_at in kept if full_at > now]
        self._light.clear()
        self._heavy.clear()
        self._set(rate)
        for name, length in missing:
            self._keep(name, now, min(length, self._room), False)

    def emptiest(self, most: int) -> list[tuple[str, Standing]]:
        """Those from which the most is missing, the emptiest first; none that is full."""
        now = self._clock()
        found: list[tuple[str, int]] = []
        for sort in (self._heavy, self._light):
            found += nlargest(most - len(found), sort.items(), key=itemgetter(1))
        return [(name, self._standing(min(full_at - now, self._room))) for name, full_at in found if full_at > now]

    def _set(self, rate: Rate) -> None:
        self.rate, self._interval, self._room, self._burst = rate, rate.interval, rate.room, rate.burst
        self._heavy_from = self._room // LIGHT_SHARE

    def _draw(self, name: str, cost: int) -> Standing:
        now = self._clock()
        full_at = self._heavy.get(name)
        is_heavy = full_at is not None
        if full_at is None:
            full_at = self._light.get(name, now)
        missing = min(max(full_at - now, 0), self._room)
        lacking = missing + (cost or self._interval) - self._room
        if lacking > 0:
            cost = 0
        if missing + cost:
            self._keep(name, now, missing + cost, is_heavy)
        return Standing((self._room - missing - cost) // self._interval, missing + cost, max(lacking, 0), self._burst)

    def _standing(self, missing: int) -> Standing:
        lacking = max(missing + self._interval - self._room, 0)
        return Standing((self._room - missing) // self._interval, missing, lacking, self._burst)

    def _keep(self, name: str, now: int, missing: int, is_heavy: bool) -> None:
        if is_heavy or missing > self._heavy_from:
            if not is_heavy:
                self._light.pop(name, None)
            self._heavy[name] = now + missing
            self._heavy.move_to_end(name)
        else:
            self._light[name] = now + missing
            self._light.move_to_end(name)
        if len(self) > IDLE_MOST:
            self._tidy(self._light, LIGHT_MOST, now)
            self._tidy(self._heavy, HEAVY_MOST, now)

    def _tidy(self, buckets: OrderedDict[str, int], most: int, now: int) -> None:
        """Two at most are dropped for each that may have come, so that nobody waits for it."""
        for _ in range(2):
            if not buckets:
                return
            oldest = next(iter(buckets))
            full_at = buckets[oldest]
            if full_at > now and len(buckets) <= most:
                return
            self.forgotten += full_at > now
            del buckets[oldest]
