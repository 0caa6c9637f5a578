"""Durations by how long they are, so that percentiles of any sum of times can be told: bins that a duration misses by
2.5 % at most, as in DDSketch. The sum and the longest are exact."""

import math
from collections.abc import Iterable, Mapping

import orjson
from attrs import define, field

FINE_MS = 20  # up to here each millisecond has a bin of its own; beyond, a bin is a twentieth wider than the last one
GROWTH = 1.05
MIDDLE = 2 / (GROWTH + 1)  # of a bin, as a part of its upper end: as far from either end, in proportion

_LOG_GROWTH = math.log(GROWTH)


def bin_of(ms: int) -> int:
    return ms if ms <= FINE_MS else FINE_MS + math.ceil(math.log(ms / FINE_MS) / _LOG_GROWTH)


def middle_of(bin: int) -> float:
    """In milliseconds."""
    return bin if bin <= FINE_MS else FINE_MS * GROWTH ** (bin - FINE_MS) * MIDDLE


@define
class Durations:
    """In milliseconds. Bins are written as text, for JSON."""

    bins: dict[str, int] = field(factory=dict)
    sum: int = 0
    most: int = 0

    def note(self, durations: Iterable[int]) -> None:
        for ms in durations:
            bin = str(bin_of(ms))
            self.bins[bin] = self.bins.get(bin, 0) + 1
            self.sum += ms
            self.most = max(self.most, ms)

    def add(self, other: "Durations") -> None:
        for bin, number in other.bins.items():
            self.bins[bin] = self.bins.get(bin, 0) + number
        self.sum += other.sum
        self.most = max(self.most, other.most)

    def add_json(self, text: str | None) -> None:
        """Others, as `to_json` has written them."""
        if text:
            self.add(Durations(**orjson.loads(text)))

    def to_json(self) -> str | None:
        if not self.bins:
            return None
        value = {"bins": self.bins, "most": self.most, "sum": self.sum}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()

    def average(self) -> float:
        """There must be one."""
        return self.sum / sum(self.bins.values())

    def percentiles(self, parts: Mapping[str, float]) -> dict[str, float]:
        """The duration that such a part of all does not exceed, by name. There must be one."""
        number = sum(self.bins.values())
        return {name: min(middle_of(self._bin_at(part * number)), self.most) for name, part in parts.items()}

    def _bin_at(self, rank: float) -> int:
        bins = sorted((int(bin), number) for bin, number in self.bins.items())
        for bin, number in bins:
            rank -= number
            if rank <= 0:
                return bin
        return bins[-1][0]  # the rank was rounded up
