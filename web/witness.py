"""Sees every request end: what it was, what came of it, and how long it took."""

from aiohttp.web import Request

from web.access.addresses import address_of
from web.metrics import OTHER
from web.server_log import Answered
from web.service import Service


def witness(service: Service, request: Request, request_id: str, status: int | None, seconds: float) -> None:
    """`status` is None if nobody was there any more to be answered. Costs little: the line is made elsewhere."""
    match = request.match_info
    resource = match.route.resource
    route = resource.canonical if resource else None
    known = match.route.method
    service.metrics.answered(OTHER if known == "*" else known, route, status, seconds)
    if service.log.tells_requests:
        task_id = match.get("task_id")
        service.log.request(
            Answered(
                service.clock(),
                request_id,
                request.method,
                route,
                task_id,
                request.path,
                status,
                seconds,
                address_of(request),
            )
        )
