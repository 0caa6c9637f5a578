"""What there is to be read: tasks, work directories, and how the queue stands. Each as JSON, as REST says it, without
what is null."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

import mcp_types as types

from dispatcher.hub import EVERYTHING, Topic
from web.access.calling import caller
from web.access.door import check_scope
from web.codec import encode
from web.mcp.answers import compact, plain, whole
from web.mcp.errors import Context, answering, no_such_resource, wrong
from web.mcp.handlers import stats
from web.mcp.uris import DIRECTORY_TEMPLATE, QUEUE, TASK_TEMPLATE, topic_of, uri_of
from web.service import Service
from web.views import directory, shown

PAGE_SIZE = 100
JSON = "application/json"

STATS = types.Resource(
    uri=QUEUE,
    name="queue_stats",
    title="Queue statistics",
    description="How many tasks there are in each status and work directory.",
    mime_type=JSON,
)
TEMPLATES = [
    types.ResourceTemplate(
        uri_template=TASK_TEMPLATE,
        name="task",
        title="Task",
        description="A task: its prompt, where it stands, and what came of it.",
        mime_type=JSON,
    ),
    types.ResourceTemplate(
        uri_template=DIRECTORY_TEMPLATE,
        name="work_directory",
        title="Work directory",
        description="How many tasks lie in a work directory, who waits there, and which rules hold.",
        mime_type=JSON,
    ),
]


@answering
async def list_resources(
    service: Service, ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    """How the queue stands, and then the work directories by name; of tasks there are too many. To a key that may read
    nothing there is nothing."""
    if not caller.get().may("read"):
        return types.ListResourcesResult(resources=[])
    cursor = params.cursor if params else None
    after = "" if cursor is None else _read(cursor)
    paths = await service.record.directories_after(after, PAGE_SIZE + 1)
    resources = [types.Resource(uri=uri_of(path), name=path, mime_type=JSON) for path in paths[:PAGE_SIZE]]
    return types.ListResourcesResult(
        resources=resources if cursor else [STATS, *resources],
        next_cursor=_write(paths[PAGE_SIZE - 1]) if len(paths) > PAGE_SIZE else None,
    )


@answering
async def list_resource_templates(
    service: Service, ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    if params and params.cursor is not None:
        raise wrong("cursor", "must not be given: there is one page")
    return types.ListResourceTemplatesResult(resource_templates=TEMPLATES if caller.get().may("read") else [])


@answering
async def read_resource(
    service: Service, ctx: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    check_scope("read")
    topic = topic_of(params.uri)
    view = await _view(service, topic) if topic else None
    if view is None:
        raise no_such_resource(ctx, params.uri)
    text = encode(view).decode()
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, mime_type=JSON, text=text)])


async def _view(service: Service, topic: Topic) -> Mapping[str, Any] | None:
    """None: it is not there, or beyond the caller's work directories."""
    if topic == EVERYTHING:
        return await stats(service.record)
    kind, name = topic
    if kind == "task":
        task = await service.record.task(name)
        return whole(plain(await shown(task))) if task else None
    if not caller.get().sees(name):
        return None
    count = await service.record.directory(name)
    if not count.is_known:
        return None
    return compact(dict[str, Any], directory(count, await service.waiting_in(name), service.clock()))


def _write(path: str) -> str:
    """Where the next page begins: behind this work directory."""
    return urlsafe_b64encode(path.encode()).decode().rstrip("=")


def _read(cursor: str) -> str:
    try:
        path = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
        if path and _write(path) == cursor:
            return path
    except ValueError:
        pass
    raise wrong("cursor", "must be the nextCursor of a page, as it was given")
