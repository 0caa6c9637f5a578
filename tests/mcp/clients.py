"""Callers over MCP: the SDK's own client, of either kind of revision, with a key if there is one."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.conftest import ServerProcess
from tests.web.conftest import PATIENCE_SECONDS, Api

OLD, NEW = "legacy", "2026-07-28"
ADMIN = "the-key-that-is-a-setting"


@asynccontextmanager
async def agent(
    server: ServerProcess, key: str | None = None, mode: str = NEW, **options: Any
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS, verify=False) as http,
        Client(
            streamable_http_client(f"{server.url}/mcp", http_client=http),
            mode=mode,
            cache=None,
            read_timeout_seconds=PATIENCE_SECONDS,
            **options,
        ) as client,
    ):
        yield client


async def read(client: Client, uri: str) -> Any:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, types.TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    return json.loads(content.text)


@asynccontextmanager
async def refused(code: int) -> AsyncIterator[pytest.ExceptionInfo[MCPError]]:
    with pytest.raises(MCPError) as caught:
        yield caught
    assert caught.value.code == code, caught.value.error


async def key(admin: Api, name: str, *scopes: str, **fields: Any) -> str:
    made = await admin.post("/api/v1/keys", {"name": name, "scopes": scopes, **fields})
    return str(made.data["key"])
