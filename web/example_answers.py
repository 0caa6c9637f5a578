"""An example for the data of every answer, by operation."""

from collections.abc import Mapping
from typing import Any

from web.examples import DIRECTORY, LATER, NOW, PARENT_ID, PROMPT, TASK_ID, TOKEN

WHOLE: Mapping[str, Any] = {
    "task_id": TASK_ID,
    "work_directory": DIRECTORY,
    "prompt": PROMPT,
    "priority": "high",
    "tags": ["tests"],
    "status": "waiting",
    "worker_id": None,
    "attempt": 0,
    "lease_expires_at": None,
    "deadline_at": None,
    "progress": None,
    "created_at": NOW,
    "updated_at": NOW,
    "available_at": NOW,
    "started_at": None,
    "completed_at": None,
    "result": None,
    "error_message": None,
    "retry_count": 0,
    "max_retries": 3,
    "auto_retry": False,
    "retry_delay_seconds": 10,
    "timeout_seconds": 3600,
    "expires_at": None,
    "depends_on": [],
    "on_dependency_failure": "wait",
    "blocked_by": [],
    "metadata": {"ticket": "APP-12"},
    "created_by": None,
    "version": 1,
}
CLAIMED: Mapping[str, Any] = {
    "task_id": TASK_ID,
    "prompt": PROMPT,
    "work_directory": DIRECTORY,
    "priority": "high",
    "tags": ["tests"],
    "metadata": {"ticket": "APP-12"},
    "attempt": 1,
    "lease_token": TOKEN,
    "lease_expires_at": LATER,
    "deadline_at": LATER,
    "retry_count": 0,
    "previous_error": None,
    "dependencies": [{"task_id": PARENT_ID, "status": "completed", "result": {"branch": "mend-api"}}],
}
_FAULT = {"field": "tasks[1].prompt", "reason": "is required", "code": "VALIDATION_ERROR"}
_RULES: Mapping[str, Any] = {
    "work_directory": DIRECTORY,
    "waiting": 12,
    "working": 2,
    "completed": 340,
    "failed": 1,
    "cancelled": 0,
    "oldest_waiting_seconds": 73.5,
    "paused": False,
    "paused_reason": None,
    "paused_until": None,
    "draining": False,
    "max_working": 2,
    "waiting_workers": 0,
}
_DIRECTORY = dict(_RULES)
_PAUSED = {**_RULES, "paused": True, "paused_reason": "The build is broken", "paused_until": LATER}
EVENT: Mapping[str, Any] = {
    "seq": 17,
    "type": "task.created",
    "task_id": TASK_ID,
    "work_directory": DIRECTORY,
    "status": "waiting",
    "priority": "high",
    "worker_id": None,
    "attempt": 0,
    "at": NOW,
    "details": {},
}
LOG_LINE: Mapping[str, Any] = {"number": 1, "attempt": 1, "at": NOW, "line": "collected 5 items"}
_KEY: Mapping[str, Any] = {
    "name": "agent-7",
    "scopes": ["work"],
    "work_directories": ["/srv/*"],
    "created_at": NOW,
    "created_by": "admin",
    "expires_at": None,
    "last_used_at": LATER,
}
_SESSION: Mapping[str, Any] = {"name": "agent-7", "scopes": ["work"], "work_directories": ["/srv/*"]}
_CONFIG: Mapping[str, Any] = {
    "version": 4,
    "settings": {
        "task.max_task_retries": {"value": 5, "source": "runtime", "origin": None, "default": 3, "reloadable": True}
    },
}
_MANY: Mapping[str, Any] = {
    "matched": 3,
    "changed": 2,
    "skipped": [{"task_id": TASK_ID, "code": "INVALID_STATE"}],
    "skipped_count": 1,
}

_AUDITED: Mapping[str, Any] = {
    "number": 17,
    "at": NOW,
    "who": "ann",
    "address": "192.0.2.7",
    "action": "keys_create",
    "target": "agent-7",
    "outcome": "ok",
    "details": {"scopes": ["work"], "work_directories": ["/srv/*"], "expires_at": None},
    "request_id": "6f1c1b0e8a7d4f6f9a3f2c5d7e8b9a01",
    "previous_hash": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}

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
        "lines": [LOG_LINE],
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
    "events": {"events": [EVENT], "next_after": 17, "gap": {"from": 1, "to": 16}},
    "audit_listing": {"audit": [_AUDITED], "next_after": 17, "next_before": 17},
    "audit_verify": {
        "verified": True,
        "entries": 17,
        "head": {"number": 17, "hash": _AUDITED["hash"]},
        "broken": None,
    },
    "keys_create": {**_KEY, "key": "tok_kYx0cGm1pXb2zHqW9uVt7sRr5oNn3lJj1hFf9dDb7Aw"},
    "keys_listing": {"keys": [_KEY]},
    "keys_revoke": {"name": "agent-7", "revoked": True},
    "keys_session": _SESSION,
    "keys_open": _SESSION,
    "keys_close": _SESSION,
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
    "rate_limits_show": {
        "enabled": True,
        "settings": {
            "requests_per_second": 1000,
            "burst": 2000,
            "per_ip": True,
            "per_key": True,
            "per_endpoint": {"submit": {"requests_per_second": 50, "burst": 100}},
            "failed_authentications_per_minute": 20,
        },
        "limits": [
            {
                "kind": "address",
                "endpoint_class": None,
                "requests_per_second": 1000,
                "burst": 2000,
                "kept": 12,
                "kept_most": 100_000,
                "forgotten": 0,
            }
        ],
        "refused": {"address": 31, "key": 0, "endpoint": 0, "authentication": 2},
        "refused_by_class": [{"kind": "address", "endpoint_class": "read", "requests": 31}],
        "emptiest": [
            {
                "kind": "address",
                "endpoint_class": None,
                "who": "203.0.113.7",
                "limit": 2000,
                "remaining": 0,
                "reset_seconds": 2.0,
                "retry_after_seconds": 0.001,
            }
        ],
    },
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
