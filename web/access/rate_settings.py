"""The section `rate_limit` of the settings: how often callers may come."""

import re
from collections.abc import Mapping
from math import ceil
from typing import Annotated

from annotated_types import Ge, Le, MaxLen
from attrs import frozen

from dispatcher.fields import Rule, distinct
from web.access.buckets import Rate

ENDPOINT_CLASSES = ("submit", "work", "read", "operate", "admin", "open")  # a scope, or open to everybody
_PER_SECOND = r"(0\.[1-9][0-9]{0,2}|[1-9][0-9]{0,5}(\.[0-9]{1,3})?)"
ENDPOINT_RATE = re.compile(rf"({'|'.join(ENDPOINT_CLASSES)})={_PER_SECOND}(/[1-9][0-9]{{0,5}})?")
PER_SECOND_LEAST = 0.1  # so that whoever has shut himself out is let in again soon


def endpoint_rate(text: str) -> str:
    """`class=requests_per_second` or `class=requests_per_second/burst`, such as `submit=50/100`."""
    if not ENDPOINT_RATE.fullmatch(text):
        classes = ", ".join(ENDPOINT_CLASSES)
        raise ValueError(
            f"must be class=requests_per_second/burst, such as submit=50/100, of one of {classes}; "
            f"from {PER_SECOND_LEAST} a second, with three decimals at most"
        )
    return text


def one_of_each(texts: tuple[str, ...]) -> tuple[str, ...]:
    """No class twice."""
    distinct(tuple(text.partition("=")[0] for text in texts))
    return texts


def _rate_of(text: str) -> tuple[str, Rate]:
    """The class and its rate; without a burst what two seconds bring."""
    name, _, figures = text.partition("=")
    per_second, _, burst = figures.partition("/")
    return name, Rate(float(per_second), int(burst) if burst else ceil(2 * float(per_second)))


EndpointRate = Annotated[str, MaxLen(100), Rule(endpoint_rate)]


@frozen(kw_only=True)
class RateLimit:
    """How often callers may come. `enabled`: None is unless the server is bound to loopback. `per_ip` and `per_key`:
    whether each address, and each key, has a bucket; `per_endpoint`: classes of which each caller has one more."""

    enabled: bool | None = None
    requests_per_second: Annotated[float, Ge(PER_SECOND_LEAST), Le(1_000_000)] = 1000
    burst: Annotated[int, Ge(1), Le(1_000_000)] = 2000
    per_ip: bool = True
    per_key: bool = True
    per_endpoint: Annotated[tuple[EndpointRate, ...], MaxLen(len(ENDPOINT_CLASSES)), Rule(one_of_each)] = ()
    failed_authentications_per_minute: Annotated[int, Ge(0), Le(100_000)] = 20

    @property
    def rate(self) -> Rate:
        """Of an address, and of a key."""
        return Rate(self.requests_per_second, self.burst)

    @property
    def endpoint_rates(self) -> Mapping[str, Rate]:
        """By class."""
        return dict(map(_rate_of, self.per_endpoint))

    @property
    def failure_rate(self) -> Rate | None:
        """Of failed authentications of an address; None for no limit."""
        allowed = self.failed_authentications_per_minute
        return Rate(allowed / 60, allowed) if allowed else None
