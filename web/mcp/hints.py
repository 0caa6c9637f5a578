"""What a model is to do about a refusal."""

from collections.abc import Mapping

HINTS: Mapping[str, str] = {
    "VALIDATION_ERROR": "Mend what is named, and call again. Nothing was changed.",
    "TASK_NOT_FOUND": "Look for it with list_tasks: the id is wrong, it was deleted, or your key may not see it.",
    "LEASE_LOST": "Stop working on it: it is no longer yours. What you have done is not counted. Call claim_next_task.",
    "INVALID_STATE": "Nothing was changed. get_task tells how it is now.",
    "FORBIDDEN": "This key may not do that. Ask whoever runs the queue, or use another tool.",
    "PROMPT_MISMATCH": "You report on another task than you were given. Compare with the prompt of your claim.",
    "RETRY_LIMIT_REACHED": "Submit it anew with create_task, with what is known now.",
    "IDEMPOTENCY_KEY_REUSED": "The key stands for another request: take another one.",
    "DEPENDENCY_NOT_FOUND": "Create what it depends on first, or in the same create_tasks under a ref.",
    "DEPENDENCY_CYCLE": "Tasks cannot wait for each other: leave one of the dependencies out.",
    "PAYLOAD_TOO_LARGE": "Say it more briefly; keep long output in a file and name the file.",
    "RATE_LIMITED": "Wait as long as it says, then call again.",
    "UNAVAILABLE": "Wait a few seconds, then call again with the same arguments.",
    "TIMEOUT": "It is not known whether it was done: look with get_task or list_tasks before you call again.",
    "DATABASE_ERROR": "Wait a few seconds, then call again; look first whether it was done.",
    "INTERNAL_ERROR": "Tell whoever runs the queue the error_id. Call again later.",
}
