"""Is it alive, is it ready, is it well?"""

import asyncio
import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from aiohttp.web import Request, Response

from dispatcher.errors import RecordFailed
from web.bodies import Nothing
from web.codec import encode, rfc3339
from web.service import Service

PATIENCE_SECONDS = 2  # a database that takes longer is not well


class Component(TypedDict):
    """What else is known of it depends on which one it is."""

    healthy: bool
    response_time_ms: NotRequired[float]
    last_checked: NotRequired[str]
    mailbox: NotRequired[int]
    batches: NotRequired[int]
    messages: NotRequired[int]


class HealthMetrics(TypedDict):
    """Memory in bytes, processor time in per cent of one core since the start."""

    memory_usage: int
    cpu_usage: float
    active_connections: int
    queue_size: int | None


class Health(TypedDict):
    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: str
    version: str
    uptime: str
    uptime_seconds: int
    database: Literal["connected", "unreachable"]
    active_tasks: int
    components: Mapping[str, Component]
    metrics: HealthMetrics


class Alive(TypedDict):
    status: Literal["alive"]


class Ready(TypedDict):
    status: Literal["ready", "draining"]


async def health(service: Service, asked: Nothing, request: Request) -> Response:
    """Is the server well, and each of its parts?"""
    now = service.clock()
    database, queue_size = await _database(service)
    dispatcher: Component = {
        "healthy": service.dispatcher.running,
        "mailbox": service.dispatcher.mailbox_size,
        "batches": service.dispatcher.batches,
        "messages": service.dispatcher.messages,
    }
    well = database["healthy"] and dispatcher["healthy"]
    disk: Component = {"healthy": not service.dispatcher.short_of_room}
    uptime_seconds = (now - service.started_at) // 1000
    told: Health = {
        "status": "unhealthy" if not well else "healthy" if disk["healthy"] else "degraded",
        "timestamp": rfc3339(now),
        "version": service.version,
        "uptime": _in_words(uptime_seconds),
        "uptime_seconds": uptime_seconds,
        "database": "connected" if database["healthy"] else "unreachable",
        "active_tasks": service.dispatcher.working,
        "components": {"database": database, "dispatcher": dispatcher, "disk": disk},
        "metrics": {
            "memory_usage": _resident_bytes(),
            "cpu_usage": round(100 * time.process_time() / max(uptime_seconds, 1), 1),
            "active_connections": service.requests,
            "queue_size": queue_size,
        },
    }
    return _plain(told, 200 if well else 503)


async def live(service: Service, asked: Nothing, request: Request) -> Response:
    """Does the process answer?"""
    told: Alive = {"status": "alive"}
    return _plain(told, 200)


async def ready(service: Service, asked: Nothing, request: Request) -> Response:
    """Should the server be sent requests?"""
    is_ready = service.dispatcher.running and not service.draining.is_set()
    told: Ready = {"status": "ready" if is_ready else "draining"}
    return _plain(told, 200 if is_ready else 503)


async def _database(service: Service) -> tuple[Component, int | None]:
    """The state of the database, and how many tasks wait in it."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            waiting = await service.record.waiting(None)
    except (RecordFailed, TimeoutError):
        waiting = None
    spent_ms = round((time.perf_counter() - began) * 1000, 2)
    checked = rfc3339(service.clock())
    return {"healthy": waiting is not None, "response_time_ms": spent_ms, "last_checked": checked}, waiting


def _in_words(seconds: int) -> str:
    minutes = seconds // 60
    return f"{minutes // 60}h{minutes % 60}m"


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the peak instead
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _plain(body: object, status: int) -> Response:
    return Response(body=encode(body), status=status, content_type="application/json", charset="utf-8")
