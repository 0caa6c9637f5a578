"""Is it alive, is it ready, is it well?"""

import asyncio
import os
import resource
import sys
import time
from typing import Any

from aiohttp.web import Request, Response

from dispatcher.errors import RecordFailed
from web.bodies import Nothing
from web.codec import encode, rfc3339
from web.service import Service

PATIENCE_SECONDS = 2  # a database that takes longer is not well


async def health(service: Service, asked: Nothing, request: Request) -> Response:
    now = service.clock()
    database, queue_size = await _database(service)
    dispatcher = {
        "healthy": service.dispatcher.running,
        "mailbox": service.dispatcher.mailbox_size,
        "batches": service.dispatcher.batches,
        "messages": service.dispatcher.messages,
    }
    well = database["healthy"] and dispatcher["healthy"]
    disk = {"healthy": not service.dispatcher.short_of_room}
    uptime_seconds = (now - service.started_at) // 1000
    return _plain(
        {
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
        },
        200 if well else 503,
    )


async def live(service: Service, asked: Nothing, request: Request) -> Response:
    return _plain({"status": "alive"}, 200)


async def ready(service: Service, asked: Nothing, request: Request) -> Response:
    if service.draining.is_set() or not service.dispatcher.running:
        return _plain({"status": "draining"}, 503)
    return _plain({"status": "ready"}, 200)


async def _database(service: Service) -> tuple[dict[str, Any], int | None]:
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
