"""What a caller takes: which types of content, and packed how."""

from collections.abc import Sequence
from functools import lru_cache

from aiohttp.web import ContentCoding, Request, Response

from web.answers import Failure

PACKED_BYTES = 1024  # an answer larger than this is compressed on request


def check_accept(request: Request, offered: Sequence[str]) -> None:
    """Raises a 406 Failure if nothing that is offered is wanted."""
    if request.headers.get("Accept", "*/*") == "*/*":
        return
    accept = ",".join(request.headers.getall("Accept"))
    if accept.strip() and offered and not any(accepts(accept, media) for media in offered):
        message = f"only {' or '.join(offered)} can be had here"
        raise Failure(406, "NOT_ACCEPTABLE", message, {"offered": list(offered)})


@lru_cache(maxsize=1024)
def accepts(accept: str, media: str) -> bool:
    """The most specific range that fits decides."""
    ranges = dict(_weights(accept))
    kind = media.partition("/")[0]
    fitting = [ranges[name] for name in (media, f"{kind}/*", "*/*") if name in ranges]
    return bool(fitting and fitting[0])


def pack(request: Request, response: Response) -> None:
    """Have a large answer compressed if the caller takes that."""
    if (response.content_length or 0) <= PACKED_BYTES:
        return
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
