"""`task-orchestrator hook`: what Claude Code and Codex run after every use of a tool, so that an agent that works keeps
its lease without thinking of it. It is in a hurry: nothing but the standard library is imported."""
