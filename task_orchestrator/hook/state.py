"""Which tasks an agent holds: a file for each of its sessions, for nobody else to read, outside of the project."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

KEPT_SECONDS = 7 * 86400  # a session that says nothing for that long is over
LEASES_MAX = 20

Json = dict[str, Any]


def folder() -> Path:
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "task-orchestrator" / "agents"


@contextmanager
def session(session_id: str) -> Iterator[Json]:
    """`{leases: {task_id: lease_token}, tried_at}`, to be changed in place; one process at a time."""
    path = folder() / f"{sha256(session_id.encode()).hexdigest()[:32]}.json"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tidy(path.parent)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        before = opened.read()
        state = _decoded(before)
        yield state
        state["leases"] = dict(list(state["leases"].items())[-LEASES_MAX:])
        after = json.dumps(state).encode()
        if after != before:
            opened.seek(0)
            opened.write(after)
            opened.truncate()


def _decoded(content: bytes) -> Json:
    try:
        state = json.loads(content)
        return {"leases": {str(key): str(it) for key, it in state["leases"].items()}, "tried_at": state["tried_at"] + 0}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"leases": {}, "tried_at": 0.0}


def _tidy(directory: Path) -> None:
    for path in directory.glob("*.json"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                path.unlink()
