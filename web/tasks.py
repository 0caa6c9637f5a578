"""Tasks: create, claim, report, look. Handlers decide nothing: they ask, and say the answer."""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from aiohttp.web import Request, Response, StreamResponse
from attrs import evolve

from dispatcher.errors import Unavailable
from dispatcher.messages import Cancel, Claim, Create, Delete, Edit, Fail, Heartbeat, Release, Retry
from dispatcher.task import Task
from web.answers import idempotency_key, ok
from web.bodies import ClaimBody, CompleteBody, Newest, Next
from web.briefing import briefing
from web.codec import Fault, Invalid
from web.delivery import deliver
from web.service import Service
from web.views import moment, outcome, whole

ETAG = re.compile(r'"[1-9]\d{0,17}"', re.ASCII)
UNCACHED = {"Cache-Control": "no-store"}


async def create(service: Service, asked: Create, request: Request) -> Response:
    if key := idempotency_key(request):
        digest = sha256(await request.read()).hexdigest()
        asked = evolve(asked, idempotency_key=key, request_digest=digest)
    created = await service.ask(asked)
    location = {"Location": f"/api/v1/tasks/{created.task.task_id}"}
    if created.replayed:
        return _whole(service, created.task, 200, location | {"Idempotent-Replayed": "true"})
    return _whole(service, created.task, 201, location)


async def claim_next(service: Service, asked: Next, request: Request) -> StreamResponse:
    tasks = await service.ask(asked.claim())
    return await _deliver(service, request, tasks, lambda briefed: briefed[0] if briefed else None)


async def claim(service: Service, asked: ClaimBody, request: Request) -> StreamResponse:
    tasks = await service.ask(asked.claim())
    return await _deliver(service, request, tasks, lambda briefed: {"tasks": briefed})


async def heartbeat(service: Service, asked: Heartbeat, request: Request) -> Response:
    task = await service.ask(asked)
    return ok(
        {"lease_expires_at": moment(task.lease_expires_at), "deadline_at": moment(task.deadline_at)}, service.clock()
    )


async def complete(service: Service, asked: CompleteBody, request: Request) -> StreamResponse:
    task = await service.ask(asked.report())
    tasks = await _claim_after(service, asked.claim())
    ended = outcome(task)
    return await _deliver(service, request, tasks, lambda briefed: ended | {"next": briefed[0] if briefed else None})


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
    task = await service.ask(asked)
    return ok(outcome(task) | {"available_at": moment(task.available_at)}, service.clock())


async def release(service: Service, asked: Release, request: Request) -> Response:
    task = await service.ask(asked)
    return ok(outcome(task) | {"available_at": moment(task.available_at)}, service.clock())


async def edit(service: Service, asked: Edit, request: Request) -> Response:
    return _whole(service, await service.ask(evolve(asked, if_version=_if_version(request))))


async def delete(service: Service, asked: Delete, request: Request) -> Response:
    await service.ask(evolve(asked, if_version=_if_version(request)))
    return ok({"task_id": asked.task_id, "deleted": True}, service.clock())


async def cancel(service: Service, asked: Cancel, request: Request) -> Response:
    return _whole(service, await service.ask(asked))


async def retry(service: Service, asked: Retry, request: Request) -> Response:
    return _whole(service, await service.ask(asked))


async def newest(service: Service, asked: Newest, request: Request) -> Response:
    tasks, total = await service.record.newest(asked.work_directory, asked.limit, asked.offset)
    page = {"page": asked.offset // asked.limit + 1, "limit": asked.limit, "offset": asked.offset}
    return ok({"tasks": [whole(task) for task in tasks], "total": total, **page, "next_cursor": None}, service.clock())


def _whole(service: Service, task: Task, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return ok(whole(task), service.clock(), status, {"ETag": f'"{task.version}"', **(headers or {})})


def _if_version(request: Request) -> int | None:
    """The version that the caller believes the task to have, from the ETag it was given."""
    given = request.headers.get("If-Match", "*")
    if given == "*":
        return None
    if not ETAG.fullmatch(given):
        raise Invalid([Fault("If-Match", 'must be an ETag of the task, such as "3"')])
    return int(given.strip('"'))


async def _deliver(
    service: Service, request: Request, tasks: tuple[Task, ...], say: Callable[[list[dict[str, Any]]], object]
) -> StreamResponse:
    """Write the answer here and now: tasks that do not get through are given back at once."""
    if not tasks:
        return ok(say([]), service.clock(), headers=UNCACHED)
    try:
        response = ok(say(await briefing(service, tasks)), service.clock(), headers=UNCACHED)
        await deliver(request, response, service.settings.server.request_timeout_seconds)
    except BaseException:
        service.dispatcher.give_back(tasks)
        raise
    return response
