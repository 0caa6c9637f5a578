"""Is it alive, is it ready, is it well?"""

import asyncio
from typing import Literal, NotRequired, TypedDict, cast

from aiohttp.web import Request, Response

from dispatcher.mailbox import MAILBOX_MAX
from web.answers import plain
from web.bodies import Nothing
from web.codec import rfc3339
from web.process import memory_limit_bytes, resident_bytes
from web.service import Service
from web.webhooks import WebhookHealth

MAILBOX_CROWDED = MAILBOX_MAX * 4 // 5  # messages; soon new ones will be turned down
OLD_SECONDS = 2  # a message that waits longer shows that more comes than can be done
DISK_LOW_PERCENT = 5  # of a small disk; on a large one
DISK_LOW_BYTES = 2**30  # so much is enough
MEMORY_HIGH = 0.9  # of what there is


class Component(TypedDict):
    healthy: bool


class Database(Component):
    response_time_ms: float
    last_checked: str


class Mailbox(Component):
    mailbox: int
    oldest_message_ms: int
    batches: int
    messages: int


class Disk(Component):
    free_bytes: NotRequired[int]
    free_percent: NotRequired[float]


class EventLoop(Component):
    lag_ms: float
    max_lag_ms: float


class Memory(Component):
    resident_bytes: int
    limit_bytes: int


class Backups(Component):
    configured: bool


class Components(TypedDict):
    database: Database
    dispatcher: Mailbox
    disk: Disk
    event_loop: EventLoop
    memory: Memory
    backups: Backups
    webhooks: WebhookHealth


class Figures(TypedDict):
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
    database: Literal["connected", "not writable", "unreachable"]
    active_tasks: int
    components: Components
    metrics: Figures


class Starting(TypedDict):
    """So much is known of it before it has read its record."""

    status: Literal["unhealthy"]
    timestamp: str
    version: str
    database: Literal["unreachable"]


class Alive(TypedDict):
    status: Literal["alive"]


class Ready(TypedDict):
    status: Literal["ready", "starting", "draining", "cut off"]


async def health(service: Service, asked: Nothing, request: Request) -> Response:
    """How the server and its parts are: unhealthy if the record cannot be written, degraded if less is amiss."""
    database, disk, waiting, working = await asyncio.gather(
        _database(service), _disk(service), service.looks.waiting(), service.looks.working()
    )
    components: Components = {
        "database": database,
        "dispatcher": _dispatcher(service),
        "disk": disk,
        "event_loop": _event_loop(service),
        "memory": _memory(),
        "backups": {"healthy": True, "configured": False},
        "webhooks": service.courier.health(),
    }
    well = database["healthy"] and service.dispatcher.running
    best = all(cast(Component, part)["healthy"] for part in components.values())
    now, uptime_seconds = service.clock(), (service.clock() - service.started_at) // 1000
    said: Health = {
        "status": "unhealthy" if not well else "healthy" if best else "degraded",
        "timestamp": rfc3339(now),
        "version": service.version,
        "uptime": _in_words(uptime_seconds),
        "uptime_seconds": uptime_seconds,
        "database": "connected" if database["healthy"] else "unreachable" if waiting.value is None else "not writable",
        "active_tasks": working.value or 0,
        "components": components,
        "metrics": {
            "memory_usage": components["memory"]["resident_bytes"],
            "cpu_usage": round(service.pulse.cpu_percent, 1),
            "active_connections": service.requests,
            "queue_size": waiting.value,
        },
    }
    return plain(said, 200 if well else 503)


async def live(service: Service, asked: Nothing, request: Request) -> Response:
    """It answers."""
    return plain({"status": "alive"}, 200)


async def ready(service: Service, asked: Nothing, request: Request) -> Response:
    """Whether it takes requests: neither before it has read its record nor once it is told to stop, nor while it cannot
    reach its database, which other instances perhaps can."""
    if service.draining.is_set() or not service.dispatcher.running:
        return plain({"status": "draining"}, 503)
    if service.dispatcher.is_cut_off:
        return plain({"status": "cut off"}, 503)
    return plain({"status": "ready"}, 200)


async def _database(service: Service) -> Database:
    """Whether the record can be written."""
    probed = await service.looks.is_writable()
    return {
        "healthy": probed.value is True and not service.dispatcher.short_of_room,
        "response_time_ms": round(probed.spent_seconds * 1000, 2),
        "last_checked": rfc3339(probed.at),
    }


def _dispatcher(service: Service) -> Mailbox:
    dispatcher = service.dispatcher
    mailbox, oldest_seconds = dispatcher.mailbox_size, dispatcher.oldest_seconds
    return {
        "healthy": dispatcher.running and mailbox < MAILBOX_CROWDED and oldest_seconds < OLD_SECONDS,
        "mailbox": mailbox,
        "oldest_message_ms": round(oldest_seconds * 1000),
        "batches": dispatcher.batches,
        "messages": dispatcher.messages,
    }


async def _disk(service: Service) -> Disk:
    room = (await service.looks.room()).value
    if room is None:
        return {"healthy": False}
    if room.free_bytes is None or room.total_bytes is None:
        return {"healthy": not service.dispatcher.short_of_room}
    percent = round(100 * room.free_bytes / max(room.total_bytes, 1), 1)
    is_low = percent < DISK_LOW_PERCENT and room.free_bytes < DISK_LOW_BYTES
    healthy = not is_low and not service.dispatcher.short_of_room
    return {"healthy": healthy, "free_bytes": room.free_bytes, "free_percent": percent}


def _event_loop(service: Service) -> EventLoop:
    pulse = service.pulse
    lag, worst = (round(seconds * 1000, 2) for seconds in (pulse.lag_seconds, pulse.worst_seconds))
    return {"healthy": pulse.keeps_up, "lag_ms": lag, "max_lag_ms": worst}


def _memory() -> Memory:
    resident, limit = resident_bytes(), memory_limit_bytes()
    return {"healthy": resident < MEMORY_HIGH * limit, "resident_bytes": resident, "limit_bytes": limit}


def _in_words(seconds: int) -> str:
    minutes = seconds // 60
    return f"{minutes // 60}h{minutes % 60}m"
