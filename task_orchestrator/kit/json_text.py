"""Edits of JSON as text: what others wrote keeps its every byte, and taking out undoes putting in.

What is put into something that was empty follows its bracket at once, on the same line. What stands alone on a line of
its own is therefore in something that was made for it, and goes together with that.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen

_BLANK = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCALAR = re.compile(r"[^ \t\r\n,\]}]+")
_INDENT = re.compile(r"\n([ \t]+)\S")

Path = Sequence[str | int]


@frozen
class Member:
    """Of an object or an array, from its key, if it has one, to the end of its value."""

    key: str | int
    start: int
    value: "Value"

    @property
    def end(self) -> int:
        return self.value.end


@frozen
class Value:
    start: int
    end: int
    members: tuple[Member, ...] = ()

    def of(self, key: str | int) -> Member | None:
        """The last one of that name, which is the one that counts."""
        return next((it for it in reversed(self.members) if it.key == key), None)


def parse(text: str) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None


def put(text: str, path: Path, addition: Any) -> str:
    """`addition` stands at `path` afterwards, instead of what stood there. An array takes it at its end if the last
    step is as long as the array is; what is missing on the way is made."""
    root = _value(text, 0)
    trail = _trail(root, path)
    if len(trail) == len(path) + 1:
        value = trail[-1]
        return text[: value.start] + _rendered(text, addition, len(path)) + text[value.end :]
    *_, container = trail
    depth = len(trail)
    step, *rest = path[depth - 1 :]
    for each in reversed(rest):
        addition = {each: addition} if isinstance(each, str) else [addition]
    name = f"{json.dumps(step)}: " if isinstance(step, str) else ""
    entry = name + _rendered(text, addition, depth)
    if not container.members:
        return text[: container.start + 1] + entry + text[container.start + 1 :]
    at = container.members[-1].end
    return f"{text[:at]},{_line_end(text)}{_unit(text) * depth}{entry}{text[at:]}"


def take(text: str, path: Path) -> str | None:
    """Without what stands at `path`; None if nothing is left that others have written."""
    trail = _trail(_value(text, 0), path)
    if len(trail) <= len(path):
        return text
    while path:
        *path, step = path
        container = trail[len(path)]
        members = container.members
        member = container.of(step)
        assert member is not None
        at = members.index(member)
        if at:
            return text[: members[at - 1].end] + text[member.end :]
        if len(members) > 1:
            return text[: member.start] + text[members[1].start :]
        if "\n" not in text[container.start : member.start]:
            return text[: container.start + 1] + text[member.end :]
    return None


def document(content: Any) -> str:
    """A file that holds nothing else."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _trail(root: Value, path: Path) -> list[Value]:
    """The values on the way, as far as it goes."""
    trail = [root]
    for step in path:
        member = trail[-1].of(step)
        if member is None:
            break
        trail.append(member.value)
    return trail


def _rendered(text: str, value: Any, depth: int) -> str:
    unit, line_end = _unit(text), _line_end(text)
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return (line_end + unit * depth).join(lines)


def _unit(text: str) -> str:
    match = _INDENT.search(text)
    return match[1] if match else "  "


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _value(text: str, at: int) -> Value:
    """Of JSON that is known to be whole."""
    at = _skip(text, at)
    if text[at] not in "{[":
        pattern = _STRING if text[at] == '"' else _SCALAR
        match = pattern.match(text, at)
        assert match is not None
        return Value(at, match.end())
    start, is_object, members = at, text[at] == "{", list[Member]()
    at = _skip(text, at + 1)
    while text[at] not in "}]":
        member = _member(text, at, len(members), is_object)
        members.append(member)
        at = _skip(text, member.end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return Value(start, at + 1, tuple(members))


def _member(text: str, at: int, number: int, is_object: bool) -> Member:
    if not is_object:
        return Member(number, at, _value(text, at))
    match = _STRING.match(text, at)
    assert match is not None
    colon = _skip(text, match.end())
    return Member(json.loads(match[0]), at, _value(text, colon + 1))


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()
