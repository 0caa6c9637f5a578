"""Who may call, and from where."""

import ipaddress
import re
from hmac import compare_digest

from aiohttp.web import Request

from web.answers import Failure

HOST = re.compile(r"\A(\[[^]]*\]|[^:]*)(?::\d*)?\Z")  # a name or address, and perhaps a port
OPEN_PATHS = ("/health", "/docs", "/openapi.json")  # without a key: probes, and what the contract is


def is_loopback(host: str) -> bool:
    """Whether a host, as one binds to it or as a client names it, is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") else host).is_loopback
    except ValueError:
        return False


def is_open(path: str) -> bool:
    """Whoever asks for this needs no key."""
    return path.startswith(OPEN_PATHS) and (path in OPEN_PATHS or path.startswith(tuple(f"{it}/" for it in OPEN_PATHS)))


def check_key(request: Request, api_key: str | None) -> None:
    """The key as a bearer token or in X-API-Key; raises a 401 Failure."""
    if api_key is None or request.method == "OPTIONS" or is_open(request.path):
        return
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")
    if not compare_digest(given.encode("utf-8", "surrogateescape"), api_key.encode()):
        reason = "the key is wrong" if given else "a key is needed: Authorization: Bearer KEY"
        raise Failure(401, "UNAUTHORIZED", reason, headers={"WWW-Authenticate": "Bearer"})
