"""Seconds on the wire, milliseconds in here."""


def later(now: int, seconds: float) -> int:
    return now + round(seconds * 1000)


def lease_end(now: int, lease_seconds: float | None, deadline_at: int) -> int:
    """A lease never outlives the attempt; without a length of its own it lasts as long."""
    return deadline_at if lease_seconds is None else min(later(now, lease_seconds), deadline_at)
