"""What a caller takes: which types of content, and packed how."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from aiohttp.web import ContentCoding, Request, Response, StreamResponse

from web.answers import Failure

PACKED_BYTES = 1024  # an answer larger than this is compressed on request


def choose(request: Request, offered: Sequence[str]) -> str:
    """Which of these types the caller likes best. Raises a 406 Failure if it takes none of them."""
    chosen = best(_accept(request), tuple(offered))
    if chosen is None:
        message = f"only {' or '.join(offered)} can be had here"
        raise Failure(406, "NOT_ACCEPTABLE", message, {"offered": list(offered)})
    return chosen


def prefers(request: Request, media: str, usual: str) -> bool:
    """Whether the caller wants this rather than what is usual here: it has more weight, or as much and is named more
    exactly, or as exactly and first."""
    return _rank(_accept(request), media) > _rank(_accept(request), usual)


def _accept(request: Request) -> str:
    return ",".join(request.headers.getall("Accept", ()))


@lru_cache(maxsize=1024)
def best(accept: str, offered: tuple[str, ...]) -> str | None:
    """What fits an Accept header best, of equals the first; None if nothing does. Without a header anything fits."""
    if not accept.strip() or accept == "*/*":
        return offered[0]
    ranges = dict(_weights(accept))
    weights = [_weight(media, ranges) for media in offered]
    return offered[weights.index(max(weights))] if max(weights) > 0 else None


def _weight(media: str, ranges: Mapping[str, float]) -> float:
    """What says more exactly which type is meant counts more (RFC 9110, 12.5.1)."""
    return next((ranges[name] for name in _names(media) if name in ranges), 0.0)


def _names(media: str) -> tuple[str, ...]:
    """What it may be meant by, the most exact first."""
    return media, f"{media.partition('/')[0]}/*", "*/*"


@lru_cache(maxsize=1024)
def _rank(accept: str, media: str) -> tuple[float, int, int]:
    """Its weight, how exactly it is named and how early; of two types the greater is wanted."""
    ranges = dict(_weights(accept))
    named = [(ranges[name], -at, -list(ranges).index(name)) for at, name in enumerate(_names(media)) if name in ranges]
    return named[0] if named else (0.0, 0, 0)


def pack(request: Request, response: Response) -> None:
    """Have a large answer compressed if the caller takes that."""
    if (response.content_length or 0) > PACKED_BYTES:
        compress(request, response)


def compress(request: Request, response: StreamResponse) -> None:
    """The same whatever its size."""
    if "Accept-Encoding" not in (varies := response.headers.get("Vary", "")):
        response.headers["Vary"] = f"{varies}, Accept-Encoding" if varies else "Accept-Encoding"
    if coding := _coding(request.headers.get("Accept-Encoding", "")):
        response.enable_compression(coding)


@lru_cache(maxsize=1024)
def _coding(accept: str) -> ContentCoding | None:
    weights = dict(_weights(accept))
    codings = [ContentCoding.gzip, ContentCoding.deflate]
    weight, coding = max(((weights.get(it.value, weights.get("*", 0)), it) for it in codings), key=lambda pair: pair[0])
    return coding if weight else None


def _weights(header: str) -> list[tuple[str, float]]:
    """Each thing named, in lower case without its parameters, and how much it is wanted: 0, not at all, to 1."""
    weighed = []
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = _number(parameter[2:])
        if name:
            weighed.append((name, weight))
    return weighed


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
