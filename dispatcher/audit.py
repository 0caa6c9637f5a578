"""The audit log: who did what that matters, from where, and what came of it; each entry sealed to the one before it.

The hash of an entry is the SHA-256, in hexadecimal digits, of this JSON array in UTF-8, without spaces:

    [number, at, who, address, action, target, outcome, request_id, details, previous_hash]

where `details` is a string, as it is kept. So whatever is changed, removed, added or put in another order is found by
whoever computes the hashes again. What is cut off at the end is only found by who knows a hash from there; and so is a
chain that was computed anew, all of it from some entry on.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from attrs import evolve, frozen

from dispatcher.fields import to_json

HEAD = re.compile("[0-9]{1,18}:[0-9a-f]{64}")
GENESIS = "0" * 64  # what stands before the first entry
PAGE = 500  # entries verified at a time


@frozen(kw_only=True)
class Deed:
    """What is to be told. `at` in ms since the epoch; `outcome`: ok, or the code of a refusal; `details`: JSON."""

    at: int
    action: str
    outcome: str
    who: str | None = None
    address: str | None = None
    target: str | None = None
    request_id: str | None = None
    details: str = "{}"


@frozen(kw_only=True)
class AuditEntry:
    """A deed on record: the numbers are 1, 2, 3 … without a gap."""

    number: int
    at: int
    who: str | None
    address: str | None
    action: str
    target: str | None
    outcome: str
    request_id: str | None
    details: str
    previous_hash: str
    hash: str


@frozen(kw_only=True)
class AuditFilter:
    """Any of the actions and of the outcomes; from `since` on, before `until`."""

    who: str | None = None
    actions: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None


class AuditLog(Protocol):
    """Every method raises RecordFailed or TimeoutError."""

    async def append(self, deeds: Sequence[Deed]) -> Sequence[AuditEntry]:
        """All of them or none, and for good. After a failure it is not known which; said again, with the same deeds,
        they are there once."""

    async def page(
        self, only: AuditFilter, limit: int, *, after: int | None = None, before: int | None = None
    ) -> Sequence[AuditEntry]:
        """Those with numbers beyond `after`, the oldest first; or else those before `before`, the newest first."""


@frozen
class Head:
    """Where a chain ends, or ended once."""

    number: int
    hash: str


def head_of(text: str) -> Head:
    """From NUMBER:HASH; raises ValueError."""
    if not HEAD.fullmatch(text):
        raise ValueError("must be the number of an entry and its hash, as 17:9f86d081…")
    number, _, hash = text.partition(":")
    return Head(int(number), hash)


@frozen
class Broken:
    """The first entry that is not as it was written."""

    number: int
    reason: str


@frozen
class Verified:
    """`entries` that hold, up to the `head` of these; `broken` None: that is all of them."""

    entries: int
    head: Head
    broken: Broken | None = None


def sealed(deed: Deed, previous: Head) -> AuditEntry:
    """The next entry of the chain that ends there."""
    unsealed = AuditEntry(
        number=previous.number + 1,
        at=deed.at,
        who=deed.who,
        address=deed.address,
        action=deed.action,
        target=deed.target,
        outcome=deed.outcome,
        request_id=deed.request_id,
        details=deed.details,
        previous_hash=previous.hash,
        hash="",
    )
    return evolve(unsealed, hash=_hash_of(unsealed))


def chained(deeds: Sequence[Deed], previous: Head) -> Sequence[AuditEntry]:
    entries: list[AuditEntry] = []
    for deed in deeds:
        entry = sealed(deed, previous)
        entries.append(entry)
        previous = Head(entry.number, entry.hash)
    return entries


async def verify(log: AuditLog, known: Head | None = None) -> Verified:
    """Compute every hash again. `known`: an end that the chain once had, as told elsewhere. Raises what `log` does."""
    head, after = Head(0, GENESIS), -(2**62)  # there must not be any before the first either
    while page := await log.page(AuditFilter(), PAGE, after=after):
        for entry in page:
            if fault := _fault(entry, head, known):
                return Verified(head.number, head, Broken(entry.number, fault))
            head = Head(entry.number, entry.hash)
        after = head.number
    if known and known.number > head.number:
        lost = f"it is missing: the log was cut off behind entry {head.number}"
        return Verified(head.number, head, Broken(known.number, lost))
    return Verified(head.number, head)


def _fault(entry: AuditEntry, head: Head, known: Head | None) -> str | None:
    if entry.number != head.number + 1:
        return f"entry {head.number + 1} is missing before it" if entry.number > head.number else "it was slipped in"
    if _hash_of(entry) != entry.hash:
        return "it does not say what its hash was made of"
    if entry.previous_hash != head.hash:
        return f"it does not follow on entry {head.number} as that is now"
    if known and known.number == entry.number and known.hash != entry.hash:
        return "its hash is not the one that is known"
    return None


def _hash_of(entry: AuditEntry) -> str:
    told = [
        entry.number,
        entry.at,
        entry.who,
        entry.address,
        entry.action,
        entry.target,
        entry.outcome,
        entry.request_id,
        entry.details,
        entry.previous_hash,
    ]
    return sha256(to_json(told).encode()).hexdigest()
