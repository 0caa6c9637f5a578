"""From where requests may come."""

import ipaddress
import re
from functools import lru_cache

from aiohttp.web import Request

from web.answers import Failure

HOST = re.compile(r"\A(\[[^]]*\]|[^:]*)(?::\d*)?\Z")  # a name or address, and perhaps a port


def is_loopback(host: str) -> bool:
    """Whether a host, as one binds to it or as a client names it, is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") else host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _names_loopback(host: str) -> bool:
    """The same for a Host header, with its port if it has one."""
    return is_loopback(HOST.sub(r"\1", host.lower()))


def check_origin(request: Request, *, is_open: bool) -> None:
    """No web page of somebody else's may speak for the person at the browser; raises a 403 Failure.

    An open server trusts whoever reaches it, so the name it is reached by must be this machine's: a
    foreign name that resolves to 127.0.0.1 is how a page gets around the check of the origin.
    """
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != request.host.lower()
    if foreign or request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Failure(403, "FORBIDDEN", "requests from other sites are refused")
    if is_open and not _names_loopback(request.host):
        raise Failure(403, "FORBIDDEN", "without keys this server answers only to its own machine's names")
