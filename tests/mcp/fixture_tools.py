"""The tools of the fixture that answer at once, and those that ask the client while they run, as the revisions before
2026-07-28 do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from attrs import frozen
from mcp import MCPError
from mcp.server.subscriptions import PromptsListChanged, ServerEvent, ToolsListChanged

AUDIENCE = "conformance-fixture"
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SOUND = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
STEP_SECONDS = 0.05

# What these tools, which have nothing to say, make known to whoever listens.
CHANGES: dict[str, ServerEvent] = {
    "test_trigger_tool_change": ToolsListChanged(),
    "test_trigger_prompt_change": PromptsListChanged(),
}

Answer = types.CallToolResult | types.InputRequiredResult


@frozen
class FixtureTool:
    told: types.Tool
    call: Callable[[Any, types.CallToolRequestParams], Awaitable[Answer]]


TOOLS: dict[str, FixtureTool] = {}


def text(said: str) -> types.TextContent:
    return types.TextContent(text=said)


def says(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[text(said)])


def tool(
    name: str, schema: dict[str, Any] | None = None, there: dict[str, FixtureTool] = TOOLS
) -> Callable[[Callable[..., Awaitable[Answer]]], Callable[..., Awaitable[Answer]]]:
    """Of this name; `schema`: of its arguments, which it has none of otherwise."""

    def add(call: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
        told = types.Tool(name=name, description=f"What {name} is for", input_schema=schema or {"type": "object"})
        there[name] = FixtureTool(told, call)
        return call

    return add


def always(name: str, *contents: types.ContentBlock) -> None:
    @tool(name)
    async def answer(*_: object) -> Answer:
        return types.CallToolResult(content=list(contents))


def inside(uri: str, mime_type: str, said: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=said))


def strings(*names: str, **more: Any) -> dict[str, Any]:
    """An object that must have these."""
    properties: dict[str, Any] = {name: {"type": "string", "description": f"Its {name}", **more} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


picture = types.ImageContent(data=IMAGE, mime_type="image/png")
always("test_simple_text", text("This is a simple text response for testing."))
always("test_image_content", picture)
always("test_audio_content", types.AudioContent(data=SOUND, mime_type="audio/wav"))
always(
    "test_embedded_resource",
    inside("test://embedded-resource", "text/plain", "This is an embedded resource content."),
)
always(
    "test_multiple_content_types",
    text("Multiple content types test:"),
    picture,
    inside("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
)
for it in CHANGES:
    always(it, text("changed"))


@tool("test_error_handling")
async def fail(*_: object) -> Answer:
    return types.CallToolResult(content=[text("This tool intentionally returns an error for testing")], is_error=True)


@tool("test_tool_with_logging")
async def log_thrice(ctx: Any, _: object) -> Answer:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.session.send_log_message("info", said, related_request_id=ctx.request_id)
        await asyncio.sleep(STEP_SECONDS)
    return says("logged")


@tool("test_logging_tool")
async def log_once(ctx: Any, _: object) -> Answer:
    await ctx.session.send_log_message("info", "Only who asked for it hears this", related_request_id=ctx.request_id)
    return says("logged, if that was wanted")


@tool("test_tool_with_progress")
async def progress(ctx: Any, _: object) -> Answer:
    for percent in (0, 50, 100):
        await ctx.session.report_progress(percent, 100, f"Completed step {percent} of 100")
        await asyncio.sleep(STEP_SECONDS)
    return says("done")


@tool("test_streaming_elicitation")
async def stream(ctx: Any, _: object) -> Answer:
    await ctx.session.report_progress(1, 1)
    return says("streamed, and asked nothing")


@tool("test_missing_capability")
async def need_sampling(ctx: Any, _: object) -> Answer:
    needed = types.ClientCapabilities(sampling=types.SamplingCapability())
    if not ctx.session.check_client_capability(needed):
        data = types.MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        said = data.model_dump(by_alias=True, mode="json", exclude_none=True)
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is needed", said)
    return says("sampling is there")


@tool("test_x_mcp_header", {"type": "object", "properties": {"word": {"type": "string", "x-mcp-header": "Word"}}})
async def repeat(_: object, params: types.CallToolRequestParams) -> Answer:
    return says(str((params.arguments or {}).get("word")))


# Asking the client


@tool("test_sampling", strings("prompt"))
async def sample(ctx: Any, params: types.CallToolRequestParams) -> Answer:
    message = types.SamplingMessage(role="user", content=text((params.arguments or {})["prompt"]))
    said = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return says(f"LLM response: {said.content.text}")


async def elicit(ctx: Any, message: str, schema: dict[str, Any]) -> Answer:
    said = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return says(f"User response: action={said.action}, content={said.content}")


@tool("test_elicitation", strings("message"))
async def elicit_strings(ctx: Any, params: types.CallToolRequestParams) -> Answer:
    return await elicit(ctx, (params.arguments or {})["message"], strings("username", "email"))


@tool("test_elicitation_sep1034_defaults")
async def elicit_defaults(ctx: Any, _: object) -> Answer:
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await elicit(ctx, "Who are you?", {"type": "object", "properties": properties})


@tool("test_elicitation_sep1330_enums")
async def elicit_enums(ctx: Any, _: object) -> Answer:
    names = ["option1", "option2", "option3"]
    titled = [{"const": it, "title": it.capitalize()} for it in names]
    properties = {
        "untitledSingle": {"type": "string", "enum": names},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": names, "enumNames": [it.capitalize() for it in names]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": names}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await elicit(ctx, "Which ones?", {"type": "object", "properties": properties})
