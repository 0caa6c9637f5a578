"""What a hook is told, as JSON: which tool was used, and what it answered. No I/O."""

import json
import re
from collections.abc import Iterator
from typing import Any

_OURS = re.compile(r"mcp__.+__(claim_next_task|complete_task|fail_task|release_task|cancel_task)")
_DEPTH_MAX = 8

Json = dict[str, Any]


def claimed(event: Json) -> dict[str, str]:
    """The tasks that the tool has handed out, with their lease tokens."""
    return dict(_leases(event.get("tool_response"), 0)) if _tool(event) else {}


def ended(event: Json) -> str | None:
    """The task that is no longer the agent's, because it said so itself."""
    answer, arguments = event.get("tool_response"), event.get("tool_input")
    refused = isinstance(answer, dict) and (answer.get("isError") or answer.get("is_error"))
    if _tool(event) in (None, "claim_next_task") or refused or not isinstance(arguments, dict):
        return None
    if event.get("hook_event_name") == "PostToolUseFailure":
        return None
    task_id = arguments.get("task_id")
    return task_id if isinstance(task_id, str) else None


def advice(event: Json, text: str) -> Json:
    """The hook's answer that lets the model read this."""
    name = event.get("hook_event_name")
    if name == "PostToolUse":
        return {"decision": "block", "reason": text}
    return {"hookSpecificOutput": {"hookEventName": name, "additionalContext": text}}


def _tool(event: Json) -> str | None:
    name = event.get("tool_name")
    match = _OURS.fullmatch(name) if isinstance(name, str) else None
    return match[1] if match else None


def _leases(answer: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Clients show an answer as it came, or only the text in it, or only its content."""
    if depth > _DEPTH_MAX:
        return
    if isinstance(answer, str) and answer.lstrip()[:1] in ("{", "["):
        try:
            answer = json.loads(answer)
        except ValueError:
            return
    if isinstance(answer, dict):
        task_id, token = answer.get("task_id"), answer.get("lease_token")
        if isinstance(task_id, str) and isinstance(token, str):
            yield task_id, token
            return  # what else is in it, others have written
        answer = list(answer.values())
    if isinstance(answer, list):
        for each in answer:
            yield from _leases(each, depth + 1)
