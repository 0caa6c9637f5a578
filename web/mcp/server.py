"""What the SDK is told of us."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from web.mcp.calls import listing, using
from web.mcp.completions import complete
from web.mcp.prompts import get_prompt, list_prompts
from web.mcp.resources import list_resource_templates, list_resources, read_resource
from web.mcp.subscriptions import subscribe, subscriptions_listen, unsubscribe
from web.mcp.tools import TOOLS
from web.service import Service
from web.settings import Settings

NAME = "task-orchestrator"
INSTRUCTIONS = """\
A queue of tasks for coding agents. A task is a prompt that stands on its own and the work directory it belongs to.
To work: claim_next_task with your work directory; do what the prompt says; heartbeat_task every few minutes with the \
lease_token; then complete_task with the result, fail_task with what went wrong, or release_task if it is not for you. \
Go on until no task comes. A lost lease means somebody else may have the task: stop working on it.
To hand out work: create_task, or create_tasks for several that depend on each other."""
SESSIONS_MAX = 1000


def build(service: Service) -> Server[Any]:
    has_sessions = service.settings.mcp.sessions  # without one there is nobody to be told later
    return Server(
        NAME,
        title="Task Orchestrator",
        version=service.version,
        instructions=INSTRUCTIONS,
        get_tool_input_schema=input_schema,
        on_list_tools=partial(listing, service),
        on_call_tool=partial(using, service),
        on_list_resources=partial(list_resources, service),
        on_list_resource_templates=partial(list_resource_templates, service),
        on_read_resource=partial(read_resource, service),
        on_subscribe_resource=partial(subscribe, service) if has_sessions else None,
        on_unsubscribe_resource=partial(unsubscribe, service) if has_sessions else None,
        on_subscriptions_listen=partial(subscriptions_listen, service),
        on_list_prompts=partial(list_prompts, service),
        on_get_prompt=partial(get_prompt, service),
        on_completion=partial(complete, service),
    )


def manage(server: Server[Any], settings: Settings) -> StreamableHTTPSessionManager:
    """Hosts and origins have been looked at already."""
    return StreamableHTTPSessionManager(
        server,
        stateless=not settings.mcp.sessions,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=settings.server.max_body_bytes,
        max_sessions=SESSIONS_MAX,
    )


def input_schema(name: str) -> Mapping[str, Any] | None:
    return TOOLS[name].takes if name in TOOLS else None
