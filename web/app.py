"""The route table, and what every request goes through before and after its handler."""

import asyncio
import re
from typing import Any

from aiohttp.typedefs import Handler
from aiohttp.web import (
    Application,
    HTTPMethodNotAllowed,
    HTTPRequestEntityTooLarge,
    Request,
    RequestPayloadError,
    Response,
    StreamResponse,
    middleware,
)

from dispatcher.messages import Cancel, Create, Delete, Edit, Fail, Heartbeat, Log, Regulate, Release, Retry
from web import (
    batches,
    bulk,
    config,
    directories,
    docs,
    events,
    explain,
    health,
    limits,
    logs,
    show,
    statistics,
    stream,
    tasks,
    workers,
)
from web.answers import REQUEST_ID, Failure, failed, failure, new_request_id
from web.bodies import (
    AboutDirectory,
    AboutTask,
    Batch,
    ChangeSettings,
    ClaimBody,
    CompleteBody,
    EventsQuery,
    Logs,
    Many,
    ManyOfPriority,
    Newest,
    Next,
    Nothing,
    Pause,
    Rollback,
    SettingsHistory,
    Show,
    Stream,
    TaskEventsQuery,
)
from web.codec import Malformed, decode, decode_query, encode
from web.delivery import deliver
from web.negotiation import PACKED_BYTES, check_accept, pack
from web.openapi import describe
from web.operations import told_of
from web.route import Route, by_path
from web.security import check_key, check_origin
from web.service import SERVICE, Service
from web.statistics import AboutRange, StatisticsView
from web.views import ClaimedTask, WholeTask, WorkDirectoryState

LARGE_BYTES = 64 * 1024  # a client that does not read is not kept longer than the timeout with more than this
SANE_REQUEST_ID = re.compile(r"[\w.:+/=-]{1,128}", re.ASCII)


ROUTES = (
    Route("POST", "/api/v1/tasks", tasks.create, Create, says=WholeTask),
    Route("POST", "/api/v1/tasks/batch", batches.create_many, Batch, says=batches.MadeTasks),
    Route("POST", "/api/v1/tasks/cancel", bulk.cancel, Many, says=bulk.ManySteered),
    Route("POST", "/api/v1/tasks/retry", bulk.retry, Many, says=bulk.ManySteered),
    Route("POST", "/api/v1/tasks/delete", bulk.delete, Many, says=bulk.ManySteered),
    Route("POST", "/api/v1/tasks/priority", bulk.priority, ManyOfPriority, says=bulk.ManySteered),
    Route("GET", "/api/v1/tasks", tasks.newest, Newest, says=tasks.TaskPage),
    Route("GET", "/api/v1/tasks/next", tasks.claim_next, Next, says=ClaimedTask | None),
    Route("POST", "/api/v1/tasks/claim", tasks.claim, ClaimBody, says=tasks.ClaimedTasks),
    Route("GET", "/api/v1/tasks/stream", stream.stream, Stream),
    Route("GET", "/api/v1/tasks/{task_id}", show.show, Show, says=show.ShownTask),
    Route("GET", "/api/v1/tasks/{task_id}/history", show.history, AboutTask, says=show.History),
    Route("GET", "/api/v1/tasks/{task_id}/explain", explain.explain, AboutTask, says=explain.Explanation),
    Route("GET", "/api/v1/tasks/{task_id}/events", events.task_events, TaskEventsQuery),
    Route("GET", "/api/v1/tasks/{task_id}/logs", logs.read, Logs, says=logs.Page),
    Route("POST", "/api/v1/tasks/{task_id}/logs", logs.append, Log, says=logs.Accepted),
    Route("POST", "/api/v1/tasks/{task_id}/heartbeat", tasks.heartbeat, Heartbeat, says=tasks.Renewed),
    Route("POST", "/api/v1/tasks/{task_id}/complete", tasks.complete, CompleteBody, says=tasks.Completed),
    Route("POST", "/api/v1/tasks/{task_id}/fail", tasks.fail, Fail, says=tasks.Returned),
    Route("POST", "/api/v1/tasks/{task_id}/release", tasks.release, Release, says=tasks.Returned),
    Route("PATCH", "/api/v1/tasks/{task_id}", tasks.edit, Edit, says=WholeTask),
    Route("PUT", "/api/v1/tasks/{task_id}", tasks.edit, Edit, says=WholeTask),
    Route("DELETE", "/api/v1/tasks/{task_id}", tasks.delete, Delete, says=tasks.Deleted),
    Route("POST", "/api/v1/tasks/{task_id}/cancel", tasks.cancel, Cancel, says=WholeTask),
    Route("POST", "/api/v1/tasks/{task_id}/retry", tasks.retry, Retry, says=WholeTask),
    Route("GET", "/api/v1/work-directories", directories.listing, Nothing, says=directories.WorkDirectories),
    Route("PATCH", "/api/v1/work-directories", directories.regulate, Regulate, by_path, says=WorkDirectoryState),
    Route("POST", "/api/v1/work-directories/pause", directories.pause, Pause, by_path, says=WorkDirectoryState),
    Route(
        "POST", "/api/v1/work-directories/resume", directories.resume, AboutDirectory, by_path, says=WorkDirectoryState
    ),
    Route(
        "POST", "/api/v1/work-directories/drain", directories.drain, AboutDirectory, by_path, says=WorkDirectoryState
    ),
    Route("GET", "/api/v1/workers", workers.listing, Nothing, says=workers.Workers),
    Route("GET", "/api/v1/events", events.events, EventsQuery, says=events.EventPage),
    Route("GET", "/api/v1/config", config.show, Nothing, says=config.ConfigSays),
    Route("PATCH", "/api/v1/config", config.change, ChangeSettings, says=config.ConfigSays),
    Route("GET", "/api/v1/config/history", config.history, SettingsHistory, says=config.HistorySays),
    Route("POST", "/api/v1/config/rollback", config.rollback, Rollback, says=config.ConfigSays),
    Route("GET", "/api/v1/limits", limits.show, Nothing, says=limits.LimitsSays),
    Route("GET", "/api/v1/statistics", statistics.statistics, AboutRange, says=StatisticsView),
    Route("GET", "/health", health.health, Nothing, says=health.Health),
    Route("GET", "/health/live", health.live, Nothing, says=health.Alive),
    Route("GET", "/health/ready", health.ready, Nothing, says=health.Ready),
    Route("GET", "/openapi.json", docs.document, Nothing),
    Route("GET", "/docs", docs.page, Nothing),
)


