"""What headless agents print: a JSON object a line, as `claude -p --output-format stream-json` and `codex exec --json`
do it.

A dialect takes the lines one by one and adds what they say to an Account. It passes over whatever it does not know, so
that a newer agent may say more. Which dialect it is, a line tells that no other program prints by chance.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, field

SESSION_ID = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,199}")  # so it is harmless in a shell, and never an option
MESSAGE_CHARACTERS_MAX = 300
USAGE_MAX = 50  # kinds of tokens
_HINTS = ("command", "file_path", "path", "pattern", "query", "url", "description", "prompt")  # what a tool is used on

Line = Mapping[str, Any]


@define
class Account:
    """What an agent has said of its work so far. `facts` are figures, under the names that the agent has for them."""

    agent: str
    session_id: str | None = None
    turns: int = 0
    message: str | None = None  # what it is at, in a few words
    percent: float | None = None  # as its own list of things to do tells it
    text: str = ""  # the last that it said to us
    error: str | None = None  # that it failed, and why
    facts: dict[str, Any] = field(factory=dict)
    _turn: object = field(default=None, init=False)

    def enter(self, turn: object) -> None:
        """The lines of one turn bear the same name, if any."""
        if turn is None or turn != self._turn:
            self.turns += 1
            self._turn = turn

    def step(self, words: str) -> None:
        self.message = f"turn {self.turns}: {words}" if self.turns else words

    def list_todo(self, done: Iterable[bool]) -> None:
        marks = list(done)
        self.percent = round(100 * sum(marks) / len(marks), 1) if marks else None

    def end(self, error: str | None) -> None:
        self.error = error
        cost = self.facts.get("total_cost_usd")
        turns = f"{self.turns} turn{'s' * (self.turns != 1)}"
        self.message = f"{'failed' if error else 'done'} after {turns}" + (f", {cost:.4f} USD" if cost else "")
        if error is None:
            self.percent = 100


Dialect = Callable[[Line, Account], None]


def opened_by(line: Line) -> tuple[Account, Dialect] | None:
    """The dialect of which this is the first line, or for `claude -p --output-format json` the only one."""
    match line:
        case {"type": "system", "subtype": "init", "session_id": str(name)} | {
            "type": "result",
            "subtype": str(),
            "is_error": bool(),
            "session_id": str(name),
        } if SESSION_ID.fullmatch(name):
            return Account("claude"), claude
        case {"type": "thread.started", "thread_id": str(name)} if SESSION_ID.fullmatch(name):
            return Account("codex"), codex
    return None


def claude(line: Line, account: Account) -> None:
    match line:
        case {"type": "system", "subtype": "init", "session_id": str(name)} if SESSION_ID.fullmatch(name):
            account.session_id = name
        case {"type": "assistant", "message": {"content": list(blocks)} as message}:
            ours = line.get("parent_tool_use_id") is None
            if ours:
                account.enter(message.get("id"))
            for block in blocks:
                _claude_block(block, account, ours)
        case {"type": "result", "subtype": str(subtype), "is_error": bool(is_error)}:
            _claude_result(line, account)
            account.end(_claude_error(line, subtype) if is_error or subtype.startswith("error") else None)


def _claude_block(block: Any, account: Account, ours: bool) -> None:
    """`ours`: not from an agent that our agent has sent out."""
    match block:
        case {"type": "text", "text": str(text)} if text.strip():
            account.step(_short(text))
            if ours:
                account.text = text
        case {"type": "tool_use", "name": str(name), "input": dict(given)}:
            match given:
                case {"todos": list(todos)} if name == "TodoWrite" and ours:
                    account.list_todo(isinstance(it, dict) and it.get("status") == "completed" for it in todos)
            hint = next((given[it] for it in _HINTS if isinstance(given.get(it), str)), "")
            account.step(_short(f"{name} {hint}"))


def _claude_result(line: Line, account: Account) -> None:
    match line:
        case {"session_id": str(name)} if account.session_id is None and SESSION_ID.fullmatch(name):
            account.session_id = name
    match line:
        case {"result": str(text)} if text:
            account.text = text
    match line:
        case {"num_turns": int(turns)} if turns is not True and 0 < turns < 2**53:
            account.turns = turns
    match line:
        case {"total_cost_usd": int() | float() as cost} if not isinstance(cost, bool) and 0 <= cost < 2**53:
            account.facts["total_cost_usd"] = cost
    _count(line, account)


def _claude_error(line: Line, subtype: str) -> str:
    """A call that failed at the other end bears `success`, and the reason as its text."""
    text, errors = line.get("result"), line.get("errors")
    reasons = [text] if text else errors if isinstance(errors, list) else []
    reason = "\n".join(it for it in reasons if isinstance(it, str))
    return ": ".join(filter(None, ["" if subtype == "success" else subtype, reason])) or "the agent failed"


def codex(line: Line, account: Account) -> None:
    match line:
        case {"type": "thread.started", "thread_id": str(name)} if SESSION_ID.fullmatch(name):
            account.session_id = name
        case {"type": "turn.started"}:
            account.enter(None)
        case {"type": "item.started" | "item.updated" | "item.completed", "item": {"type": str(kind)} as item}:
            _codex_item(kind, item, account)
        case {"type": "turn.completed"}:
            _count(line, account)
            account.end(None)
        case {"type": "turn.failed", "error": {"message": str(why)}}:
            account.end(why or "the agent failed")
        case {"type": "error", "message": str(why)}:  # it may try again, and get on
            account.error, account.message = why, _short(why)


def _codex_item(kind: str, item: Line, account: Account) -> None:
    match kind, item:
        case "agent_message", {"text": str(text)} if text.strip():
            account.step(_short(text))
            account.text = text
        case "command_execution", {"command": str(command)}:
            account.step(_short(f"$ {command}"))
        case "file_change", {"changes": list(changes)}:
            paths = [it["path"] for it in changes if isinstance(it, dict) and isinstance(it.get("path"), str)]
            account.step(_short(f"changes {', '.join(paths)}"))
        case "mcp_tool_call", {"server": str(server), "tool": str(tool)}:
            account.step(_short(f"{server} {tool}"))
        case "web_search", {"query": str(query)}:
            account.step(_short(f"searches for {query}"))
        case "todo_list", {"items": list(items)}:
            account.list_todo(isinstance(it, dict) and it.get("completed") is True for it in items)


def _count(line: Line, account: Account) -> None:
    """The tokens."""
    match line:
        case {"usage": dict(usage)}:
            counts = [
                (name, n) for name, n in usage.items() if name.isidentifier() and type(n) is int and 0 <= n < 2**53
            ]
            account.facts["usage"] = dict(counts[:USAGE_MAX])


def _short(text: str) -> str:
    """In one line, with nothing in it that a terminal would act upon."""
    words = " ".join(text[: 4 * MESSAGE_CHARACTERS_MAX].split())
    return "".join(it if it.isprintable() else "\ufffd" for it in words)[:MESSAGE_CHARACTERS_MAX].strip()
