"""A server with all that the official conformance suite calls: tools, resources and prompts under names and with
contents that its scenarios know. It stands where ours stands, behind the same endpoint (see fixture_server).
"""

import json
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server.caching import CACHEABLE_METHODS, CacheHint
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler

from tests.mcp.fixture_rounds import ROUNDS, prompt_that_asks
from tests.mcp.fixture_tools import AUDIENCE, CHANGES, IMAGE, TOOLS, text

RESOURCES = [
    types.Resource(uri="test://static-text", name="text", description="Some text", mime_type="text/plain"),
    types.Resource(uri="test://static-binary", name="binary", description="A picture", mime_type="image/png"),
    types.Resource(uri="test://watched-resource", name="watched", description="Subscribed to", mime_type="text/plain"),
]
TEMPLATE = types.ResourceTemplate(
    uri_template="test://template/{id}/data",
    name="template",
    description="Whatever is asked",
    mime_type="application/json",
)
PROMPTS = [
    types.Prompt(name="test_simple_prompt", description="Without arguments"),
    types.Prompt(
        name="test_prompt_with_arguments",
        description="With two",
        arguments=[types.PromptArgument(name=it, description="Any text", required=True) for it in ("arg1", "arg2")],
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource",
        description="With a resource in it",
        arguments=[types.PromptArgument(name="resourceUri", description="Which", required=True)],
    ),
    types.Prompt(name="test_prompt_with_image", description="With a picture in it"),
    types.Prompt(name="test_input_required_result_prompt", description="Asks before it answers"),
]


def build(_: object = None) -> Server[Any]:
    bus = InMemorySubscriptionBus()
    tools = {**TOOLS, **ROUNDS}

    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> Any:
        if params.name in CHANGES:
            await bus.publish(CHANGES[params.name])
        if (tool := tools.get(params.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"no tool is called {params.name}")
        return await tool.call(ctx, params)

    async def list_tools(*_: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[it.told for it in tools.values()])

    server = Server(
        AUDIENCE,
        version="1",
        cache_hints=dict.fromkeys(CACHEABLE_METHODS, CacheHint()),
        get_tool_input_schema=lambda name: tools[name].told.input_schema if name in tools else None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_templates,
        on_read_resource=_read_resource,
        on_subscribe_resource=_agree,
        on_unsubscribe_resource=_agree,
        on_subscriptions_listen=ListenHandler(bus),
        on_list_prompts=_list_prompts,
        on_get_prompt=_get_prompt,
        on_completion=_complete,
        on_set_logging_level=_agree,
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=AUDIENCE))
    return server


async def _agree(*_: object) -> types.EmptyResult:
    return types.EmptyResult()


async def _list_resources(*_: object) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=RESOURCES)


async def _list_templates(*_: object) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(resource_templates=[TEMPLATE])


async def _read_resource(_: object, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    return types.ReadResourceResult(contents=[_content_of(uri)])


def _content_of(uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    first, _, last = TEMPLATE.uri_template.partition("{id}")
    if uri == "test://static-binary":
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=IMAGE)
    if uri == "test://static-text":
        said = "This is the content of the static text resource."
    elif uri == "test://watched-resource":
        said = "Watched resource content"
    elif uri.startswith(first) and uri.endswith(last):
        name = uri.removeprefix(first).removesuffix(last)
        said = json.dumps({"id": name, "templateTest": True, "data": f"Data for ID: {name}"})
        return types.TextResourceContents(uri=uri, mime_type="application/json", text=said)
    else:
        raise MCPError(types.INVALID_PARAMS, "there is no such resource", {"uri": uri})
    return types.TextResourceContents(uri=uri, mime_type="text/plain", text=said)


async def _list_prompts(*_: object) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=PROMPTS)


async def _get_prompt(_: object, params: types.GetPromptRequestParams) -> Any:
    given = params.arguments or {}
    contents: list[types.ContentBlock]
    match params.name:
        case "test_simple_prompt":
            contents = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            contents = [text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
        case "test_prompt_with_embedded_resource":
            said = "Embedded resource content for testing."
            inside = types.TextResourceContents(uri=given["resourceUri"], mime_type="text/plain", text=said)
            contents = [types.EmbeddedResource(resource=inside), text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            picture = types.ImageContent(data=IMAGE, mime_type="image/png")
            contents = [picture, text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            return prompt_that_asks(params)
        case _:
            raise MCPError(types.INVALID_PARAMS, f"no prompt is called {params.name}")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=it) for it in contents])


async def _complete(*_: object) -> types.CompleteResult:
    return types.CompleteResult(completion=types.Completion(values=["paris", "park"], total=2, has_more=False))
