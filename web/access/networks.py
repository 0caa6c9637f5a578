"""Addresses and networks of addresses. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is the IPv4 address."""

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORT = re.compile(r"\A(\[[^]]*\]|[^:]*)(?::\d*)?\Z")  # behind a name or address, if there is one
_MAPPED_BITS = 96  # in front of an IPv4 address within IPv6


@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """Without its zone, which means something on this machine only. Raises ValueError."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def is_loopback(host: str) -> bool:
    """Whether a host, as one binds to it or as a client names it, is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") else host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def names_loopback(host: str) -> bool:
    """The same for a Host header, with its port if it has one."""
    return is_loopback(_PORT.sub(r"\1", host.lower()))


def network(text: str) -> str:
    """An address, or a network such as `10.0.0.0/8` or `2001:db8::/32`."""
    try:
        wide = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be an address, or a network such as 10.0.0.0/8 or 2001:db8::/32") from None
    if "%" in text:
        raise ValueError("must not name a zone")
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"must not go on behind its prefix: the network is {wide}") from None
    inner = wide.network_address.ipv4_mapped if isinstance(wide, ipaddress.IPv6Network) else None
    if inner is not None and wide.prefixlen >= _MAPPED_BITS:
        return f"{inner}/{wide.prefixlen - _MAPPED_BITS}"
    return str(wide)


def not_everybody(text: str) -> str:
    """A network that leaves somebody out."""
    if text.endswith("/0"):
        raise ValueError("must not be everybody")
    return text


class Networks:
    """A set of addresses. Networks that overlap or touch are one, so that each version's are in order."""

    def __init__(self, texts: Iterable[str]) -> None:
        """The texts are as `network` leaves them."""
        self._bounds: dict[int, tuple[list[int], list[int]]] = {}
        found = [ipaddress.ip_network(text) for text in texts]
        for version in (4, 6):
            whole = sorted(ipaddress.collapse_addresses(it for it in found if it.version == version))  # type: ignore[type-var]
            self._bounds[version] = (
                [int(it.network_address) for it in whole],
                [int(it.broadcast_address) for it in whole],
            )

    def __bool__(self) -> bool:
        return any(first for first, _ in self._bounds.values())

    def __contains__(self, one: Address) -> bool:
        first, last = self._bounds[one.version]
        number = int(one)
        at = bisect_right(first, number) - 1
        return at >= 0 and number <= last[at]
