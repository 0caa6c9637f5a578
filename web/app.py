"""What every request goes through before and after its handler."""

import asyncio
from functools import partial
from time import perf_counter
from typing import Any

from aiohttp.typedefs import Handler
from aiohttp.web import (
    Application,
    Request,
    Response,
    StreamResponse,
    middleware,
)

from web import docs
from web.access.addresses import ADDRESSES, PROBES, WHENCE, Addresses
from web.access.audit import TURNED_AWAY, WHO, operation_of
from web.access.browsers import BROWSERS, Browsers
from web.access.door import OPEN, check_scope, is_open, no_longer_in_force
from web.access.keys import Admitted
from web.access.limiting import STANDING, Visit, headers
from web.answers import REQUEST_ID, Failure, failed, failure, name_of
from web.codec import Invalid, decode, decode_query, encode
from web.delivery import deliver
from web.mcp import endpoint as mcp
from web.negotiation import PACKED_BYTES, choose, pack
from web.openapi import describe, operation_id
from web.operations import told_of
from web.receiving import check_length, take_in
from web.route import Route, others
from web.routes import METRICS_PATH, ROUTES, endpoint_class
from web.server_log import request_id
from web.service import SERVICE, Service
from web.witness import witness

LARGE_BYTES = 64 * 1024  # a client that does not read is not kept longer than the timeout with more than this


def make_app(service: Service) -> Application:
    app = Application(middlewares=[guard], client_max_size=service.settings.server.max_body_bytes)
    app[SERVICE] = service
    app[docs.DOCUMENT] = encode(describe(ROUTES, service.version))
    app[ADDRESSES], app[BROWSERS] = Addresses(), Browsers()
    service.follow(app[ADDRESSES].adopt)
    service.follow(app[BROWSERS].adopt)
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
        resource.add_route("*", others(*handlers), expect_handler=_expect)
    docs.add_files(app)
    if service.settings.mcp.enabled:
        mcp.add(app, service, expect_handler=_expect)
    return app


@middleware
async def guard(request: Request, handler: Handler) -> StreamResponse:
    """Every request has a name, and is witnessed."""
    service = request.app[SERVICE]
    name, status, began = name_of(request), None, perf_counter()
    in_force = request_id.set(name)
    try:
        with service.handling():
            response = await _answer(service, request, handler)
        status = response.status
        return response
    finally:
        witness(service, request, name, status, perf_counter() - began)
        request_id.reset(in_force)


async def _answer(service: Service, request: Request, handler: Handler) -> StreamResponse:
    """Only those who may get through; whatever goes wrong is answered in the envelope."""
    addresses, browsers = request.app[ADDRESSES], request.app[BROWSERS]
    try:
        whence = request[WHENCE] = addresses.find(request)
        addresses.check(request, whence)
        browsers.check(request, whence, is_open=service.door.is_open)
        response = await _let_in(service, request, handler)
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
        refusal = service.door.veil.redaction.failure(failure(error))
        if refusal.status in TURNED_AWAY:
            service.audit.turn_away(request, refusal, operation_of(request))
        answer = failed(refusal, service.clock())
        pack(request, answer)
        return answer


async def _let_in(service: Service, request: Request, handler: Handler) -> StreamResponse:
    """For as long as the key is in force with which they came."""
    needs_none = is_open(request.method, request.path) or (
        service.settings.security.open_metrics and request.path == METRICS_PATH
    )
    admitted = await _admit(service, request, needs_none)
    patience = asyncio.timeout(None)
    try:
        async with patience:
            with service.door.inside(admitted, patience):
                return await handler(request)
    except TimeoutError:
        if patience.expired():
            raise no_longer_in_force() from None
        raise


async def _admit(service: Service, request: Request, needs_none: bool) -> Admitted:
    """Who comes in, unless too often."""
    if request.path in PROBES:
        return OPEN
    visit = Visit(service.rates, request, endpoint_class(request))
    visit.arrive()
    door = service.door
    admitted = OPEN
    if not needs_none:
        admitted = await visit.admit(door.shown(request), partial(door.admit, request))
        request[WHO] = admitted.caller.name
    visit.identify(admitted.caller.name)
    return admitted


async def _mark(request: Request, response: StreamResponse) -> None:
    response.headers[REQUEST_ID] = name_of(request)
    if (standing := request.get(STANDING)) is not None:
        response.headers.update(headers(standing))
    request.app[BROWSERS].mark(request, response)


async def _expect(request: Request) -> StreamResponse | None:
    """A client that asks first is told at once if it need not send the body."""
    service, addresses = request.app[SERVICE], request.app[ADDRESSES]
    try:
        whence = request[WHENCE] = addresses.find(request)
        addresses.check(request, whence)
        if request.headers["Expect"].lower() != "100-continue":
            raise Failure(417, "EXPECTATION_FAILED", "the only expectation known here is 100-continue")
        check_length(service, request)
        if request.path not in PROBES:
            Visit(service.rates, request, endpoint_class(request)).arrive()
    except (Failure, Invalid) as error:
        refusal = failure(error)
        witness(service, request, name_of(request), refusal.status, 0)
        return failed(refusal, service.clock())
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # that was not the answer yet
    return None


def _handler(service: Service, route: Route) -> Handler:
    offered = told_of(route.handler).media
    action = operation_id(route.handler)

    async def handle(request: Request) -> StreamResponse:
        check_scope(route.scope)
        if route.is_audited:
            answer: StreamResponse = await service.audit.over(request, action, partial(do, request))
            return answer
        return await do(request)

    async def do(request: Request) -> StreamResponse:
        asked: Any
        choose(request, offered)
        known = route.about(request)
        if route.is_read:
            asked = decode_query(request.query, route.asks, **known)
        else:
            asked = await take_in(service, request, lambda body: decode(body, route.asks, **known))
        return await route.handler(service, asked, request)

    return handle
