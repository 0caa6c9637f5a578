"""An example for every parameter that needs one and for every request body, by operation."""

from collections.abc import Mapping
from typing import Any

NOW = "2026-01-01T09:00:00.000Z"
LATER = "2026-01-01T10:00:00.000Z"
TASK_ID = "0197a3c0-7b1e-7c3a-9d52-3f6a8e1b2c4d"
PARENT_ID = "0197a3bf-02aa-7f10-8c44-1b2c3d4e5f60"
TOKEN = "Xq0vY3mJc9d2b1hT5sNfKw"
PROMPT = "Run the tests in tests/api and mend what fails. Say in the result which files you changed."
DIRECTORY = "/srv/app"

PARAMETERS: Mapping[str, Any] = {
    "task_id": TASK_ID,
    "path": DIRECTORY,
    "work_path": DIRECTORY,
    "work_directory": DIRECTORY,
    "worker_id": "agent-7",
    "tags": "tests",
}

_NEW = {"work_directory": DIRECTORY, "prompt": PROMPT}

REQUESTS: Mapping[str, Any] = {
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
    "tasks_heartbeat": {"lease_token": TOKEN, "progress": {"percent": 40, "message": "2 of 5 tests pass"}},
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
<<<<<<< HEAD
=======

ANSWERS: Mapping[str, Any] = {
    "tasks_create": WHOLE,
    "batches_create_many": {
        "tasks": [
            {
                "index": 0,
                "task_id": TASK_ID,
                "ref": "mend",
                "status": "waiting",
                "blocked_by": [],
                "created_at": NOW,
            }
        ],
        "errors": [
            {
                "index": 1,
                "code": "VALIDATION_ERROR",
                "message": "prompt: is required",
                "details": {"field": "tasks[1].prompt", "reason": "is required", "errors": [_FAULT]},
            }
        ],
    },
    "bulk_cancel": _MANY,
    "bulk_retry": {"matched": 3, "changed": 3, "skipped": [], "skipped_count": 0},
    "bulk_delete": _MANY,
    "bulk_priority": _MANY,
    "lists_listing": {
        "tasks": [WHOLE],
        "total": 1,
        "total_is_exact": True,
        "page": 1,
        "limit": 100,
        "offset": 0,
        "next_cursor": None,
    },
    "tasks_claim_next": CLAIMED,
    "tasks_claim": {"tasks": [CLAIMED]},
    "show": WHOLE,
    "show_history": {
        "task_id": TASK_ID,
        "history": [
            {
                "seq": 17,
                "type": "task.created",
                "status": "waiting",
                "worker_id": None,
                "attempt": 0,
                "at": NOW,
                "details": {},
            }
        ],
        "next_after": None,
    },
    "explain": {
        "task_id": TASK_ID,
        "status": "waiting",
        "position": 3,
        "estimated_wait_seconds": 120.5,
        "blocked_by": [
            {
                "kind": "priority",
                "detail": "1 more urgent and 1 older tasks of its directory are ahead of it",
                "ahead": 2,
            }
        ],
    },
    "tasks_heartbeat": {"lease_expires_at": LATER, "deadline_at": LATER},
    "tasks_complete": {"task_id": TASK_ID, "status": "completed", "completed_at": LATER, "next": None},
    "tasks_fail": {"task_id": TASK_ID, "status": "waiting", "completed_at": None, "available_at": LATER},
    "tasks_release": {"task_id": TASK_ID, "status": "waiting", "completed_at": None, "available_at": LATER},
    "tasks_edit": {**WHOLE, "priority": "low", "tags": ["tests", "later"], "version": 2},
    "tasks_delete": {"task_id": TASK_ID, "deleted": True},
    "tasks_cancel": {**WHOLE, "status": "cancelled", "completed_at": LATER, "version": 2},
    "tasks_retry": {**WHOLE, "retry_count": 1, "version": 4},
    "directories_listing": {"work_directories": [_DIRECTORY]},
    "directories_regulate": _DIRECTORY,
    "directories_pause": _PAUSED,
    "directories_resume": _DIRECTORY,
    "directories_drain": {**_DIRECTORY, "draining": True},
    "logs_read": {
        "task_id": TASK_ID,
        "lines": [{"number": 1, "attempt": 1, "at": NOW, "line": "collected 5 items"}],
        "next_after": 1,
    },
    "logs_append": {"task_id": TASK_ID, "accepted": 2, "last_number": 2},
    "workers_listing": {
        "workers": [
            {
                "worker_id": "agent-7",
                "work_directories": [DIRECTORY],
                "working": [TASK_ID],
                "last_seen_at": NOW,
                "connection": "stream",
            }
        ]
    },
    "events": {"events": [_EVENT], "next_after": 17, "gap": {"from": 1, "to": 16}},
    "statistics": {
        "from": NOW,
        "to": LATER,
        "bucket": "hour",
        "work_directory": None,
        "total": 10,
        "by_status": {"waiting": 1, "working": 2, "completed": 6, "failed": 1, "cancelled": 0},
        "by_priority": {"low": 1, "medium": 8, "high": 1},
        "processing_seconds": {"avg": 41.2, "p50": 30.1, "p95": 120.5, "p99": 170.3, "max": 180.0},
        "waiting_seconds": {"avg": 1.2, "p50": 0.4, "p95": 6.5, "p99": 9.1, "max": 9.8},
        "error_rate": 0.142857,
        "throughput_per_second": 0.001667,
        "series": [
            {
                "at": NOW,
                "created": 10,
                "claimed": 9,
                "completed": 6,
                "failed": 1,
                "cancelled": 0,
                "retried": 0,
                "released": 0,
                "lease_expired": 0,
                "deleted": 0,
            }
        ],
    },
    "config_show": _CONFIG,
    "config_change": _CONFIG,
    "config_rollback": _CONFIG,
    "config_history": {
        "versions": [
            {
                "version": 4,
                "at": NOW,
                "who": "api_key",
                "reason": "The network is unreliable",
                "changes": {"task.max_task_retries": {"from": 3, "to": 5}},
            }
        ],
        "total": 4,
    },
    "limits_show": {"limits": {"max_body_bytes": 16_777_216, "prompt_characters": 10_000, "wait_seconds": 60}},
    "health": {
        "status": "healthy",
        "timestamp": NOW,
        "version": "0.1.0",
        "uptime": "1h30m",
        "uptime_seconds": 5400,
        "database": "connected",
        "active_tasks": 2,
        "components": {
            "database": {"healthy": True, "response_time_ms": 0.41, "last_checked": NOW},
            "dispatcher": {"healthy": True, "mailbox": 0, "oldest_message_ms": 0, "batches": 310, "messages": 902},
            "disk": {"healthy": True, "free_bytes": 52_000_000_000, "free_percent": 61.5},
            "event_loop": {"healthy": True, "lag_ms": 0.2, "max_lag_ms": 4.1},
            "memory": {"healthy": True, "resident_bytes": 61_000_000, "limit_bytes": 8_000_000_000},
            "backups": {"healthy": True, "configured": False},
            "webhooks": {
                "healthy": True,
                "configured": False,
                "parked": False,
                "failing_since": None,
                "last_error": None,
                "told_up_to": None,
            },
        },
        "metrics": {"memory_usage": 61_000_000, "cpu_usage": 1.5, "active_connections": 3, "queue_size": 12},
    },
    "health_live": {"status": "alive"},
    "health_ready": {"status": "ready"},
}

EVENTS_EXAMPLE = f'event: cancel\ndata: {{"task_id":"{TASK_ID}","reason":"cancelled"}}\n\n'
>>>>>>> logs
