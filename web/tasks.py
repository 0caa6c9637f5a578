"""Tasks: create, claim, report, look. Handlers decide nothing: they ask, and say the answer."""

import re
from collections.abc import Callable, Mapping
from typing import TypedDict

from aiohttp.web import Request, Response, StreamResponse
from attrs import evolve

from dispatcher.errors import Unavailable
from dispatcher.messages import Cancel, Claim, Create, Delete, Edit, Fail, Heartbeat, Release, Retry
from dispatcher.task import Task
from web.access.audit import given, tell
from web.access.calling import caller
from web.answers import DIGEST, idempotency_key, ok
from web.bodies import ClaimBody, CompleteBody, Next
from web.briefing import briefing
from web.codec import Fault, Invalid, rfc3339
from web.delivery import deliver
from web.service import Service
from web.views import ClaimedTask, TaskOutcome, moment, outcome, shown

ETAG = re.compile(r'"[1-9]\d{0,17}"', re.ASCII)


class ClaimedTasks(TypedDict):
    tasks: list[ClaimedTask]


class Renewed(TypedDict):
    lease_expires_at: str | None
    deadline_at: str | None


class Completed(TaskOutcome):
    next: ClaimedTask | None


class Returned(TaskOutcome):
    """`available_at`: when it may be claimed again, if it may."""

    available_at: str


class Deleted(TypedDict):
    task_id: str
    deleted: bool


async def create(service: Service, asked: Create, request: Request) -> Response:
    """Create a task; said again with the same Idempotency-Key it is answered with the task that was made then."""
    if key := idempotency_key(request):
        asked = evolve(asked, idempotency_key=key, request_digest=request[DIGEST])
    created = await service.ask(asked)
    location = {"Location": f"/api/v1/tasks/{created.task.task_id}"}
    if created.replayed:
        return await _whole(service, created.task, 200, location | {"Idempotent-Replayed": "true"})
    return await _whole(service, created.task, 201, location)


async def claim_next(service: Service, asked: Next, request: Request) -> StreamResponse:
    """Claim the next task of one work directory: the most urgent, then the oldest; null if there is none in time."""
    tasks = await service.ask(asked.claim())
    return await _deliver(service, request, tasks, lambda briefed: briefed[0] if briefed else None)


async def claim(service: Service, asked: ClaimBody, request: Request) -> StreamResponse:
    """Claim up to `limit` tasks of one or several work directories; said again with the same `claim_id` while the
    leases live, it gets the same tasks."""
    tasks = await service.ask(asked.claim())
    return await _deliver(service, request, tasks, _claimed)


def _claimed(briefed: list[ClaimedTask]) -> ClaimedTasks:
    return {"tasks": briefed}


async def heartbeat(service: Service, asked: Heartbeat, request: Request) -> Response:
    """Renew the lease of a task that is being worked on; tell of its progress, and leave word in its metadata."""
    task = await service.ask(asked)
    renewed: Renewed = {
        "lease_expires_at": moment(task.lease_expires_at),
        "deadline_at": moment(task.deadline_at),
    }
    return ok(renewed, service.clock())


async def complete(service: Service, asked: CompleteBody, request: Request) -> StreamResponse:
    """Report the outcome of a task, and claim the next one in the same call; said again with the same token it gets the
    stored outcome."""
    claim = asked.claim()
    for path in claim.work_directories if claim else ():
        caller.get().enter(path)  # or it would be refused when the report has been taken
    task = await service.ask(asked.report())
    tasks = await _claim_after(service, claim)
    ended = outcome(task)

    def say(briefed: list[ClaimedTask]) -> Completed:
        return {**ended, "next": briefed[0] if briefed else None}

    return await _deliver(service, request, tasks, say)


async def _claim_after(service: Service, claim: Claim | None) -> tuple[Task, ...]:
    """The report is accepted and cannot be said again without a lease; a claim with a name can, and gets its tasks."""
    if claim is None:
        return ()
    try:
        return await service.ask(claim)
    except (Unavailable, TimeoutError):
        if claim.claim_id:
            raise
        return ()


async def fail(service: Service, asked: Fail, request: Request) -> Response:
    """Report that the attempt failed; the task is tried again if it is to be."""
    return ok(_returned(await service.ask(asked)), service.clock())


async def release(service: Service, asked: Release, request: Request) -> Response:
    """Give a task back unfinished: it waits again, and no retry is burnt."""
    return ok(_returned(await service.ask(asked)), service.clock())


def _returned(task: Task) -> Returned:
    return {**outcome(task), "available_at": rfc3339(task.available_at)}


async def edit(service: Service, asked: Edit, request: Request) -> Response:
    """Change a task: tags and metadata always, the rest while it waits or has failed; what is not given stays."""
    tell(request, {"fields": sorted(given(asked).keys() - {"task_id"})})
    return await _whole(service, await service.ask(evolve(asked, if_version=_if_version(request))))


async def delete(service: Service, asked: Delete, request: Request) -> Response:
    """Delete a task that is over; its history stays."""
    await service.ask(evolve(asked, if_version=_if_version(request)))
    deleted: Deleted = {"task_id": asked.task_id, "deleted": True}
    return ok(deleted, service.clock())


async def cancel(service: Service, asked: Cancel, request: Request) -> Response:
    """Cancel a task; with `force` also one that is being worked on: its lease is void at once, its worker is told."""
    tell(request, {"force": asked.force, "reason": asked.reason})
    return await _whole(service, await service.ask(asked))


async def retry(service: Service, asked: Retry, request: Request) -> Response:
    """Let a failed task be tried once more."""
    return await _whole(service, await service.ask(asked))


async def _whole(service: Service, task: Task, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return ok(await shown(task), service.clock(), status, {"ETag": f'"{task.version}"', **(headers or {})})


def _if_version(request: Request) -> int | None:
    """The version that the caller believes the task to have, from the ETag it was given."""
    given = request.headers.get("If-Match", "*")
    if given == "*":
        return None
    if not ETAG.fullmatch(given):
        raise Invalid([Fault("If-Match", 'must be an ETag of the task, such as "3"')])
    return int(given.strip('"'))


async def _deliver(
    service: Service, request: Request, tasks: tuple[Task, ...], say: Callable[[list[ClaimedTask]], object]
) -> StreamResponse:
    """Write the answer here and now: tasks that do not get through are given back at once."""
    if not tasks:
        return ok(say([]), service.clock())
    try:
        response = ok(say(await briefing(service, tasks)), service.clock())
        await deliver(request, response, service.settings.server.request_timeout_seconds)
    except BaseException:
        service.dispatcher.give_back(tasks)
        raise
    return response
