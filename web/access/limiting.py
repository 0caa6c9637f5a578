"""Turns away whoever comes too often, before anything of the request's body is read."""

from collections.abc import Mapping
from math import ceil

from aiohttp.web import Request, RequestKey

from web.access.buckets import SECOND, Standing
from web.access.rates import Kind
from web.answers import Failure

STANDING = RequestKey("standing", Standing)
MESSAGES: Mapping[Kind, str] = {
    "address": "too many requests from this address",
    "key": "too many requests with this key",
    "endpoint": "too many requests of this kind",
    "authentication": "too many wrong keys from this address",
}


def note(request: Request, standing: Standing | None) -> None:
    """The answer tells of the tightest of the caller's buckets."""
    if standing is not None:
        before = request.get(STANDING)
        request[STANDING] = standing if before is None else min(before, standing)


def heed(request: Request, kind: Kind, standing: Standing | None) -> None:
    """The same; raises a 429 Failure, after which the connection is closed if a body is still to come."""
    note(request, standing)
    if standing is not None and standing.refused_for:
        seconds = standing.refused_for / SECOND
        raise Failure(
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


def endpoint_class(request: Request) -> str:
    return "open"


def credential(request: Request) -> str | None:
    """What the caller shows to be let in, right or wrong."""
    headers = request.headers
    return headers.get("Authorization") or headers.get("X-API-Key")


def is_probe(path: str) -> bool:
    """Health is told to whoever asks, however often: or a flood would have the server restarted."""
    return path.startswith("/health") and (path == "/health" or path.startswith("/health/"))
