"""Claude Code: `.mcp.json`, a skill, and a hook in `.claude/settings.json`."""

import json
from collections.abc import Sequence
from pathlib import Path

from task_orchestrator.hook.command import DEFAULT_URL
from task_orchestrator.kit.entries import hook_command, hooks, server
from task_orchestrator.kit.parts import Part, Unfit
from task_orchestrator.kit.texts import ABOUT, AT_ONCE, BY_HOOK, work_loop

AFTERWARDS = """\
Claude Code asks once whether it may use the server of .mcp.json, and reads the hook when it starts. Then:
  export TASK_ORCHESTRATOR_API_KEY=...   # if the server wants a key; it is written nowhere
  claude --allowedTools 'mcp__task-orchestrator' 'Work off the queue'"""

EVENTS = ("PostToolUse", "PostToolUseFailure")
_OWNED = "<!-- Written by `task-orchestrator kit`, which also takes it away: what is changed here is lost then. -->"


def parts(directory: Path, program: Sequence[str], url: str | None) -> list[Part]:
    command, *arguments = program
    entry = {
        "command": command,
        "args": [*arguments, "mcp"],
        "env": {
            "TASK_ORCHESTRATOR_URL": f"${{TASK_ORCHESTRATOR_URL:-{url or DEFAULT_URL}}}",
            "TASK_ORCHESTRATOR_API_KEY": "${TASK_ORCHESTRATOR_API_KEY:-}",
        },
    }
    return [
        server(".mcp.json", entry),
        hooks(".claude/settings.json", EVENTS, hook_command(program, url)),
        _skill(str(directory)),
    ]


def _skill(directory: str) -> Part:
    head = f"---\nname: task-orchestrator\ndescription: {json.dumps(ABOUT)}\n---\n\n{_OWNED}\n\n"

    def put(text: str | None) -> str:
        if text is not None and _OWNED not in text:
            raise Unfit("is not from here: rename it or take it away")
        return head + work_loop(directory, AT_ONCE, BY_HOOK)

    def take(text: str) -> str | None:
        return None if _OWNED in text else text

    return Part(".claude/skills/task-orchestrator/SKILL.md", put, take)
