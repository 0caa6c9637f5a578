"""The real server, but that its endpoint serves the fixture: python -m tests.mcp.fixture_server serve …"""

from web.mcp import server

from task_orchestrator.cli import main
from tests.mcp import fixture

if __name__ == "__main__":
    server.build = fixture.build
    main()
