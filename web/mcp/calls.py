"""Calls of tools: which there are, what was asked, who may, and what is said where it goes wrong."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from web.access.audit import OK, TURNED_AWAY
from web.access.calling import caller
from web.access.door import check_scope
from web.access.limiting import Visit
from web.answers import Failure, failure
from web.codec import Fault, Invalid, encode, structure
from web.mcp.bodies import NamedTask, NamedWorker
from web.mcp.bridge import PASSAGE, Passage
from web.mcp.call import Call
from web.mcp.hints import HINTS
from web.mcp.tools import TOOLS, Tool
from web.service import Service

Context = ServerRequestContext[Any, Any]

WORKER_ID = "X-Worker-Id"
ERROR_CHARACTERS_MAX = 8000  # clients cut what is longer


async def listing(service: Service, context: Context, params: object) -> types.ListToolsResult:
    """Those that the caller may use."""
    return types.ListToolsResult(tools=[_told(tool) for tool in TOOLS.values() if caller.get().may(tool.scope)])


async def using(service: Service, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    tool = TOOLS.get(params.name)
    if tool is None:
        raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:100]!r}; there are {', '.join(TOOLS)}")
    assert context.request is not None
    passage: Passage = context.request.scope[PASSAGE]
    try:
        said = await _use(service, tool, context, passage, params.arguments or {})
    except Exception as error:
        service.dispatcher.give_back(passage.claimed)  # nobody is told of them
        passage.claimed = ()
        refusal = service.door.veil.redaction.failure(failure(error))
        service.metrics.called(tool.name, refusal.code)
        if refusal.status in TURNED_AWAY:
            service.audit.turn_away(passage.request, refusal, f"mcp {tool.name}")
        return types.CallToolResult(content=[_text(_explained(refusal))], is_error=True)
    service.metrics.called(tool.name, OK)
    return types.CallToolResult(content=[_text(encode(said).decode())], structured_content=said)


async def _use(service: Service, tool: Tool, context: Context, passage: Passage, arguments: Mapping[str, Any]) -> Any:
    check_scope(tool.scope)
    Visit(service.rates, passage.request, tool.scope).use(caller.get().name)
    asked: Any = _read(tool, arguments)
    call = Call(
        service=service,
        passage=passage,
        worker_id=_worker_id(passage),
        arguments=arguments,
        progress=context.session.report_progress,
    )
    do = partial(tool.handler, call, asked)
    return await (service.audit.over(passage.request, tool.name, do) if tool.scope == "operate" else do())


def _read(tool: Tool, arguments: Mapping[str, Any]) -> Any:
    """Raises Invalid, which names all faults."""
    if not tool.names_task:
        return structure(arguments, tool.asks)
    faults: list[Fault] = []
    task_id, asked = "", cast(Any, None)
    try:
        task_id = structure({name: it for name, it in arguments.items() if name == "task_id"}, NamedTask).task_id
    except Invalid as invalid:
        faults += invalid.faults
    try:
        rest = {name: it for name, it in arguments.items() if name != "task_id"}
        asked = structure(rest, tool.asks, task_id=task_id)
    except Invalid as invalid:
        faults += invalid.faults
    if faults:
        raise Invalid(faults)
    return asked


def _worker_id(passage: Passage) -> str | None:
    given = passage.request.headers.get(WORKER_ID)
    if given is None:
        return None
    try:
        return structure({"worker_id": given}, NamedWorker).worker_id
    except Invalid as invalid:
        raise Invalid([Fault(WORKER_ID, fault.reason) for fault in invalid.faults]) from None


def _explained(refusal: Failure) -> str:
    """What went wrong, every fault of it, and what to do about it."""
    lines = [f"{refusal.code}: {refusal.message}"]
    errors: Any = refusal.details.get("errors", ())
    if len(errors) > 1:
        lines += [f"- {error['field']}: {error['reason']}" for error in errors]
    details = {name: it for name, it in refusal.details.items() if name not in ("errors", "field", "reason")}
    if details:
        lines.append(encode(details).decode())
    if hint := HINTS.get(refusal.code):
        lines.append(hint)
    return "\n".join(lines)[:ERROR_CHARACTERS_MAX]


def _told(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.takes,
        output_schema=tool.gives,
        annotations=types.ToolAnnotations(
            read_only_hint=tool.reads,
            destructive_hint=tool.destroys,
            idempotent_hint=tool.reads or tool.repeats,
            open_world_hint=False,
        ),
    )


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)
