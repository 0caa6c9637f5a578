"""What the tests of MCP share, beside what they share with those of the web."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conftest import ServerProcess
from tests.mcp.clients import ADMIN
from tests.web.conftest import Api, api, connected, directory, here, pair, shared, shared_url

__all__ = ["admin", "api", "directory", "here", "locked", "name", "pair", "shared", "shared_url"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, record: str | None) -> Iterator[ServerProcess]:
    """A server that wants a key."""
    server = ServerProcess(tmp_path_factory.mktemp("keys"), environ={"API_SECRET_KEY": ADMIN}, record=record).start()
    yield server
    assert server.terminate() == 0


@pytest.fixture
async def admin(locked: ServerProcess) -> AsyncIterator[Api]:
    async with connected(locked, Authorization=f"Bearer {ADMIN}") as caller:
        yield caller


@pytest.fixture
def name(directory: str) -> str:
    """Of a key that no other test uses."""
    return directory.strip("/").replace("/", ".")
