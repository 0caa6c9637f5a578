"""What the server's answers mean, and what it means when there is none. No I/O."""

import asyncio
import json
import os
import re
from typing import Any

from aiohttp import ClientConnectorCertificateError, ClientConnectorError, ClientPayloadError

from task_orchestrator.errors import Refused, Unreachable

_SECONDS = re.compile("[0-9]{1,9}")  # a date, which it may also be, is as good as nothing


def decoded(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; an empty one where there is none."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def refusal(status: int, envelope: dict[str, Any], retry_after: str | None = None) -> Refused | Unreachable:
    """Why an answer is not the one that was hoped for. `retry_after` is what its head says."""
    seconds = float(retry_after) if retry_after and _SECONDS.fullmatch(retry_after) else None
    error = envelope.get("error")
    if isinstance(error, dict):
        return Refused(status, error.get("code", ""), error.get("message", ""), error.get("details") or {}, seconds)
    if status >= 300:  # a proxy on the way, or no Task Orchestrator at all
        return Refused(status, f"HTTP_{status}", "the answer bears no reason", {}, seconds)
    return Unreachable("whatever answered there is not a Task Orchestrator")


def unreachable(url: str, error: Exception, otherwise: str) -> Unreachable:
    """In one short sentence: that there was no connection, or else `otherwise` and the reason."""
    if isinstance(error, ClientConnectorCertificateError):
        return Unreachable(f"cannot reach {url}: its certificate is not trusted; name its authority with --ca-file")
    if isinstance(error, ClientConnectorError):
        return Unreachable(f"cannot reach {url}: {_obstacle(error)}")
    if isinstance(error, asyncio.TimeoutError):
        return Unreachable(f"{otherwise}: it took too long")
    if isinstance(error, ClientPayloadError):
        return Unreachable(f"{otherwise}: the connection was cut")
    return Unreachable(f"{otherwise}: {str(error) or type(error).__name__}")


def _obstacle(error: ClientConnectorError) -> str:
    """The system's words; aiohttp's own name the address once more, and its TLS settings."""
    cause = getattr(error, "os_error", error)  # an error about a certificate has none
    if isinstance(cause, ConnectionError) and cause.errno:
        return os.strerror(cause.errno).lower()
    return getattr(cause, "strerror", None) or str(cause)
