"""Why a call to the server did not succeed. One class per kind."""

from typing import Any

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


class OrchestratorError(Exception):
    """The base of every error that this package raises."""


class Refused(OrchestratorError):
    """The server answered, and the answer was no.

    status   -- the HTTP status, such as 409
    code     -- the contract's name for the reason, such as `LEASE_LOST`
    message  -- a sentence for people
    details  -- whatever the server added, such as `{"reason": "expired"}`
    retry_after_seconds -- when to come again, if the server said so
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: dict[str, Any],
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(status, code, message, details)
        self.status, self.code, self.message, self.details = status, code, message, details
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def temporary(self) -> bool:
        """Whether the same call may succeed later: the server is busy, draining or broken."""
        return self.status in _TEMPORARY


class Unreachable(OrchestratorError):
    """No answer came, or none that makes sense; whether the server acted on the call is unknown."""
