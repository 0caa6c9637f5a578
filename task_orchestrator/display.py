"""What the commands print. Text from tasks is printed literally: no markup in it means anything.

To a terminal, control sequences are made visible, so that a task's output cannot move the cursor, rename the window
or hide a line. To a file or a pipe, text goes as it is.
"""

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

FINAL = frozenset({"completed", "failed", "cancelled"})
STATUS_STYLES = {"waiting": "yellow", "working": "cyan", "completed": "green", "failed": "red", "cancelled": "dim"}

# C0 and C1 controls but tab and newline; characters that reorder what stands around them; lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHOWN = (
    "task_id",
    "status",
    "priority",
    "work_directory",
    "tags",
    "blocked_by",
    "worker_id",
    "attempt",
    "retry_count",
)
_OF_WORKERS = frozenset({"exit_code", "duration_seconds", "output", "truncated"})
_OF_AGENTS = frozenset({"agent", "session_id", "num_turns", "total_cost_usd", "usage"})
_TIMES = ("created_at", "started_at", "completed_at")

LAST_COLUMN_MIN = 15  # columns of a terminal; in a narrower one the lines are broken

Task = dict[str, Any]


def printable(text: str) -> str:
    r"""The text with everything a terminal would act upon written out, such as `\x1b`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def say(text: str = "") -> None:
    """Print to standard output, safely if that is a terminal."""
    print(printable(text) if sys.stdout.isatty() else text)


def complain(text: str) -> None:
    """Print to standard error, safely if that is a terminal."""
    print(printable(text) if sys.stderr.isatty() else text, file=sys.stderr)


def refuse_usage(message: str) -> NoReturn:
    """End the process because of how it was called."""
    complain(message)
    raise SystemExit(2)


def say_json(document: Any) -> None:
    """One JSON document on one line. ASCII only: safe on every terminal and in every encoding."""
    print(json.dumps(document), flush=True)


def seconds_between(start: str | None, end: str | None) -> float | None:
    """From two of the server's times; None if either is missing."""
    if start is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def show_task(task: Task) -> None:
    """Everything a person wants to know: the facts, the prompt, and what came of it in full."""
    facts = {name: task.get(name) for name in (*_SHOWN, *_TIMES)}
    if task["status"] == "working":
        facts |= {"lease_expires_at": task.get("lease_expires_at"), "progress": _progress(task.get("progress"))}
    facts["waited_seconds"] = seconds_between(task.get("created_at"), task.get("started_at"))
    facts["ran_seconds"] = seconds_between(task.get("started_at"), task.get("completed_at"))
    result, output = _divided(task.get("result"))
    for name, value in (facts | result).items():
        if value not in (None, "", []):
            say(f"{name:<16} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    _show_block("prompt", task.get("prompt"))
    _show_block("error", task.get("error_message"))
    _show_block("output", output)


def show_tasks(tasks: Sequence[Task], total: int | None) -> None:
    """Newest first, as the server gave them; how many there are in all is only for people."""
    row = _short_row if sys.stdout.isatty() else _row
    heads = ["task", "status", "prio", "created UTC", "prompt"]
    show_table(heads, [row(task) for task in tasks], [task["status"] for task in tasks])
    if sys.stdout.isatty() and total is not None:
        say(f"{len(tasks)} of {total}")


def show_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], statuses: Sequence[str], *, always_headed: bool = False
) -> None:
    """To a terminal a table whose last column is cut where the room ends; elsewhere lines of tab-separated cells, with
    the heads only if they are always to be there."""
    if not sys.stdout.isatty():
        for row in (heads, *rows) if always_headed else rows:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    *widths, _ = (max(map(len, column)) for column in zip(heads, *rows, strict=True))
    console = Console()
    taken = sum(widths) + len(widths)  # one blank after each
    console.width = max(console.width, taken + LAST_COLUMN_MIN)
    for head, width in zip(heads, widths, strict=False):
        table.add_column(head, no_wrap=True, width=width)
    table.add_column(heads[-1], no_wrap=True, overflow="ellipsis", max_width=console.width - taken)
    for row, status in zip(rows, statuses, strict=True):
        table.add_row(*(Text(printable(cell)) for cell in row), style=STATUS_STYLES.get(status))
    with console.capture() as drawn:  # printing is ours: rich answers a broken pipe with an exit code of its own
        console.print(table)
    sys.stdout.write(drawn.get())


def show_explanation(explanation: dict[str, Any]) -> None:
    """The status, the position if there is one, and a line for each reason."""
    say(f"{explanation['task_id']} {explanation['status']}")
    for name in ("position", "estimated_wait_seconds"):
        if explanation[name] is not None:
            say(f"{name:<24}{explanation[name]}")
    for reason in explanation["blocked_by"]:
        say(f"{reason['kind']:<24}{reason['detail']}")


def show_event(event: dict[str, Any], *, about: bool) -> None:
    """One line for one event; `about`: say what it is about."""
    names = ("task_id", "work_directory", "worker_id") if about else ("worker_id",)
    details = {name: value for name, value in (event.get("details") or {}).items() if value is not None}
    facts = [event["at"], event["type"], *(event[name] for name in names if event.get(name))]
    say("  ".join([*facts, json.dumps(details)] if details else facts))


def _divided(result: Any) -> tuple[dict[str, Any], str | None]:
    """A worker's result as its facts and its output; any other result as one piece of JSON."""
    names = _OF_WORKERS | _OF_AGENTS
    if isinstance(result, dict) and result.keys() <= names and isinstance(result.get("output"), str):
        facts = {name: value for name, value in result.items() if name not in ("output", "usage")}
        return facts | (result.get("usage") or {}), result["output"]
    return {}, None if result is None else json.dumps(result, indent=2, ensure_ascii=False)


def _progress(progress: dict[str, Any] | None) -> str:
    percent, message = (progress or {}).get("percent"), (progress or {}).get("message")
    return " ".join(filter(None, [None if percent is None else f"{percent} %", message]))


def _show_block(head: str, text: str | None) -> None:
    if text:
        say(f"\n{head}:")
        say(text.removesuffix("\n"))


def _row(task: Task) -> list[str]:
    return [task["task_id"], task["status"], task["priority"], task["created_at"], _line(task)]


def _short_row(task: Task) -> list[str]:
    """So short that of 80 columns at least 15 are left for the prompt."""
    priority = "med" if task["priority"] == "medium" else task["priority"]
    return [task["task_id"], task["status"], priority, task["created_at"][5:16].replace("T", " "), _line(task)]


def _line(task: Task) -> str:
    return " ".join(task["prompt"].split())
