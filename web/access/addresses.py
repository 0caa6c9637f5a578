"""Whose request it is: the address that the log, the limits and the allow-list go by, and what the caller calls us.

The one place where that is found out is `Addresses.find`; everybody else asks `address_of`.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from aiohttp.web import AppKey, BaseRequest, RequestKey

from web.access.forwarding import HEADERS, Lines, forwarded
from web.access.networks import Networks, address
from web.answers import Failure
from web.codec import Fault, Invalid
from web.settings import Settings

# Health is told to whoever asks, from wherever and however often: the address of a probe is known to nobody beforehand,
# and a server that is refused to it would be restarted.
PROBES = frozenset({"/health", "/health/live", "/health/ready"})
KEPT = 4096  # addresses, and sayings of proxies, that need not be read once more
KEPT_CHARACTERS = 300  # of one such saying; longer ones are read each time


class Whence(NamedTuple):
    """`host` is the name, and perhaps the port, under which the caller reached us; `scheme` is http or https."""

    address: str
    scheme: str
    host: str


WHENCE: Final = RequestKey("whence", Whence)


def address_of(request: BaseRequest) -> str | None:
    """Of the caller, or of the other end of the connection as long as nothing better is known."""
    whence = request.get(WHENCE)
    return whence.address if whence else _plain(request.remote)


def came_securely(request: BaseRequest) -> bool:
    """Over TLS, be it to a trusted proxy before us."""
    whence = request.get(WHENCE)
    return whence is not None and whence.scheme == "https"


@lru_cache(maxsize=KEPT)
def _plain(text: str | None) -> str | None:
    try:
        return str(address(text or ""))
    except ValueError:  # the connection is lost already
        return None


class Addresses:
    """Told the settings first."""

    def adopt(self, settings: Settings) -> None:
        self._trusted = Networks(settings.server.trusted_proxies)
        self._allowed = Networks(settings.security.ip_allowlist) if settings.security.ip_allowlist else None
        self._kept = lru_cache(maxsize=KEPT)(self._read)
        self._trusts = lru_cache(maxsize=KEPT)(lambda text: address(text) in self._trusted)

    def find(self, request: BaseRequest) -> Whence:
        """Raises Invalid if a trusted proxy says something that cannot be understood."""
        peer = _plain(request.remote)
        if peer is None or not self._trusts(peer):
            return Whence(peer or "", request.scheme, request.host)
        headers = request.headers
        lines = Lines(*(", ".join(headers.getall(name, ())) for name in HEADERS))
        read = self._kept if sum(map(len, lines)) <= KEPT_CHARACTERS else self._read
        client, scheme, host = read(peer, lines)
        return Whence(client, scheme or request.scheme, host or request.host)

    def _read(self, peer: str, lines: Lines) -> tuple[str, str | None, str | None]:
        client, scheme, host = forwarded(lines, address(peer), self._trusted)
        return str(client) if client else peer, scheme, host

    def check(self, request: BaseRequest, whence: Whence) -> None:
        """Raises a 403 Failure."""
        if self._allowed is not None and not self.allows(whence.address) and request.path not in PROBES:
            raise Failure(403, "FORBIDDEN", "requests from this address are refused")

    def allows(self, text: str) -> bool:
        return self._allowed is None or (text != "" and address(text) in self._allowed)


def check_stays(settings: Settings, request: BaseRequest, field: str) -> None:
    """Whoever changes the allow-list must still be let in afterwards. Raises Invalid."""
    after, own = Addresses(), address_of(request)
    after.adopt(settings)
    if not after.allows(own or ""):
        raise Invalid([Fault(field, f"must have your own address, {own}: you would lock yourself out")])


ADDRESSES: Final = AppKey("addresses", Addresses)
