"""What people do to many tasks in one request, a slice at a time, so that nobody else is held up.

Each slice is decided and committed by itself. If the caller leaves, or the server cannot go on (503), what was done by
then stays done; said again, the request sees to the rest.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import TypedDict

from aiohttp.web import Request, Response
from attrs import evolve

from dispatcher.errors import Unavailable
from dispatcher.fields import task_id
from dispatcher.messages import SteerMany
from dispatcher.record import Filter
from web.access.audit import given, tell
from web.answers import Failure, failure, ok
from web.bodies import Many, ManyOfPriority
from web.codec import Fault, Invalid
from web.service import Service
from web.strict import FAULTS_MAX

SLICE = 50  # tasks decided in one message
DELETED_SLICE = 20  # and so many, where each may have a result of a megabyte to be deleted with it
STRETCH = 5_000  # tasks that the record looks through in one go
PIECE = 1000  # ids read before others have their turn
SKIPPED_MAX = 100_000  # tasks that an answer names


class Skipped(TypedDict):
    task_id: str
    code: str


class ManySteered(TypedDict):
    matched: int
    changed: int
    skipped: list[Skipped]  # at most SKIPPED_MAX of them
    skipped_count: int


async def cancel(service: Service, asked: Many, request: Request) -> Response:
    """Cancel the waiting and the failed ones among many tasks."""
    # The newest first: whoever depends on another one goes before it, not with it.
    return await _steer(service, request, asked, SteerMany(task_ids=(), action="cancel"), SLICE, newest_first=True)


async def retry(service: Service, asked: Many, request: Request) -> Response:
    """Let the failed ones among many tasks be tried once more, the oldest first."""
    return await _steer(service, request, asked, SteerMany(task_ids=(), action="retry"), SLICE)


async def delete(service: Service, asked: Many, request: Request) -> Response:
    """Forget those among many tasks that are over."""
    return await _steer(service, request, asked, SteerMany(task_ids=(), action="delete"), DELETED_SLICE)


async def priority(service: Service, asked: ManyOfPriority, request: Request) -> Response:
    """Give the waiting and the failed ones among many tasks another priority, the oldest first."""
    return await _steer(
        service, request, asked, SteerMany(task_ids=(), action="priority", priority=asked.priority), SLICE
    )


async def _steer(
    service: Service, request: Request, asked: Many, each: SteerMany, slice: int, newest_first: bool = False
) -> Response:
    only = asked.filter.filter() if asked.filter else None
    if only is not None and not only and not asked.all:
        message = "the filter leaves nothing out; all must be true if every task is meant"
        raise Failure(422, "FILTER_TOO_WIDE", message)
    tell(request, {"reason": asked.reason, "dry_run": asked.dry_run, **_chosen(asked)})
    each = evolve(each, only=only, reason=asked.reason, dry_run=asked.dry_run)
    runs = _matching(service, only, newest_first) if only is not None else _named(asked.ids or (), newest_first)
    matched = changed = 0
    skipped: list[Skipped] = []
    async for task_ids in _sliced(runs, slice):
        if service.draining.is_set():
            raise Unavailable
        steered = await service.ask(evolve(each, task_ids=task_ids))
        matched, changed = matched + steered.matched, changed + steered.changed
        named = steered.skipped[: SKIPPED_MAX - len(skipped)]
        skipped += [{"task_id": task_id, "code": failure(refusal).code} for task_id, refusal in named]
    tell(request, {"matched": matched, "changed": changed})
    told: ManySteered = {
        "matched": matched,
        "changed": changed,
        "skipped": skipped,
        "skipped_count": matched - changed,
    }
    return await asyncio.to_thread(ok, told, service.clock())  # it may name very many


def _chosen(asked: Many) -> dict[str, object]:
    """As the audit log tells it."""
    if asked.filter is None:
        return {"ids": len(asked.ids or ())}
    chosen = given(asked.filter)
    return {"filter": chosen | ({"q": "..."} if "q" in chosen else {}), "all": asked.all}


async def _sliced(runs: AsyncIterator[Iterator[str]], size: int) -> AsyncIterator[tuple[str, ...]]:
    async for run in runs:
        while task_ids := tuple(islice(run, size)):
            yield task_ids


async def _matching(service: Service, only: Filter, newest_first: bool) -> AsyncIterator[Iterator[str]]:
    """Of the tasks that there are now, a stretch at a time."""
    firsts = range(1, await service.record.last_arrival() + 1, STRETCH)
    last = firsts.stop - 1
    for first in reversed(firsts) if newest_first else firsts:
        found = await service.record.matching(only, first, min(first + STRETCH - 1, last))
        yield reversed(found) if newest_first else iter(found)


async def _named(ids: Sequence[object], newest_first: bool) -> AsyncIterator[Iterator[str]]:
    """All in one run, for ids sort by creation. Raises Invalid."""
    pieces: list[list[str]] = []
    seen: set[str] = set()
    faults: list[Fault] = []
    for start in range(0, len(ids), PIECE):
        piece = _piece(ids[start : start + PIECE], start, seen, faults)
        pieces.append(sorted(piece, reverse=newest_first))
        await asyncio.sleep(0)
    if faults:
        raise Invalid(faults)
    yield merge(*pieces, reverse=newest_first)


def _piece(ids: Iterable[object], start: int, seen: set[str], faults: list[Fault]) -> Iterable[str]:
    """Those of the ids that may be that; `faults` learns of the others."""
    for place, value in enumerate(ids, start):
        try:
            if type(value) is not str:
                raise ValueError("must be a string")
            if task_id(value) in seen:
                raise ValueError("must not be given twice")
            seen.add(value)
            yield value
        except ValueError as error:
            if len(faults) < FAULTS_MAX:
                faults.append(Fault(f"ids[{place}]", str(error)))
