"""Why the dispatcher may say no. One class per reason; web/ maps them to HTTP."""

from collections.abc import Mapping, Sequence
from typing import Literal

from dispatcher.task import Status

LossReason = Literal["expired", "cancelled", "reassigned", "released", "finished", "unknown_token"]


class Refusal(Exception):
    """The request was understood and declined; nothing changed."""


class TaskNotFound(Refusal):
    def __init__(self, task_id: str) -> None:
        super().__init__(f"there is no task {task_id}")


class OutOfReach(Refusal):
    """The caller may not touch anything in this work directory."""

    def __init__(self, work_directory: str) -> None:
        super().__init__(f"this key is not for the work directory {work_directory}")


class NotTheHolder(Refusal):
    """The task was claimed with another key, so nobody else may report on it."""

    def __init__(self) -> None:
        super().__init__("the task is worked on under another key")


class KeyExists(Refusal):
    """There is a key of this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a key of the name {name}; revoke it first, or take another name")


class InvalidState(Refusal):
    """The task's status does not allow this."""

    def __init__(self, status: Status, allowed_from: Sequence[Status]) -> None:
        super().__init__(f"the task is {status}; this needs it to be {' or '.join(allowed_from)}")
        self.status, self.allowed_from = status, allowed_from


class LeaseLost(Refusal):
    """The caller does not hold this task, or no longer."""

    SENTENCES = {  # noqa: RUF012
        "expired": "the lease expired before it was renewed",
        "cancelled": "the task was cancelled",
        "reassigned": "another attempt holds the task now",
        "released": "the task was given back",
        "finished": "the task has already been finished",
        "unknown_token": "this lease_token was never given out for this task",
    }

    def __init__(self, reason: LossReason, status: Status, attempt: int) -> None:
        super().__init__(self.SENTENCES[reason])
        self.reason, self.status, self.attempt = reason, status, attempt


class LeaseTokenRequired(Refusal):
    """This server takes no report without a lease_token."""

    def __init__(self) -> None:
        super().__init__("this server requires the lease_token from the claim")


class VersionConflict(Refusal):
    """The task is no longer what the caller believes."""

    def __init__(self, expected: int, version: int) -> None:
        super().__init__(f"the task's version is {version}, not {expected}")
        self.expected, self.version = expected, version


class SettingsOutdated(Refusal):
    """The settings have changed since the change of them was planned."""

    def __init__(self, expected: int, version: int) -> None:
        super().__init__(f"the version of the settings is {version}, not {expected}")
        self.expected, self.version = expected, version


class IdempotencyKeyReused(Refusal):
    """The key stands for another request."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"this Idempotency-Key was used for another request, which made task {task_id}")
        self.task_id = task_id


class DependencyNotFound(Refusal):
    """It depends on tasks that do not exist. `missing`: the places in depends_on, and what stands there."""

    def __init__(self, missing: Mapping[int, str]) -> None:
        super().__init__(f"there is no task {', '.join(missing.values())}")
        self.missing = missing


class DependencyCycle(Refusal):
    """It would wait for ever: by way of the tasks it depends on it would wait for itself, or for others that do."""

    def __init__(self) -> None:
        super().__init__("the task would wait for itself, or for tasks that do")


class BatchRefused(Refusal):
    """None of the batch was created. `faults`: what is wrong, by the places of the tasks."""

    def __init__(self, faults: Mapping[int, Refusal]) -> None:
        super().__init__("a task of the batch was refused")
        self.faults = faults


class NotPaused(Refusal):
    """`field` says how the directory is paused, but it is not."""

    def __init__(self, field: str) -> None:
        super().__init__("can only be given while the directory is paused, or to pause it")
        self.field = field


class MetadataFull(Refusal):
    """Together with what the task has already it would be too much."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"must be at most {limit} bytes together with what the task has, is {size}")


class RetryLimitReached(Refusal):
    """It has been tried as often as it may be."""

    def __init__(self, max_retries: int) -> None:
        super().__init__(f"the task has used up its {max_retries} retries")
        self.max_retries = max_retries


class LogFull(Refusal):
    """There is no room for so many more lines, or such long ones, in the task's log; none of them was kept."""

    def __init__(self, log_lines: int, log_lines_max: int, log_bytes: int, log_bytes_max: int) -> None:
        super().__init__(
            f"the task's log has {log_lines} lines of {log_bytes} bytes in all,"
            f" and may have {log_lines_max} of {log_bytes_max}"
        )
        self.log_lines, self.log_lines_max = log_lines, log_lines_max
        self.log_bytes, self.log_bytes_max = log_bytes, log_bytes_max


class PromptMismatch(Refusal):
    """The original_prompt is not the prompt of this task. Both figures lie between 0 and 1."""

    def __init__(self, similarity: float, threshold: float) -> None:
        super().__init__(f"original_prompt resembles the task's prompt by {similarity:.2f}, {threshold:.2f} is needed")
        self.similarity, self.threshold = similarity, threshold


class Unavailable(Exception):
    """The dispatcher cannot answer now; if it was asked already, the outcome is unknown."""

    def __init__(self, why: str = "the server is stopping") -> None:
        super().__init__(why)


class NoRoom(Exception):
    """The record has no room for this; nothing of it was written."""


class Undone(Exception):
    """The record has taken nothing of this, and may take it the next time."""


class RecordFailed(Exception):
    """The record could not be read, or has refused to be written."""
