"""The audit log: who did what that matters, from where, and what came of it."""

from typing import Any, TypedDict

import orjson
from aiohttp.web import Request, Response

from dispatcher import audit
from dispatcher.audit import AuditEntry
from web.answers import ok
from web.bodies import AuditEnd, AuditQuery
from web.codec import rfc3339
from web.service import Service


class AuditEntryView(TypedDict):
    """`details` differ from action to action; `hash` is that of the whole entry and of the one before it."""

    number: int
    at: str
    who: str | None
    address: str | None
    action: str
    target: str | None
    outcome: str
    details: dict[str, Any]
    request_id: str | None
    previous_hash: str
    hash: str


class AuditPage(TypedDict):
    """`next_after` and `next_before`: where to go on, upwards or downwards; null: there is nothing further down."""

    audit: list[AuditEntryView]
    next_after: int
    next_before: int | None


class HeadView(TypedDict):
    number: int
    hash: str


class BrokenView(TypedDict):
    number: int
    reason: str


class Verified(TypedDict):
    """`entries` that hold, and the last of these; `broken` is the first that does not."""

    verified: bool
    entries: int
    head: HeadView
    broken: BrokenView | None


async def listing(service: Service, asked: AuditQuery, request: Request) -> Response:
    """List what is in the audit log, newest first; with `after`, what has come behind that entry, oldest first."""
    page = await service.audit.log.page(asked.filter(), asked.limit, after=asked.after, before=asked.before)
    numbers = [entry.number for entry in page]
    is_last = asked.after is not None or len(page) < asked.limit
    said: AuditPage = {
        "audit": [_view(entry) for entry in page],
        "next_after": max(numbers, default=asked.after or 0),
        "next_before": None if is_last else min(numbers),
    }
    return ok(said, service.clock())


async def verify(service: Service, asked: AuditEnd, request: Request) -> Response:
    """Compute the hashes of all entries again, and name the first that does not hold."""
    return ok(verified(await audit.verify(service.audit.log, asked.head)), service.clock())


def verified(found: audit.Verified) -> Verified:
    return {
        "verified": found.broken is None,
        "entries": found.entries,
        "head": {"number": found.head.number, "hash": found.head.hash},
        "broken": None if found.broken is None else {"number": found.broken.number, "reason": found.broken.reason},
    }


def _view(entry: AuditEntry) -> AuditEntryView:
    return {
        "number": entry.number,
        "at": rfc3339(entry.at),
        "who": entry.who,
        "address": entry.address,
        "action": entry.action,
        "target": entry.target,
        "outcome": entry.outcome,
        "details": _details(entry.details),
        "request_id": entry.request_id,
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }


def _details(text: str) -> dict[str, Any]:
    """Also of an entry that somebody has changed."""
    try:
        details = orjson.loads(text)
    except ValueError:
        return {"not_json": text}
    return details if isinstance(details, dict) else {"not_json": text}
