"""What a hook does: it learns which tasks the agent holds, renews their leases now and then, and says if one is lost.

Whatever goes wrong, the agent is not held up, and not told: a lease lasts long enough for a heartbeat to be missed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from task_orchestrator.hook.event import advice, claimed, ended
from task_orchestrator.hook.state import session

EVERY_SECONDS = 20.0  # between two heartbeats
ANSWER_SECONDS = 1.5  # for the answer to one
ALL_SECONDS = 4  # for everything
INPUT_BYTES_MAX = 16 * 1024 * 1024
DEFAULT_URL = "http://127.0.0.1:8080"

_LOST = (
    "The lease of task {task_id} is lost ({reason}): it is no longer yours. Stop working on it now, change nothing "
    "more for it, and do not report on it. Then go on with claim_next_task."
)

Json = dict[str, Any]


def hook(*, default_url: str = DEFAULT_URL) -> None:
    """Run by Claude Code and Codex after every use of a tool, with JSON on standard input: renews the agent's leases.

    Parameters
    ----------
    default_url
        The server's address, where TASK_ORCHESTRATOR_URL says nothing.
    """
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _give_up)
    signal.alarm(ALL_SECONDS)
    with suppress(Exception):
        event = json.loads(sys.stdin.buffer.read(INPUT_BYTES_MAX))
        if lost := _attend(event, os.environ.get("TASK_ORCHESTRATOR_URL") or default_url):
            print(json.dumps(advice(event, " ".join(lost))), flush=True)


def quick(arguments: Sequence[str]) -> None:
    """The same, without the libraries that read a command line."""
    named = len(arguments) == 2 and arguments[0] == "--default-url"
    hook(default_url=arguments[1] if named else DEFAULT_URL)


def _attend(event: Json, url: str) -> list[str]:
    """What the agent must know of the leases it has lost."""
    session_id, new, over = str(event["session_id"]), claimed(event), ended(event)
    with session(session_id) as state:
        if over:
            state["leases"].pop(over, None)
        state["leases"] |= new
        now = time.time()
        is_due = bool(state["leases"]) and abs(now - state["tried_at"]) >= EVERY_SECONDS
        if new or is_due:
            state["tried_at"] = now
        leases = dict(state["leases"])
    return _renew(session_id, leases, url) if is_due and not new else []


def _renew(session_id: str, leases: dict[str, str], url: str) -> list[str]:
    from task_orchestrator.hook.heartbeat import LOST, beat  # takes as long to import as all the rest

    lost = {}
    for task_id, token in leases.items():
        outcome, reason = beat(url, task_id, token, ANSWER_SECONDS)
        if outcome == LOST:
            lost[task_id] = reason
    if lost:
        with session(session_id) as state:
            for task_id in lost:
                if state["leases"].get(task_id) == leases[task_id]:
                    del state["leases"][task_id]
    return [_LOST.format(task_id=task_id, reason=reason) for task_id, reason in lost.items() if reason]


def _give_up(number: int, frame: object) -> NoReturn:
    os._exit(0)
