"""What a request brings with it, as far as it may be taken in."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from aiohttp.web import Request, RequestPayloadError

from web.answers import DIGEST, IDEMPOTENCY_KEY, Failure
from web.codec import Malformed
from web.intake import CANNOT_BE_UNPACKED, Held, TooLong
from web.intake import read as read_whole
from web.service import Service

T = TypeVar("T")

CODINGS = ("identity", "gzip", "deflate")
LARGE_BYTES = 64 * 1024


async def take_in(service: Service, request: Request, read: Callable[[bytearray], T]) -> T:
    """What the body says, as `read` takes it."""
    with service.intake.holding(service.settings.server.max_body_bytes) as held:
        body = await _body(service, request, held)
        if IDEMPOTENCY_KEY in request.headers:
            request[DIGEST] = sha256(body).hexdigest()
        if len(body) <= LARGE_BYTES:
            return read(body)
        return await service.intake.decode(body, read)  # in a thread, where others get their turn meanwhile


def check_length(service: Service, request: Request) -> None:
    limit = service.settings.server.max_body_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Failure:
    message = f"the body is larger than max_body_bytes, {limit}"
    return Failure(413, "PAYLOAD_TOO_LARGE", message, {"max_body_bytes": limit}, closes=True)


def _check_form(request: Request) -> str:
    """How the body is packed."""
    if "Content-Type" in request.headers and request.content_type != "application/json":
        message = f"the body must be application/json, not {request.content_type}"
        raise Failure(415, "UNSUPPORTED_MEDIA_TYPE", message)
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise Failure(415, "UNSUPPORTED_MEDIA_TYPE", f"the body must be in UTF-8, not {request.charset}")
    if (coding := request.headers.get("Content-Encoding", "identity").lower()) not in CODINGS:
        known = ", ".join(CODINGS)
        raise Failure(415, "UNSUPPORTED_MEDIA_TYPE", f"the body may be packed as {known}, not {coding!a}")
    return coding


async def _body(service: Service, request: Request, held: Held) -> bytearray:
    server, coding = service.settings.server, "identity"
    check_length(service, request)
    if request.can_read_body:
        coding = _check_form(request)
    reading = read_whole(request.content, coding, server.max_body_bytes, held)
    try:
        if request.content.is_eof():  # it is all here, as it mostly is
            return await reading
        async with asyncio.timeout(server.request_timeout_seconds):
            return await reading
    except TooLong:  # it did not say so beforehand
        raise _too_large(server.max_body_bytes) from None
    except RequestPayloadError:
        raise Malformed(CANNOT_BE_UNPACKED) from None
    except TimeoutError:
        raise Failure(408, "TIMEOUT", "the body did not come in time", closes=True) from None
