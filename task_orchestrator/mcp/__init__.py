"""`task-orchestrator mcp`: MCP over standard input and output, for clients that want a command.

Messages pass as they are, to the server's `POST /mcp` and back: what the tools are is known to the server alone.
"""