def make_app(service: Service) -> Application:
    app = Application(middlewares=[guard], client_max_size=service.settings.server.max_body_bytes)
    app[SERVICE] = service
    app[docs.DOCUMENT] = encode(describe(ROUTES, service.version))
    app.on_response_prepare.append(_mark)
    methods: dict[str, dict[str, Handler]] = {}
    for route in ROUTES:
        handler = _handler(service, route)
        there = methods.setdefault(route.path, {})
        there[route.method] = handler
        if route.is_read and told_of(route.handler).has_head:
            there["HEAD"] = handler
    for path, handlers in methods.items():
        resource = app.router.add_resource(path)
        for method, handler in handlers.items():
            resource.add_route(method, handler, expect_handler=_expect)
        resource.add_route("*", _others(*handlers), expect_handler=_expect)
    docs.add_files(app)
    return app


@middleware
async def guard(request: Request, handler: Handler) -> StreamResponse:
    """Only those who may get through; whatever goes wrong is answered in the envelope."""
    service = request.app[SERVICE]
    with service.handling():
        try:
            check_origin(request, service.settings.security.api_key)
            check_key(request, service.settings.security.api_key)
            response = await handler(request)
            if (
                isinstance(response, Response)
                and not response.prepared
                and (size := response.content_length or 0) > PACKED_BYTES
            ):
                pack(request, response)
                if size > LARGE_BYTES:
                    await deliver(request, response, service.settings.server.request_timeout_seconds)
            return response
        except ConnectionError:
            raise  # nobody is there to be answered
        except Exception as error:
            if request.writer.output_size:
                raise ConnectionAbortedError("the answer had already begun") from error
            refusal = failed(failure(error), service.clock())
            pack(request, refusal)
            return refusal


async def _mark(request: Request, response: StreamResponse) -> None:
    given = request.headers.get(REQUEST_ID, "")
    response.headers[REQUEST_ID] = given if SANE_REQUEST_ID.fullmatch(given) else new_request_id()
    response.headers.setdefault("Cache-Control", "no-store")


def _others(*methods: str) -> Handler:
    """What any other method gets."""
    allowed = sorted({*methods, "OPTIONS"})

    async def handle(request: Request) -> StreamResponse:
        if request.method == "OPTIONS":
            return Response(status=204, headers={"Allow": ", ".join(allowed)})
        raise HTTPMethodNotAllowed(request.method, allowed)

    return handle


async def _expect(request: Request) -> StreamResponse | None:
    """A client that asks first is told at once if it need not send the body."""
    service = request.app[SERVICE]
    try:
        if request.headers["Expect"].lower() != "100-continue":
            raise Failure(417, "EXPECTATION_FAILED", "the only expectation known here is 100-continue")
        _check_length(service, request)
    except Failure as failure:
        return failed(failure, service.clock())
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # that was not the answer yet
    return None


def _check_length(service: Service, request: Request) -> None:
    limit = service.settings.server.max_body_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Failure:
    message = f"the body is larger than max_body_bytes, {limit}"
    return Failure(413, "PAYLOAD_TOO_LARGE", message, {"max_body_bytes": limit}, closes=True)


def _handler(service: Service, route: Route) -> Handler:
    offered = told_of(route.handler).media

    async def handle(request: Request) -> StreamResponse:
        asked: Any
        check_accept(request, offered)
        known = route.about(request)
        if route.is_read:
            asked = decode_query(request.query, route.asks, **known)
        else:
            asked = decode(await _body(service, request), route.asks, **known)
        return await route.handler(service, asked, request)

    return handle


async def _body(service: Service, request: Request) -> bytes:
    _check_length(service, request)
    if request.can_read_body and "Content-Type" in request.headers and request.content_type != "application/json":
        message = f"the body must be application/json, not {request.content_type}"
        raise Failure(415, "UNSUPPORTED_MEDIA_TYPE", message)
    try:
        async with asyncio.timeout(service.settings.server.request_timeout_seconds):
            return await request.read()
    except HTTPRequestEntityTooLarge:  # it did not say so beforehand
        raise _too_large(service.settings.server.max_body_bytes) from None
    except RequestPayloadError:
        raise Malformed("it cannot be unpacked or is cut off") from None
    except TimeoutError:
        raise Failure(408, "TIMEOUT", "the body did not come in time", closes=True) from None
