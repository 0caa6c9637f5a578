"""Every refusal that the wire knows, by its code, as it is described to the world."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from attrs import field, frozen

from dispatcher.errors import LossReason
from dispatcher.task import Status


class FieldFault(TypedDict):
    """`field` is a path such as `tasks[3].tags[0]`; `code` where several kinds of faults may stand together."""

    field: str
    reason: str
    code: NotRequired[str]


class FaultyFields(TypedDict):
    """The first fault, and all of them: at most 50."""

    field: str
    reason: str
    errors: Sequence[FieldFault]


class NoDetails(TypedDict):
    """Nothing more is known."""


class WrongStatus(TypedDict):
    status: Status
    allowed_from: Sequence[Status]


class LostLease(TypedDict):
    reason: LossReason
    status: Status
    attempt: int


class OtherVersion(TypedDict):
    expected: int
    version: int


class OtherPrompt(TypedDict):
    """Both between 0 and 1."""

    similarity: float
    threshold: float


class UsedKey(TypedDict):
    task_id: str


class UsedUpRetries(TypedDict):
    max_retries: int


class BodyLimit(TypedDict):
    max_body_bytes: int


class TooOften(TypedDict):
    """Which of the caller's buckets is empty, and how many requests a full one allows at once; or how many streams one
    key may have open."""

    kind: Literal["address", "key", "endpoint", "authentication", "streams"]
    limit: int
    retry_after_seconds: float


class LogRoom(TypedDict):
    log_lines: int
    log_lines_max: int
    log_bytes: int
    log_bytes_max: int


class AllowedMethods(TypedDict):
    allowed: Sequence[str]


class OfferedTypes(TypedDict):
    offered: Sequence[str]


class ErrorId(TypedDict):
    """It is in the log, too."""

    error_id: str


Header = Literal[
    "Allow", "Retry-After", "WWW-Authenticate", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"
]


@frozen
class Refusal:
    """`headers` stand in the answer besides those that every answer has. `code`: as the answer has it, if not so."""

    status: int
    meaning: str
    details: type = NoDetails
    example: Mapping[str, Any] = field(factory=dict)
    headers: Sequence[Header] = ()
    code: str | None = None


_FAULT = {"field": "prompt", "reason": "is required"}
_FAULTS = {**_FAULT, "errors": [_FAULT]}
_PARENT = "0197a3c0-7b1e-7c3a-9d52-3f6a8e1b2c4d"
_MISSING = {"field": "depends_on[0]", "reason": f"there is no task {_PARENT}"}
_CYCLE = {"field": "depends_on", "reason": "the task would wait for itself, or for tasks that do"}

REFUSALS: Mapping[str, Refusal] = {
    "VALIDATION_ERROR": Refusal(400, "A field or parameter breaks a rule; all faults are named", FaultyFields, _FAULTS),
    "MALFORMED_JSON": Refusal(400, "The body is not JSON"),
    "MALFORMED_REQUEST": Refusal(400, "It is not HTTP, or its first line or a header is too long"),
    "UNAUTHORIZED": Refusal(401, "A key is needed, or the one given is wrong", headers=["WWW-Authenticate"]),
    "FORBIDDEN": Refusal(403, "Not from there, or not with this key"),
    "TASK_NOT_FOUND": Refusal(404, "There is no such task"),
    "NOT_FOUND": Refusal(404, "There is nothing at this address"),
    "METHOD_NOT_ALLOWED": Refusal(405, "Another method is needed", AllowedMethods, {"allowed": ["GET"]}, ["Allow"]),
    "NOT_ACCEPTABLE": Refusal(
        406, "Accept leaves out everything that can be had", OfferedTypes, {"offered": ["application/json"]}
    ),
    "BODY_TIMEOUT": Refusal(408, "The body did not come in time", code="TIMEOUT"),
    "ALREADY_EXISTS": Refusal(409, "There is one of this name already"),
    "LAST_ADMIN": Refusal(409, "Nobody else could make or revoke keys"),
    "INVALID_STATE": Refusal(
        409, "The task's status does not allow it", WrongStatus, {"status": "completed", "allowed_from": ["waiting"]}
    ),
    "LEASE_LOST": Refusal(
        409,
        "The caller does not hold the task, or no longer",
        LostLease,
        {"reason": "expired", "status": "waiting", "attempt": 1},
    ),
    "VERSION_CONFLICT": Refusal(
        409, "The task is no longer what If-Match says", OtherVersion, {"expected": 3, "version": 4}
    ),
    "PAYLOAD_TOO_LARGE": Refusal(413, "The body is too large", BodyLimit, {"max_body_bytes": 16 * 2**20}),
    "LOG_FULL": Refusal(
        413,
        "There is no room for so many more lines, or such long ones; none was kept",
        LogRoom,
        {"log_lines": 99_990, "log_lines_max": 100_000, "log_bytes": 6_200_000, "log_bytes_max": 16 * 2**20},
        code="PAYLOAD_TOO_LARGE",
    ),
    "UNSUPPORTED_MEDIA_TYPE": Refusal(415, "The body is not said to be JSON"),
    "EXPECTATION_FAILED": Refusal(417, "Expect says something else than 100-continue"),
    "PROMPT_MISMATCH": Refusal(
        422, "original_prompt is not the task's prompt", OtherPrompt, {"similarity": 0.41, "threshold": 0.8}
    ),
    "RETRY_LIMIT_REACHED": Refusal(422, "The task has used up its retries", UsedUpRetries, {"max_retries": 3}),
    "IDEMPOTENCY_KEY_REUSED": Refusal(422, "The key stands for another request", UsedKey, {"task_id": _PARENT}),
    "DEPENDENCY_CYCLE": Refusal(
        422, "The task would wait for itself for ever", FaultyFields, {**_CYCLE, "errors": [_CYCLE]}
    ),
    "DEPENDENCY_NOT_FOUND": Refusal(
        422, "It depends on a task that does not exist", FaultyFields, {**_MISSING, "errors": [_MISSING]}
    ),
    "FILTER_TOO_WIDE": Refusal(422, "The filter leaves nothing out, and `all` does not say that this is meant"),
    "RATE_LIMITED": Refusal(
        429,
        "Too many requests from this address, with this key or of this kind, too many wrong keys from this address, or "
        "too many streams with this key",
        TooOften,
        {"kind": "address", "limit": 2000, "retry_after_seconds": 0.25},
        ["Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"],
    ),
    "INTERNAL_ERROR": Refusal(
        500, "Something went wrong in the server", ErrorId, {"error_id": "6f1c1b0e8a7d4f6f9a3f2c5d7e8b9a01"}
    ),
    "DATABASE_ERROR": Refusal(502, "The record could not be read"),
    "UNAVAILABLE": Refusal(503, "Draining, overloaded or out of room", headers=["Retry-After"]),
    "TIMEOUT": Refusal(504, "The record does not answer; it is not known what came of the request"),
}
