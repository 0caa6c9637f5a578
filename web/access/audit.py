"""The audit log of a running server: what is done that matters is on record before it is answered, and who is turned
away is told in few entries, however many try."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from getpass import getuser
from typing import Any, Final, TypeVar

from aiohttp.web import Request, RequestKey
from attrs import asdict, define

from dispatcher.audit import AuditEntry, AuditLog, Deed
from dispatcher.errors import RecordFailed
from dispatcher.fields import UNSET
from dispatcher.ports import Clock
from web.access.addresses import address_of
from web.access.audit_texts import clean, clean_or_none, written
from web.access.calling import caller
from web.access.strangers import Strangers
from web.answers import RETRY_AFTER_SECONDS, Failure, failure, name_of
from web.settings import Logging

T = TypeVar("T")

OK = "ok"
UNKNOWN = "unknown"  # the caller left before it was known
TURNED_AWAY = (401, 403, 429)

BATCH = 100  # deeds in a transaction
TICK_SECONDS = 1.0  # so soon the first refusal of its kind is on record
RETRY_SECONDS = 0.5
PATIENCE_SECONDS = 5.0  # how long whatever matters waits, while the log cannot be written, before it is turned down
REFUSED_SECONDS = 2.0  # how long what was refused anyway waits for its entry
LAST_SECONDS = 1.5  # for what is left when the server stops

TOLD: Final = RequestKey("told", dict[str, Any])
WHO: Final = RequestKey[str | None]("who")
"""The name of the key of whoever was admitted, or None."""

logger = logging.getLogger(__name__)
lines = logging.getLogger("audit")
lines.setLevel(logging.INFO)  # whatever the level of the rest is


def tell(request: Request, details: Mapping[str, object], target: str | None = None) -> None:
    """What the entry about this request is to say. Never a secret."""
    told = request.setdefault(TOLD, {})
    if target is not None:
        told["target"] = target
    told.setdefault("details", {}).update(details)


def by_command(action: str, target: str, details: Mapping[str, object], now: int) -> Deed:
    """What somebody has done on the record itself, without a server."""
    try:
        user = getuser()
    except (KeyError, OSError):  # there is none of this number
        user = str(os.getuid())
    who = clean(f"user {user}")  # no key has a name with a space
    return Deed(at=now, who=who, action=action, target=clean(target), outcome=OK, details=written(details))


def given(said: Any) -> dict[str, Any]:
    """What was said of all that could have been."""
    return {name: value for name, value in asdict(said, recurse=False).items() if value not in (UNSET, None, ())}


def operation_of(request: Request) -> str | None:
    """Its method and the pattern of its path; None if that is none of ours."""
    route = request.match_info.route
    return f"{route.method} {route.resource.canonical}" if route.resource else None


@define(eq=False)
class _Waiting:
    """`tried`: whether it could be written the first time."""

    deed: Deed
    entry: "asyncio.Future[AuditEntry]"
    tried: "asyncio.Future[bool]"


class Audit:
    """`run` writes what the others hand in, all that has gathered in one transaction."""

    def __init__(
        self, log: AuditLog, clock: Clock, timeout_seconds: float, is_full: Callable[[], bool] = lambda: False
    ) -> None:
        """`is_full`: the disk is, so that there is no use in waiting."""
        self.log, self._clock, self._timeout_seconds, self._is_full = log, clock, timeout_seconds, is_full
        self._waiting: deque[_Waiting] = deque()
        self._doubtful = 0  # so many of the first may be on record, or not
        self._strangers = Strangers(clock)
        self._due, self._well = asyncio.Event(), asyncio.Event()
        self._well.set()
        self._ended = False
        self._redact = True
        self.entries = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def refusals(self) -> int:
        return self._strangers.refusals

    @property
    def unnamed(self) -> int:
        return self._strangers.unnamed

    # What matters

    async def over(self, request: Request, action: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, and return once its entry is on record. Raises what the work raises, or a Failure: 503 if
        nothing was done because the log cannot be written, 502 if it was done."""
        try:
            await self._be_well()
        except Failure as unwritable:
            self.turn_away(request, unwritable, action)
            raise
        try:
            response = await work()
        except (asyncio.CancelledError, ConnectionError):
            self._hand_in(self._deed(request, action, UNKNOWN))
            raise
        except Exception as error:
            refusal = failure(error)
            if refusal.status not in TURNED_AWAY:
                waiting = self._hand_in(self._deed(request, action, refusal.code))
                await asyncio.wait([waiting.tried], timeout=REFUSED_SECONDS)
            raise refusal from error
        waiting = self._hand_in(self._deed(request, action, OK))
        await asyncio.wait([waiting.tried], timeout=self._timeout_seconds)
        if not waiting.entry.done() and not self._is_full():
            await asyncio.wait([waiting.entry], timeout=self._timeout_seconds)
        if not waiting.entry.done():
            message = "it is done, but that could not be put into the audit log yet; the server goes on trying"
            raise Failure(502, "DATABASE_ERROR", message)
        return response

    def note(
        self, action: str, outcome: str = OK, target: str | None = None, details: Mapping[str, object] | None = None
    ) -> "asyncio.Future[bool]":
        """What the server does by itself; it is put on record soon."""
        waiting = self._hand_in(
            Deed(
                at=self._clock(),
                action=action,
                outcome=outcome,
                target=clean_or_none(target),
                details=written(details or {}),
            )
        )
        return waiting.tried

    def _deed(self, request: Request, action: str, outcome: str) -> Deed:
        told = request.get(TOLD, {})
        known = request.match_info
        target = told.get("target") or known.get("task_id") or known.get("name") or request.query.get("path")
        return Deed(
            at=self._clock(),
            who=clean_or_none(caller.get().name),
            address=clean_or_none(address_of(request)),
            action=action,
            target=clean_or_none(target),
            outcome=outcome,
            request_id=name_of(request),
            details=written(told.get("details", {})),
        )

    def _hand_in(self, deed: Deed) -> _Waiting:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(deed, loop.create_future(), loop.create_future())
        self._waiting.append(waiting)
        self._due.set()
        return waiting

    async def _be_well(self) -> None:
        try:
            async with asyncio.timeout(0 if self._is_full() else min(PATIENCE_SECONDS, self._timeout_seconds)):
                await self._well.wait()
        except TimeoutError:
            why = "the disk is full: " if self._is_full() else ""
            message = f"{why}the audit log cannot be written; meanwhile nothing is done that belongs there"
            raise Failure(503, "UNAVAILABLE", message, headers={"Retry-After": RETRY_AFTER_SECONDS}) from None

    # Who was turned away

    def turn_away(self, request: Request, refusal: Failure, operation: str | None) -> None:
        """Counted at once, told later."""
        if refusal.status == 429 and WHO in request:
            return  # they are too fast, but who they are is known
        who, address = clean_or_none(request.get(WHO)), clean_or_none(address_of(request))
        self._strangers.note(who, address, refusal.code, refusal.message, operation, name_of(request))

    # Writing

    def adopt(self, settings: Logging) -> None:
        self._redact = settings.redact

    async def run(self) -> None:
        """Until `end` is called, and what is left has been written or cannot be."""
        while not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._due.wait()
            if self._well.is_set():  # else they go on being counted
                self._tell_strangers()
            if self._waiting and not await self._write():
                await asyncio.sleep(RETRY_SECONDS)
            if not self._waiting:
                self._due.clear()
        self._tell_strangers(all_of_them=True)
        if not await self._write():
            await asyncio.sleep(RETRY_SECONDS)
            await self._write()

    def _tell_strangers(self, *, all_of_them: bool = False) -> None:
        for deed in self._strangers.due(all_of_them=all_of_them):
            self._hand_in(deed)

    def end(self) -> None:
        self._ended = True
        self._due.set()

    def give_up(self) -> None:
        """What is not on record is told in the log at least."""
        for waiting in self._waiting:
            _say(waiting.deed, self._redact, logging.CRITICAL)

    async def _write(self) -> bool:
        while self._waiting:
            batch = [*self._waiting][: self._doubtful or BATCH]
            self._doubtful = len(batch)
            try:
                entries = await self.log.append([waiting.deed for waiting in batch])
            except Exception as error:
                self._fail(error)
                for waiting in self._waiting:
                    _settle(waiting, False)
                return False
            self._doubtful = 0
            for waiting, entry in zip(batch, entries, strict=True):
                self._waiting.popleft()
                waiting.entry.set_result(entry)
                _settle(waiting, True)
                _say(waiting.deed, self._redact, number=entry.number, hash=entry.hash)
            self.entries += len(entries)
            self._recover()
        return True

    def _fail(self, error: Exception) -> None:
        if self._well.is_set():
            foreseen = isinstance(error, RecordFailed | TimeoutError)
            why = str(error) or "the record does not answer"
            logger.error("the audit log cannot be written: %s", why, exc_info=None if foreseen else error)
        self._well.clear()

    def _recover(self) -> None:
        if not self._well.is_set():
            logger.warning("the audit log can be written again")
        self._well.set()


def _settle(waiting: _Waiting, was_written: bool) -> None:
    if not waiting.tried.done():
        waiting.tried.set_result(was_written)


def _say(deed: Deed, redact: bool, level: int = logging.INFO, **more: object) -> None:
    told: dict[str, object] = {
        "action": deed.action,
        "outcome": deed.outcome,
        "who": deed.who,
        "address": deed.address,
        "request_id": deed.request_id,
    }
    if not redact:
        told["target"] = deed.target
    lines.log(level, "audit", extra={**told, **more})
