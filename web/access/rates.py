"""How often who may come: which buckets a request draws from, by the settings in force. Each process counts for itself
alone."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal, NamedTuple, get_args

from web.access.buckets import Buckets, Rate, Standing
from web.access.networks import is_loopback
from web.settings import Settings

Kind = Literal["address", "key", "endpoint", "authentication"]

KINDS: tuple[Kind, ...] = get_args(Kind)
GOOD_MOST = 10_000  # credentials that were right, each with its address; beyond, the oldest is forgotten
SHARED_BYTES = 8  # of an IPv6 address: all that begin so are at least one subscriber's
IPV4_MAPPED = bytes(10) + b"\xff\xff"


class Table(NamedTuple):
    """Buckets in use; `endpoint_class` if they are for one alone."""

    kind: Kind
    endpoint_class: str | None
    buckets: Buckets


def is_in_force(settings: Settings) -> bool:
    """Whether callers may not come as often as they like."""
    enabled = settings.rate_limit.enabled
    return not is_loopback(settings.server.host) if enabled is None else enabled


class Rates:
    """A method that draws tells how it stands with the bucket, None if none is in use, and counts who is refused."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._addresses: Buckets | None = None
        self._keys: Buckets | None = None
        self._endpoints: dict[str, Buckets] = {}
        self._failures: Buckets | None = None
        self._good: OrderedDict[int, None] = OrderedDict()
        self.enabled = False
        self.refused: Counter[tuple[Kind, str]] = Counter()  # by kind and endpoint class

    def adopt(self, settings: Settings) -> None:
        """From now on these hold. What is missing from buckets that stay in use stays missing."""
        limit, on = settings.rate_limit, is_in_force(settings)
        self.enabled = on
        self._addresses = self._adopted(self._addresses, limit.rate if on and limit.per_ip else None)
        self._keys = self._adopted(self._keys, limit.rate if on and limit.per_key else None)
        rates = limit.endpoint_rates if on else {}
        self._endpoints = {name: self._used(self._endpoints.get(name), rate) for name, rate in rates.items()}
        # Who tries keys is held up wherever he may come from elsewhere, however often others may come.
        guarded = on or not is_loopback(settings.server.host)
        self._failures = self._adopted(self._failures, limit.failure_rate if guarded else None)

    def of_address(self, address: str, endpoint_class: str) -> Standing | None:
        return self._draw("address", self._addresses, address, endpoint_class)

    def of_key(self, key: str, endpoint_class: str) -> Standing | None:
        return self._draw("key", self._keys, key, endpoint_class)

    def of_endpoint(self, caller: str, endpoint_class: str) -> Standing | None:
        """`caller` is a key, or the address where there is none."""
        return self._draw("endpoint", self._endpoints.get(endpoint_class), caller, endpoint_class)

    # Who says who he is. An address from which too many wrong credentials came is not listened to for a while, so that
    # nobody finds a right one by trying; but what was right before, from there, is: neighbours must not shut each other
    # out who share an address.

    def before_credential(self, address: str, credential: str, endpoint_class: str) -> Standing | None:
        """Nothing is drawn yet."""
        if self._failures is None or address not in self._failures:  # as nearly always
            return None
        if not (standing := self._failures.look(address)).refused_for:
            return None
        if hash((address, credential)) in self._good:
            return None
        self.refused["authentication", endpoint_class] += 1
        return standing

    def wrong_credential(self, address: str, credential: str) -> Standing | None:
        self._good.pop(hash((address, credential)), None)
        return None if self._failures is None else self._failures.draw(address)

    def right_credential(self, address: str, credential: str) -> None:
        if self._failures is not None:
            self._good[sign := hash((address, credential))] = None
            self._good.move_to_end(sign)
            if len(self._good) > GOOD_MOST:
                self._good.popitem(last=False)

    def tables(self) -> Iterator[Table]:
        """Those in use."""
        if self._addresses is not None:
            yield Table("address", None, self._addresses)
        if self._keys is not None:
            yield Table("key", None, self._keys)
        for name, buckets in self._endpoints.items():
            yield Table("endpoint", name, buckets)
        if self._failures is not None:
            yield Table("authentication", None, self._failures)

    def _draw(self, kind: Kind, buckets: Buckets | None, name: str, endpoint_class: str) -> Standing | None:
        if buckets is None:
            return None
        standing = buckets.draw(name)
        if standing.refused_for:
            self.refused[kind, endpoint_class] += 1
        return standing

    def _adopted(self, buckets: Buckets | None, rate: Rate | None) -> Buckets | None:
        return None if rate is None else self._used(buckets, rate)

    def _used(self, buckets: Buckets | None, rate: Rate) -> Buckets:
        if buckets is None:
            return Buckets(rate, self._clock)
        buckets.adopt(rate)
        return buckets


def subscriber(address: str) -> str:
    """What counts as one address: of IPv6 the network of a subscriber, who has all addresses in it."""
    if ":" not in address:
        return address
    try:
        packed = inet_pton(AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(IPV4_MAPPED):
        return inet_ntop(AF_INET, packed[len(IPV4_MAPPED) :])
    return inet_ntop(AF_INET6, packed[:SHARED_BYTES].ljust(16, b"\0")) + f"/{SHARED_BYTES * 8}"
