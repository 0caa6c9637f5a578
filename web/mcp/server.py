"""What the SDK is told of us."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import mcp_types as types
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from web.access.calling import caller
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


class Told(Server[Any]):
    """The SDK takes it that who tells of one list tells of all. Those of tools and prompts never change."""

    def get_capabilities(self, *given: Any, **named: Any) -> types.ServerCapabilities:
        can = super().get_capabilities(*given, **named)
        assert can.tools
        assert can.prompts
        can.tools.list_changed = can.prompts.list_changed = False
        return can


def build(service: Service) -> Server[Any]:
    has_sessions = service.settings.mcp.sessions  # without one there is nobody to be told later
    return Told(
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


class Sessions(StreamableHTTPSessionManager):
    """Each is for the key that began it."""

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (name := caller.get().name) is not None:
            scope["user"] = AuthenticatedUser(AccessToken(token=name, client_id=name, scopes=[]))
        await super().handle_request(scope, receive, send)


def manage(server: Server[Any], settings: Settings) -> StreamableHTTPSessionManager:
    """Hosts and origins have been looked at already."""
    return Sessions(
        server,
        stateless=not settings.mcp.sessions,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=settings.server.max_body_bytes,
        max_sessions=SESSIONS_MAX,
    )


def input_schema(name: str) -> Mapping[str, Any] | None:
    return TOOLS[name].takes if name in TOOLS else None
