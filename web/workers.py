"""Who works here."""

from typing import TypedDict

from aiohttp.web import Request, Response

from dispatcher.presence import Connection, Worker, together
from web.access.calling import caller
from web.answers import ok
from web.bodies import Nothing
from web.codec import rfc3339
from web.service import Service


class WorkerView(TypedDict):
    worker_id: str
    work_directories: list[str]
    working: list[str]
    last_seen_at: str
    connection: Connection


class Workers(TypedDict):
    workers: list[WorkerView]


async def listing(service: Service, asked: Nothing, request: Request) -> Response:
    """Every worker with a name that was seen within the last hour, by name: where, at what, and how it is connected."""
    found = together(await service.present(), await service.record.held())
    seen = ((worker, [*filter(caller.get().sees, worker.work_directories)]) for worker in found)
    said: Workers = {"workers": [_view(worker, paths) for worker, paths in seen if paths or caller.get().reach is None]}
    return ok(said, service.clock())


def _view(worker: Worker, work_directories: list[str]) -> WorkerView:
    return {
        "worker_id": worker.worker_id,
        "work_directories": work_directories,
        "working": list(worker.working),
        "last_seen_at": rfc3339(worker.last_seen_at),
        "connection": worker.connection,
    }
