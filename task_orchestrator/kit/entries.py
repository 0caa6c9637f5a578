"""Our entries in JSON files that belong to others: a server of MCP, and hooks."""

import re
import shlex
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from task_orchestrator.kit import json_text
from task_orchestrator.kit.parts import Part, Unfit

NAME = "task-orchestrator"
HOOK_SECONDS = 10  # then the client goes on without it; ours gives up long before
_PROGRAM = re.compile(r"(.*/)?task[-_]orchestrator")

Json = dict[str, Any]


def server(path: str, entry: Json) -> Part:
    """Our server among `mcpServers`."""
    steps = ["mcpServers", NAME]

    def put(text: str | None) -> str:
        if text is None:
            return json_text.document({steps[0]: {NAME: entry}})
        there = _at(_parsed(text), steps)
        if there == entry:
            return text
        if there is not None and not _is_our_server(there):
            raise Unfit(f'"{NAME}" in "{steps[0]}" is not from here: rename it or take it out')
        return json_text.put(text, steps, entry)

    def take(text: str) -> str | None:
        return json_text.take(text, steps) if _is_our_server(_at(_parsed(text), steps)) else text

    return Part(path, put, take)


def hooks(path: str, events: Sequence[str], command: str) -> Part:
    """Our command after every use of a tool."""
    group = {"matcher": "*", "hooks": [{"type": "command", "command": command, "timeout": HOOK_SECONDS}]}

    def put(text: str | None) -> str:
        if text is None:
            return json_text.document({"hooks": {event: [group] for event in events}})
        return reduce(_with, events, text)

    def _with(text: str, event: str) -> str:
        groups = _groups(text, event)
        ours = [number for number, each in enumerate(groups) if _is_our_group(each)]
        if any(_has_hook(each, lambda it: it == group["hooks"][0]) for each in groups):
            return text
        return json_text.put(text, ["hooks", event, ours[0] if ours else len(groups)], group)

    def take(text: str) -> str | None:
        left: str | None = text
        for event in events:
            while left is not None and (steps := _ours(left, event)) is not None:
                left = json_text.take(left, steps)
        return left

    return Part(path, put, take)


def hook_command(program: Sequence[str], url: str | None) -> str:
    return shlex.join([*program, "hook", *(["--default-url", url] if url else [])])


def _parsed(text: str) -> Any:
    try:
        content = json_text.parse(text)
    except ValueError as error:
        raise Unfit(f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Unfit("is not a JSON object")
    return content


def _at(content: Any, steps: Sequence[str]) -> Any:
    for number, step in enumerate(steps):
        if not isinstance(content, dict):
            raise Unfit(f'"{".".join(steps[:number])}" is not an object')
        if step not in content:
            return None
        content = content[step]
    return content


def _groups(text: str, event: str) -> list[Any]:
    groups = _at(_parsed(text), ["hooks", event])
    if not isinstance(groups, list | None):
        raise Unfit(f'"hooks.{event}" is not a list')
    return groups or []


def _ours(text: str, event: str) -> list[str | int] | None:
    """Where the next of our hooks stands, or the group that holds nothing else."""
    for number, group in enumerate(_groups(text, event)):
        if _is_our_group(group):
            return ["hooks", event, number]
        if _has_hook(group, _is_our_hook):
            each = next(place for place, hook in enumerate(group["hooks"]) if _is_our_hook(hook))
            return ["hooks", event, number, "hooks", each]
    return None


def _has_hook(group: Any, wanted: Callable[[Any], bool]) -> bool:
    there = group.get("hooks") if isinstance(group, dict) else None
    return isinstance(there, list) and any(map(wanted, there))


def _is_our_group(group: Any) -> bool:
    return _has_hook(group, _is_our_hook) and all(map(_is_our_hook, group["hooks"]))


def _is_our_hook(hook: Any) -> bool:
    return _runs(str(hook.get("command", "")), "hook") if isinstance(hook, dict) else False


def _is_our_server(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("args"), list):
        return False
    return _runs(shlex.join(map(str, [entry.get("command", ""), *entry["args"]])), "mcp")


def _runs(command: str, name: str) -> bool:
    """Whether it is `task-orchestrator NAME`, by whatever path, or by Python."""
    try:
        program, *arguments = shlex.split(command) or [""]
    except ValueError:
        return False
    if arguments[:1] == ["-m"]:
        program, *arguments = arguments[1:] or [""]
    return _PROGRAM.fullmatch(program) is not None and arguments[:1] == [name]
