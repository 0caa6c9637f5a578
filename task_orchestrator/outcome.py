"""What is reported of a command that has ended."""

import signal
from typing import Any

from task_orchestrator.dialects import Account
from task_orchestrator.process import STDOUT_BYTES_MAX, ProcessGroup

ERROR_MESSAGE_BYTES_MAX = 16 * 1024  # as bytes it holds whichever way the limit is counted
REASON_BYTES_MAX = 8 * 1024  # of what an agent says about its failure
OUTPUT_HEAD = b"\n--- output ---\n"


def result(group: ProcessGroup, account: Account | None) -> dict[str, Any]:
    """How it ended and the end of its output; of an agent the last that it said, its session and its figures."""
    how = {"exit_code": group.exit_code, "duration_seconds": round(group.duration_seconds, 3)}
    if account is None:
        return {**how, "output": group.stdout.text(), "truncated": group.stdout.truncated}
    text = _clean(account.text)
    output = text[-STDOUT_BYTES_MAX:].decode(errors="ignore")
    said = {"agent": account.agent, "session_id": account.session_id, "num_turns": account.turns, **account.facts}
    return {**how, "output": output, "truncated": len(text) > STDOUT_BYTES_MAX, **said}


def complaint(group: ProcessGroup, account: Account | None) -> str | None:
    """Why it failed, if it did: what an agent says, or else how it ended and the end of what it wrote: standard error
    first, then as much of its output as has room."""
    reason = account.error if account else None
    if reason is None and group.exit_code == 0:
        return None
    heads = [_clean(reason)[:REASON_BYTES_MAX]] if reason else []
    heads += [_ending(group.exit_code or 0).encode()] if group.exit_code != 0 else []
    errors, output = group.stderr.text().strip(), "" if reason else _output(group, account)
    message = b"".join(head + b"\n" for head in heads)
    message += _tail(errors or output, ERROR_MESSAGE_BYTES_MAX - len(message))
    room = ERROR_MESSAGE_BYTES_MAX - len(message) - len(OUTPUT_HEAD)
    if errors and output and room > 0:
        message += OUTPUT_HEAD + _tail(output, room)
    return message.decode(errors="ignore").strip()


def _output(group: ProcessGroup, account: Account | None) -> str:
    return account.text.strip() if account else group.stdout.text().strip()


def _clean(text: str) -> bytes:
    """Without NUL, which no database takes, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode(errors="replace")


def _tail(text: str, size: int) -> bytes:
    return _clean(text)[-size:]


def _ending(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {_signal_name(-exit_code)}"
    if exit_code > 128:  # how a shell passes on the death of its child
        return f"exit code {exit_code} ({_signal_name(exit_code - 128)})"
    return f"exit code {exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
