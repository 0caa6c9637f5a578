"""A task's life, led by the official client of MCP as it was before 2.0: python -m tests.mcp.client_1 URL DIRECTORY

It has a folder of packages of its own, and sees no others (see tools.FORMER_CLIENT).
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Any

from tests.mcp.life import TOOLS, live


async def main(url: str, directory: str) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(url) as (reading, writing, _), ClientSession(reading, writing) as session:
        begun = await session.initialize()

        async def call(tool: str, **arguments: Any) -> tuple[Any, bool]:
            answer = await session.call_tool(tool, arguments)
            return answer.structuredContent or answer.content[0].text, answer.isError

        assert {it.name for it in (await session.list_tools()).tools} == TOOLS
        await live(call, directory)
        listed = {it.name: it.uri for it in (await session.list_resources()).resources}
        (content,) = (await session.read_resource(listed[directory])).contents
        assert f'"work_directory":"{directory}"' in content.text
    print(version("mcp"), begun.protocolVersion)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
