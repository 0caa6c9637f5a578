"""Which of several forms of an answer a caller would like best."""

import re
from collections.abc import Iterator, Sequence

RANGE = re.compile(r"\s*([\w!#$&^.+*-]+)/([\w!#$&^.+*-]+)\s*(?:;(.*))?", re.ASCII | re.DOTALL)
QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.ASCII | re.IGNORECASE)


def preferred(header: str | None, offers: Sequence[str]) -> str | None:
    """The offer that fits an Accept header best, of equals the first; None if none is acceptable.

    What says more exactly which type is meant counts more (RFC 9110, 12.5.1). No header: anything.
    """
    if header is None or not header.strip():
        return offers[0]
    ranges = list(_ranges(header))
    qualities = [_quality(offer, ranges) for offer in offers]
    best = max(qualities)
    return offers[qualities.index(best)] if best > 0 else None


def _ranges(header: str) -> Iterator[tuple[str, str, float]]:
    for part in header.lower().split(","):
        if found := RANGE.fullmatch(part):
            weights = [QUALITY.fullmatch(parameter) for parameter in (found[3] or "").split(";")]
            yield found[1], found[2], next((float(weight[1]) for weight in weights if weight), 1.0)


def _quality(offer: str, ranges: Sequence[tuple[str, str, float]]) -> float:
    kind, _, name = offer.partition("/")
    for pattern in ((kind, name), (kind, "*"), ("*", "*")):
        found = [quality for *range, quality in ranges if tuple(range) == pattern]
        if found:
            return max(found)
    return 0.0
