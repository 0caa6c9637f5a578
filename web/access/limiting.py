"""Turns away whoever comes too often, before anything of the request's body is read."""

from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from typing import TypeVar

from aiohttp.web import Request, RequestKey

from web.access.addresses import address_of
from web.access.buckets import SECOND, Standing
from web.access.rates import Kind, Rates, subscriber
from web.answers import Failure

T = TypeVar("T")

STANDING = RequestKey("standing", Standing)
MESSAGES: Mapping[Kind, str] = {
    "address": "too many requests from this address",
    "key": "too many requests with this key",
    "endpoint": "too many requests of this kind",
    "authentication": "too many wrong keys from this address",
}


class Visit:
    """A request on its way in. Whatever step it takes raises a 429 Failure for those who come too often."""

    __slots__ = ("_address", "_class", "_rates", "_request")

    def __init__(self, rates: Rates, request: Request, endpoint_class: str) -> None:
        self._rates, self._request, self._class = rates, request, endpoint_class
        self._address = subscriber(address_of(request) or "")

    def arrive(self) -> None:
        """Nothing is known yet but the address. It counts once, also of those who ask before they send a body."""
        if STANDING not in self._request:
            self._heed("address", self._rates.of_address(self._address, self._class))

    async def admit(self, shown: str, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` finds for the credential that is shown; empty: none is. A 401 Failure of it counts."""
        if shown:
            self._heed("authentication", self._rates.before_credential(self._address, shown, self._class))
        try:
            found = await look()
        except Failure as failure:
            if shown and failure.status == 401:
                self._note(self._rates.wrong_credential(self._address, shown))
            raise
        if shown:
            self._rates.right_credential(self._address, shown)
        return found

    def identify(self, key: str | None) -> None:
        """It is known with which key they came, if with any."""
        if key is not None:
            self._heed("key", self._rates.of_key(key, self._class))
        self.use(key)

    def use(self, key: str | None) -> None:
        """What belongs to the class of the visit."""
        self._heed("endpoint", self._rates.of_endpoint(key or self._address, self._class))

    def _note(self, standing: Standing | None) -> None:
        """The answer tells of the tightest of the caller's buckets."""
        if standing is not None:
            before = self._request.get(STANDING)
            self._request[STANDING] = standing if before is None else min(before, standing)

    def _heed(self, kind: Kind, standing: Standing | None) -> None:
        self._note(standing)
        if standing is not None and standing.refused_for:
            raise _too_often(self._request, kind, standing)


def _too_often(request: Request, kind: Kind, standing: Standing) -> Failure:
    """The connection is closed if a body is still to come."""
    seconds = standing.refused_for / SECOND
    return Failure(
        429,
        "RATE_LIMITED",
        f"{MESSAGES[kind]}; again in {seconds:.2g} s",
        {"kind": kind, "limit": standing.limit, "retry_after_seconds": round(seconds, 3)},
        {"Retry-After": str(ceil(seconds))},
        closes=not request.content.is_eof(),
    )


def headers(standing: Standing) -> dict[str, str]:
    """How many requests a full bucket allows, how many are left, and in how many seconds it is full again."""
    return {
        "RateLimit-Limit": str(standing.limit),
        "RateLimit-Remaining": str(standing.remaining),
        "RateLimit-Reset": str(-(-standing.full_in // SECOND)),
    }
