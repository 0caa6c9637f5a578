"""What the route table is made of."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp.typedefs import Handler
from aiohttp.web import HTTPMethodNotAllowed, Request, Response, StreamResponse
from attrs import frozen

from dispatcher.caller import Scope
from dispatcher.errors import TaskNotFound
from dispatcher.fields import TASK_ID
from web.bodies import Nothing, Path
from web.codec import decode_query
from web.service import Service

AUDITED = ("operate", "admin")  # whatever is done with these goes into the audit log

Handle = Callable[[Service, Any, Request], Awaitable[StreamResponse]]


def by_id(request: Request) -> Mapping[str, object]:
    """The path names the task."""
    if request.method not in ("GET", "HEAD") and request.query_string:
        decode_query(request.query, Nothing)
    if not TASK_ID.fullmatch(request.match_info.get("task_id", "none")):
        raise TaskNotFound("of this id")
    return request.match_info


def by_path(request: Request) -> Mapping[str, object]:
    """The query names the work directory."""
    return {"work_directory": decode_query(request.query, Path).path}


@frozen
class Route:
    """`asks` is what a request says: a GET in its query, any other in its body; `about` fills the rest. `says` is the
    data of the answer, a TypedDict or a union with None; None: the answer is not JSON. `scope`: what a key must be for,
    if not any will do. `lets_in`: whoever asks for it becomes somebody who may do more. The rest of what is told to the
    world stands in web/operations.py."""

    method: str
    path: str
    handler: Handle
    asks: type
    about: Callable[[Request], Mapping[str, object]] = by_id
    says: Any = None
    scope: Scope | None = None
    lets_in: bool = False

    @property
    def is_read(self) -> bool:
        return self.method == "GET"

    @property
    def is_audited(self) -> bool:
        return self.lets_in or (not self.is_read and self.scope in AUDITED)


def others(*methods: str) -> Handler:
    """What any other method gets."""
    allowed = sorted({*methods, "OPTIONS"})

    async def handle(request: Request) -> StreamResponse:
        if request.method == "OPTIONS":
            return Response(status=204, headers={"Allow": ", ".join(allowed)})
        raise HTTPMethodNotAllowed(request.method, allowed)

    return handle
