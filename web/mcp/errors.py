"""How the protocol says what went wrong, where it is no tool that says it."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from web.access.audit import TURNED_AWAY
from web.access.calling import caller
from web.access.limiting import Visit
from web.answers import Failure, failure
from web.codec import Fault, Invalid
from web.mcp.bridge import PASSAGE, Passage
from web.receiving import LARGE_BYTES
from web.service import Service

RESOURCE_NOT_FOUND = -32002  # in the revisions up to 2025-11-25
REFUSED = -32003  # what REST refuses with a status of its own; `data` has its code

Context = ServerRequestContext[Any, Any]
P = TypeVar("P")
R = TypeVar("R")
Handler = Callable[[Service, Context, P], Awaitable[R]]


def answering(handler: Handler[P, R]) -> Handler[P, R]:
    """It counts as a read, and what goes wrong is told as the protocol has it."""

    @wraps(handler)
    async def handle(service: Service, ctx: Context, params: P) -> R:
        assert ctx.request is not None
        passage: Passage = ctx.request.scope[PASSAGE]
        try:
            Visit(service.rates, passage.request, "read").use(caller.get().name)
            return await handler(service, ctx, params)
        except MCPError:
            raise
        except Exception as error:
            refusal = service.door.veil.redaction.failure(failure(error))
            if refusal.status in TURNED_AWAY:
                service.audit.turn_away(passage.request, refusal, f"mcp {ctx.method}")
            raise _told(refusal) from error

    return handle


def _told(refusal: Failure) -> MCPError:
    code = {400: INVALID_PARAMS, 500: INTERNAL_ERROR}.get(refusal.status, REFUSED)
    return MCPError(code, refusal.message, {"code": refusal.code, **refusal.details})


def check_size(ctx: Context) -> None:
    """Of what is kept for long."""
    assert ctx.request is not None
    if ctx.request.scope[PASSAGE].is_large:
        message = f"who is to hear of news says so in at most {LARGE_BYTES} bytes"
        raise Failure(413, "PAYLOAD_TOO_LARGE", message, {"max_bytes": LARGE_BYTES})


def wrong(field: str, reason: str) -> Invalid:
    return Invalid([Fault(field, reason)])


def no_such_resource(ctx: Context, uri: str) -> MCPError:
    code = RESOURCE_NOT_FOUND if ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS else INVALID_PARAMS
    return MCPError(code, "Resource not found: it is not there, or not for this key", {"uri": uri})
