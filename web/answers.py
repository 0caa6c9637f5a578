"""The envelope around every answer, and what each refusal looks like in it."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from random import getrandbits
from typing import Any
from uuid import uuid4

from aiohttp.web import BaseRequest, HTTPException, HTTPMethodNotAllowed, Request, RequestKey, Response

from dispatcher.errors import (
    DependencyCycle,
    DependencyNotFound,
    IdempotencyKeyReused,
    InvalidState,
    KeyExists,
    LeaseLost,
    LeaseTokenRequired,
    LogFull,
    MetadataFull,
    NotPaused,
    NotTheHolder,
    OutOfReach,
    PromptMismatch,
    RecordFailed,
    RetryLimitReached,
    TaskNotFound,
    Unavailable,
    VersionConflict,
)
from web.access.calling import caller
from web.codec import Fault, Invalid, Malformed, encode, rfc3339

REQUEST_ID = "X-Request-Id"
IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_KEY_CHARACTERS = 255
SANE_IDEMPOTENCY_KEY = re.compile(rf"[ -~]{{1,{IDEMPOTENCY_KEY_CHARACTERS}}}")
RETRY_AFTER_SECONDS = "1"
NAME = RequestKey("name", str)
DIGEST = RequestKey("digest", str)  # of the body, where there is an idempotency key
SANE_REQUEST_ID = re.compile(r"[\w.:+/=-]{1,128}", re.ASCII)

log = logging.getLogger(__name__)


class Failure(Exception):
    """An answer other than success, as the contract words it. `closes`: the rest of the request is not read."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.details, self.headers, self.closes = details or {}, headers, closes


def new_request_id() -> str:
    return f"{getrandbits(128):032x}"  # to be told apart, not to be kept secret


def name_of(request: BaseRequest) -> str:
    """The caller's, if sane, else a new one; the same whenever it is asked for."""
    if (name := request.get(NAME)) is None:
        given = request.headers.get(REQUEST_ID, "")
        name = request[NAME] = given if SANE_REQUEST_ID.fullmatch(given) else new_request_id()
    return name


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not SANE_IDEMPOTENCY_KEY.fullmatch(key):
        raise Invalid([Fault(IDEMPOTENCY_KEY, f"must be 1 to {IDEMPOTENCY_KEY_CHARACTERS} printable ASCII characters")])
    return None if key is None else own(key)


def own(idempotency_key: str) -> str:
    """What another caller says is another request."""
    name = caller.get().name
    return idempotency_key if name is None else f"{name}\t{idempotency_key}"


def ok(data: object, now: int, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"success": True, "data": data, "error": None, "timestamp": rfc3339(now)}, status, headers)


def failed(failure: Failure, now: int) -> Response:
    error = {"code": failure.code, "message": failure.message, "details": failure.details}
    envelope = {"success": False, "data": None, "error": error, "timestamp": rfc3339(now)}
    response = _json(envelope, failure.status, failure.headers)
    if failure.closes:
        response.force_close()
    return response


def plain(body: object, status: int) -> Response:
    """Without the envelope."""
    return _json(body, status, None)


def _json(body: object, status: int, headers: Mapping[str, str] | None) -> Response:
    return Response(body=encode(body), status=status, headers=headers, content_type="application/json", charset="utf-8")


def failure(error: Exception) -> Failure:
    """What the caller is told; an error that nobody foresaw is logged under the id that the caller gets."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if describe := FAILURES.get(type(error)):
        return describe(error)
    error_id = uuid4().hex
    log.error("an error nobody foresaw", exc_info=error, extra={"error_id": error_id})
    return Failure(500, "INTERNAL_ERROR", "something went wrong in the server", {"error_id": error_id})


def _fields(faults: Sequence[Fault]) -> dict[str, object]:
    errors = [{"field": fault.field, "reason": fault.reason} for fault in faults]
    return {"field": faults[0].field, "reason": faults[0].reason, "errors": errors}


def _invalid(faults: tuple[Fault, ...]) -> Failure:
    return Failure(400, "VALIDATION_ERROR", f"{faults[0].field}: {faults[0].reason}", _fields(faults))


def _dependencies(error: DependencyNotFound) -> Failure:
    faults = [Fault(f"depends_on[{at}]", f"there is no task {name}") for at, name in error.missing.items()]
    return Failure(422, "DEPENDENCY_NOT_FOUND", str(error), _fields(faults))


def _of_http(error: HTTPException) -> Failure:
    if isinstance(error, HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{error.method} is not allowed here; {allowed} is"
        return Failure(
            405, "METHOD_NOT_ALLOWED", message, {"allowed": sorted(error.allowed_methods)}, {"Allow": allowed}
        )
    code = {404: "NOT_FOUND"}.get(error.status, f"HTTP_{error.status}")
    return Failure(error.status, code, error.reason)


FAILURES: dict[type[Exception], Callable[[Any], Failure]] = {
    Malformed: lambda e: Failure(400, "MALFORMED_JSON", f"the body is not valid JSON: {e}"),
    Invalid: lambda e: _invalid(e.faults),
    NotPaused: lambda e: _invalid((Fault(e.field, str(e)),)),
    MetadataFull: lambda e: _invalid((Fault("metadata", str(e)),)),
    LeaseTokenRequired: lambda e: _invalid((Fault("lease_token", f"is required: {e}"),)),
    TaskNotFound: lambda e: Failure(404, "TASK_NOT_FOUND", str(e)),
    OutOfReach: lambda e: Failure(403, "FORBIDDEN", str(e)),
    NotTheHolder: lambda e: Failure(403, "FORBIDDEN", str(e)),
    KeyExists: lambda e: Failure(409, "ALREADY_EXISTS", str(e)),
    InvalidState: lambda e: Failure(409, "INVALID_STATE", str(e), {"status": e.status, "allowed_from": e.allowed_from}),
    VersionConflict: lambda e: Failure(409, "VERSION_CONFLICT", str(e), {"expected": e.expected, "version": e.version}),
    DependencyNotFound: lambda e: _dependencies(e),
    DependencyCycle: lambda e: Failure(422, "DEPENDENCY_CYCLE", str(e), _fields([Fault("depends_on", str(e))])),
    IdempotencyKeyReused: lambda e: Failure(422, "IDEMPOTENCY_KEY_REUSED", str(e), {"task_id": e.task_id}),
    RetryLimitReached: lambda e: Failure(422, "RETRY_LIMIT_REACHED", str(e), {"max_retries": e.max_retries}),
    LeaseLost: lambda e: Failure(
        409, "LEASE_LOST", str(e), {"reason": e.reason, "status": e.status, "attempt": e.attempt}
    ),
    LogFull: lambda e: Failure(
        413,
        "PAYLOAD_TOO_LARGE",
        str(e),
        {name: getattr(e, name) for name in ("log_lines", "log_lines_max", "log_bytes", "log_bytes_max")},
    ),
    PromptMismatch: lambda e: Failure(
        422, "PROMPT_MISMATCH", str(e), {"similarity": round(e.similarity, 4), "threshold": e.threshold}
    ),
    RecordFailed: lambda e: Failure(502, "DATABASE_ERROR", "the record could not be read"),
    TimeoutError: lambda e: Failure(504, "TIMEOUT", "the record does not answer; it is not known what came of this"),
    Unavailable: lambda e: Failure(503, "UNAVAILABLE", str(e), {}, {"Retry-After": RETRY_AFTER_SECONDS}),
}
