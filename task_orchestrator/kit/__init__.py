"""`task-orchestrator kit`: the files by which Claude Code and Codex know of the queue, written into a project."""
