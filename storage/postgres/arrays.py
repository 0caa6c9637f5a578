"""Many rows in one statement: an array per column, which `unnest` takes apart again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.rows import Row

TASK_TYPES: Mapping[str, str] = {
    "work_directory": "text",
    "arrival": "bigint",
    "task_id": "text",
    "created_at": "bigint",
    "created_by": "text",
    "idempotency_key": "text",
    "request_digest": "text",
    "prompt": "text",
    "folded": "text",
    "priority": "smallint",
    "tags": "text",
    "max_retries": "integer",
    "auto_retry": "boolean",
    "retry_delay_seconds": "double precision",
    "timeout_seconds": "double precision",
    "expires_at": "bigint",
    "depends_on": "text",
    "on_dependency_failure": "text",
    "metadata": "text",
    "status": "text",
    "ready": "boolean",
    "available_at": "bigint",
    "unmet": "text",
    "has_dependants": "boolean",
    "tell_from": "bigint",
    "retry_count": "integer",
    "lost_leases": "integer",
    "version": "bigint",
    "updated_at": "bigint",
    "attempt": "integer",
    "worker_id": "text",
    "claim_id": "text",
    "lease_token": "text",
    "lease_seconds": "double precision",
    "lease_expires_at": "bigint",
    "deadline_at": "bigint",
    "started_at": "bigint",
    "progress": "text",
    "progress_told_at": "bigint",
    "log_lines": "bigint",
    "log_bytes": "bigint",
    "completed_at": "bigint",
    "result": "text",
    "error_message": "text",
    "due_at": "bigint",
}
HISTORY_TYPES: Mapping[str, str] = {
    "seq": "bigint",
    "type": "text",
    "task_id": "text",
    "work_directory": "text",
    "priority": "smallint",
    "status": "text",
    "worker_id": "text",
    "attempt": "integer",
    "at": "bigint",
    "details": "text",
    "lease_token": "text",
}


def unnest(types: Sequence[str], first: int = 1) -> str:
    """The parameters from `$first` on, an array of each type."""
    return f"unnest({', '.join(f'${place}::{type}[]' for place, type in enumerate(types, first))})"


def insert(table: str, columns: Mapping[str, str]) -> str:
    return f"insert into {table} ({', '.join(columns)}) select * from {unnest([*columns.values()])}"


def delete(table: str, keys: Mapping[str, str]) -> str:
    same = " and ".join(f"{table}.{name} = u.{name}" for name in keys)
    return f"delete from {table} using {unnest([*keys.values()])} as u ({', '.join(keys)}) where {same}"


def update(table: str, keys: Mapping[str, str], columns: Mapping[str, str], where: Mapping[str, str]) -> str:
    """The values of the keys, of the columns, and of what else must be so: `where` names columns under other names."""
    names = [*keys, *(f"new_{name}" for name in columns), *(f"was_{name}" for name in where)]
    types = [*keys.values(), *columns.values(), *where.values()]
    changes = ", ".join(f"{name} = u.new_{name}" for name in columns)
    terms = [f"{table}.{name} = u.{name}" for name in keys] + [f"{table}.{name} = u.was_{name}" for name in where]
    return f"update {table} set {changes} from {unnest(types)} as u ({', '.join(names)}) where {' and '.join(terms)}"


def columns(rows: Iterable[Row], width: int) -> list[Sequence[Any]]:
    """The rows as arrays, one per column."""
    return list(zip(*rows, strict=True)) or [()] * width
