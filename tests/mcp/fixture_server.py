"""The real server, but that its endpoint serves the fixture: python -m tests.mcp.fixture_server serve …"""

import warnings

from mcp import MCPDeprecationWarning

from task_orchestrator.cli import main
from tests.mcp import fixture
from web.mcp import server

if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the older revision has what the newest has no more
    server.build = fixture.build
    main()
