"""Agents that print what the real ones do, as small programs."""

import json
import sys
from pathlib import Path

SESSION = "3f0d2c1e-5a6b-4c7d-8e9f-0a1b2c3d4e5f"


def claude_init(session=SESSION, **more):
    tools = ["Task", "Bash", "Glob", "Read", "Edit", "Write", "TodoWrite"]
    facts = {"cwd": "/srv/app", "tools": tools, "mcp_servers": [], "model": "claude-sonnet-4-5", "apiKeySource": "none"}
    return {"type": "system", "subtype": "init", "session_id": session, **facts, "permissionMode": "default", **more}


def claude_says(*blocks, message="msg_1", session=SESSION, parent=None):
    usage = {"input_tokens": 4, "cache_read_input_tokens": 11_664, "output_tokens": 1, "service_tier": "standard"}
    content = {"id": message, "type": "message", "role": "assistant", "model": "m", "content": list(blocks)}
    content |= {"stop_reason": None, "usage": usage}
    return {"type": "assistant", "message": content, "parent_tool_use_id": parent, "session_id": session, "uuid": "u"}


def text(said):
    return {"type": "text", "text": said}


def tool(name, **given):
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}


def tool_result(said, session=SESSION):
    content = [{"tool_use_id": "toolu_1", "type": "tool_result", "content": said, "is_error": False}]
    return {"type": "user", "message": {"role": "user", "content": content}, "session_id": session}


def claude_result(said="All 5 tests pass now.", *, session=SESSION, **more):
    usage = {"input_tokens": 27, "cache_creation_input_tokens": 4890, "cache_read_input_tokens": 66_310}
    usage |= {"output_tokens": 1266, "server_tool_use": {"web_search_requests": 0}, "service_tier": "standard"}
    facts = {"duration_ms": 48_200, "duration_api_ms": 51_033, "num_turns": 3, "total_cost_usd": 0.1234, "usage": usage}
    facts |= {"result": said, "session_id": session, "permission_denials": [], "uuid": "u"}
    return {"type": "result", "subtype": "success", "is_error": False, **facts, **more}


CLAUDE = [
    {"type": "system", "subtype": "hook_started", "hook_name": "SessionStart", "session_id": SESSION},
    claude_init(),
    claude_says(text("I'll look at the tests first."), message="msg_1"),
    claude_says(tool("Bash", command="pytest -q", description="Run the tests"), message="msg_1"),
    tool_result("2 failed, 3 passed\n" * 3000),
    claude_says(
        tool("TodoWrite", todos=[{"content": "a", "status": "completed"}, {"content": "b", "status": "in_progress"}]),
        message="msg_2",
    ),
    claude_says(tool("Edit", file_path="/srv/app/api.py", old_string="a", new_string="b"), message="msg_2"),
    claude_says(text("All 5 tests pass now."), message="msg_3"),
    claude_result(),
]

THREAD = "0199a213-81c0-7800-8aa1-bbab2a035a53"


def item(kind, state="completed", **facts):
    return {"type": f"item.{state}", "item": {"id": "item_0", "type": kind, **facts}}


CODEX = [
    {"type": "thread.started", "thread_id": THREAD},
    {"type": "turn.started"},
    item("reasoning", text="**Looking at the tests**"),
    item("todo_list", "started", items=[{"text": "a", "completed": True}, {"text": "b", "completed": False}]),
    item("command_execution", "started", command="bash -lc 'pytest -q'", aggregated_output="", status="in_progress"),
    item("command_execution", command="bash -lc 'pytest -q'", aggregated_output="ok", exit_code=0, status="completed"),
    item("file_change", changes=[{"path": "api.py", "kind": "update"}], status="completed"),
    item("mcp_tool_call", server="docs", tool="search", status="completed"),
    {"type": "error", "message": "Reconnecting... 1/5"},
    item("agent_message", text="All 5 tests pass now."),
    {
        "type": "turn.completed",
        "usage": {"input_tokens": 24_763, "cached_input_tokens": 24_448, "output_tokens": 122},
    },
]


def printed(lines):
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def program(path: Path, source: str) -> str:
    """The command line of an agent that is this Python program."""
    path.write_text(source)
    return f"{sys.executable} -S {path}"


def says(path: Path, lines, then: str = "") -> str:
    """The command line of an agent that prints these lines, and then does this."""
    (path.parent / f"{path.name}.out").write_bytes(printed(lines))
    return program(
        path, f"import sys, os, time\nprint(open({str(path)!r} + '.out').read(), end='', flush=True)\n{then}"
    )
