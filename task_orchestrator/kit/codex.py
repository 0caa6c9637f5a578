"""Codex: a server in `.codex/config.toml`, a hook in `.codex/hooks.json`, and a section of `AGENTS.md`."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from task_orchestrator.kit.entries import NAME, hook_command, hooks
from task_orchestrator.kit.parts import Part, Unfit
from task_orchestrator.kit.sections import Marks
from task_orchestrator.kit.texts import A_MOMENT_LATER, BY_HOOK_ONCE_TRUSTED, work_loop

AFTERWARDS = """\
Codex reads .codex/ only in a project that you trust, and runs a hook only once you have trusted that, too: type /hooks.
It tells hooks of commands, patches and MCP tools, but of no other tool: the work loop in AGENTS.md says when to
call heartbeat_task besides. Then:
  export TASK_ORCHESTRATOR_API_KEY=...   # if the server wants a key; it is written nowhere
  codex exec 'Work off the queue'"""

TOOL_SECONDS = 120  # claims wait up to 50
_VARIABLES = [f"TASK_ORCHESTRATOR_{it}" for it in ("URL", "API_KEY", "CA_FILE", "WORKER_ID")]
_TOML = Marks("# task-orchestrator kit: from here", "# task-orchestrator kit: to here")
_MARKDOWN = Marks("<!-- task-orchestrator kit: from here -->", "<!-- task-orchestrator kit: to here -->")


def parts(directory: Path, program: Sequence[str], url: str | None) -> list[Part]:
    return [
        _server(program, url),
        hooks(".codex/hooks.json", ["PostToolUse"], hook_command(program, url)),
        _instructions(str(directory)),
    ]


def _server(program: Sequence[str], url: str | None) -> Part:
    command, *arguments = program
    said = [*arguments, "mcp", *(["--url", url] if url else [])]
    section = "\n".join(
        [
            f"[mcp_servers.{NAME}]",
            f"command = {json.dumps(command)}",  # JSON's strings and lists of them are TOML's
            f"args = {json.dumps(said)}",
            f"env_vars = {json.dumps(_VARIABLES)}",
            f"tool_timeout_sec = {TOOL_SECONDS}",
        ]
    )

    def put(text: str | None) -> str:
        if text is not None:
            _check(_TOML.take(text) or "")
        return _TOML.put(text, section)

    return Part(".codex/config.toml", put, _TOML.take)


def _check(text: str) -> None:
    """That a table of ours can be put at the end of it."""
    try:
        servers = tomllib.loads(text).get("mcp_servers", {})
    except tomllib.TOMLDecodeError as error:
        raise Unfit(f"is not TOML: {error}") from None
    if NAME in servers:
        raise Unfit(f"[mcp_servers.{NAME}] is not from here: rename it or take it out")
    try:
        tomllib.loads(f"{text}\n[mcp_servers.{NAME}]\n")
    except tomllib.TOMLDecodeError:
        raise Unfit("mcp_servers is written in one line: make it tables, such as [mcp_servers.name]") from None


def _instructions(directory: str) -> Part:
    text = work_loop(directory, A_MOMENT_LATER, BY_HOOK_ONCE_TRUSTED)
    return Part("AGENTS.md", lambda there: _MARKDOWN.put(there, text), _MARKDOWN.take)
