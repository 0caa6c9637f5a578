"""Who asks, while they are being answered."""

from contextvars import ContextVar

from dispatcher.caller import ANYONE, Caller

caller: ContextVar[Caller] = ContextVar("caller", default=ANYONE)
"""Of the request being handled; outside of any, the server itself."""
