"""An example for every parameter that needs one and for every request body, by operation."""

from collections.abc import Mapping
from typing import Any

NOW = "2026-01-01T09:00:00.000Z"
LATER = "2026-01-01T10:00:00.000Z"
TASK_ID = "0197a3c0-7b1e-7c3a-9d52-3f6a8e1b2c4d"
PARENT_ID = "0197a3bf-02aa-7f10-8c44-1b2c3d4e5f60"
TOKEN = "Xq0vY3mJc9d2b1hT5sNfKw"  # noqa: S105 - it opens nothing
PROMPT = "Run the tests in tests/api and mend what fails. Say in the result which files you changed."
DIRECTORY = "/srv/app"

PARAMETERS: Mapping[str, Any] = {
    "task_id": TASK_ID,
    "name": "agent-7",
    "path": DIRECTORY,
    "work_path": DIRECTORY,
    "work_directory": DIRECTORY,
    "worker_id": "agent-7",
    "tags": "tests",
}

_NEW = {"work_directory": DIRECTORY, "prompt": PROMPT}

REQUESTS: Mapping[str, Any] = {
    "keys_create": {"name": "agent-7", "scopes": ["work"], "work_directories": ["/srv/*"]},
    "keys_revoke": {},
    "keys_close": {},
    "keys_open": {"key": "tok_kYx0cGm1pXb2zHqW9uVt7sRr5oNn3lJj1hFf9dDb7Aw"},
    "tasks_create": {**_NEW, "priority": "high", "tags": ["tests"], "metadata": {"ticket": "APP-12"}},
    "batches_create_many": {
        "tasks": [
            {**_NEW, "ref": "mend"},
            {"work_directory": DIRECTORY, "prompt": "Write the changelog.", "depends_on": ["ref:mend"]},
        ]
    },
    "bulk_cancel": {"filter": {"work_directory": DIRECTORY, "tags": ["tests"]}, "reason": "No longer wanted"},
    "bulk_retry": {"filter": {"status": "failed", "created_after": NOW}, "dry_run": True},
    "bulk_delete": {"ids": [TASK_ID, PARENT_ID]},
    "bulk_priority": {"filter": {"q": "changelog"}, "priority": "low"},
    "tasks_claim": {"work_directory": DIRECTORY, "worker_id": "agent-7", "limit": 2, "claim_id": "agent-7/1"},
    "tasks_heartbeat": {
        "lease_token": TOKEN,
        "progress": {"percent": 40, "message": "2 of 5 tests pass"},
        "metadata": {"session_id": "7c1e9a52-0b1d-4c55-9f3e-2f6a8e1b2c4d"},
    },
    "tasks_complete": {"lease_token": TOKEN, "original_prompt": PROMPT, "result": {"files": ["api.py"]}},
    "tasks_fail": {"lease_token": TOKEN, "error_message": "The tests need a database.", "retryable": True},
    "logs_append": {"lease_token": TOKEN, "lines": ["collected 5 items", "tests/api/test_list.py ..F.."]},
    "config_change": {"changes": {"task.max_task_retries": 5}, "reason": "The network is unreliable"},
    "config_rollback": {"version": 3},
    "tasks_release": {"lease_token": TOKEN, "delay_seconds": 60, "reason": "The machine is going down"},
    "tasks_edit": {"priority": "low", "tags": ["tests", "later"]},
    "tasks_delete": {},
    "tasks_cancel": {"reason": "No longer wanted", "force": True},
    "tasks_retry": {},
    "directories_regulate": {"max_working": 2},
    "directories_pause": {"paused_reason": "The build is broken", "paused_until": LATER},
    "directories_resume": {},
    "directories_drain": {},
}
