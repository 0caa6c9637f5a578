"""What an argument may become of which the beginning is there: the names that the record knows, of work directories and
of tags, as far as the caller may see."""

from collections.abc import Awaitable, Callable, Mapping

import mcp_types as types
from attrs import fields

from dispatcher.record import Names
from web.access.door import check_scope
from web.mcp.errors import Context, answering, wrong
from web.mcp.prompts import template_of
from web.mcp.uris import DIRECTORY_TEMPLATE, TASK_TEMPLATE
from web.service import Service

VALUES_MAX = 100  # the protocol allows no more
CHARACTERS_MAX = 1000  # of a beginning; nothing so long is known
NONE = Names((), 0)

PLACES = {DIRECTORY_TEMPLATE: ("path",), TASK_TEMPLATE: ("task_id",)}


@answering
async def complete(service: Service, ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    check_scope("read")
    name, value = params.argument.name, params.argument.value
    if name not in (known := _arguments(params.ref)):
        raise wrong("argument.name", f"must be one of {', '.join(known)}")
    look = COMPLETED.get(name)
    found = await look(service, value) if look and len(value) <= CHARACTERS_MAX and "\0" not in value else NONE
    return types.CompleteResult(
        completion=types.Completion(
            values=list(found.names),
            total=found.total if found.total_is_exact else None,
            has_more=len(found.names) < found.total,
        )
    )


def _arguments(ref: types.PromptReference | types.ResourceTemplateReference) -> list[str]:
    if isinstance(ref, types.PromptReference):
        return [field.name for field in fields(template_of(ref.name).asks)]
    if ref.uri not in PLACES:
        raise wrong("ref.uri", f"must be one of {', '.join(PLACES)}")
    return list(PLACES[ref.uri])


async def _directories(service: Service, value: str) -> Names:
    return await service.record.directories_like(value, VALUES_MAX)


async def _tags(service: Service, value: str) -> Names:
    """Of a list by comma it is the last one that is written."""
    before, comma, begun = value.rpartition(",")
    found = await service.record.tags_like(begun, VALUES_MAX)
    return Names(tuple(before + comma + tag for tag in found.names), found.total, found.total_is_exact)


COMPLETED: Mapping[str, Callable[[Service, str], Awaitable[Names]]] = {
    "work_directory": _directories,
    "path": _directories,
    "tags": _tags,
}
