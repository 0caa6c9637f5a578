"""Whether a task is among those that a filter means."""

from dispatcher.record import Filter
from dispatcher.task import Task


def matches(only: Filter, task: Task) -> bool:
    return (
        _is_any(task.status, only.statuses)
        and _is_any(task.work_directory, only.work_directories)
        and _is_any(task.priority, only.priorities)
        and _is_any(task.worker_id, only.worker_ids)
        and (only.created_after is None or task.created_at > only.created_after)
        and (only.created_before is None or task.created_at < only.created_before)
        and (not only.tags or (all if only.tag_mode == "all" else any)(tag in task.tags for tag in only.tags))
        and (only.text is None or stands_in(only.text, task.prompt))
    )


def stands_in(text: str, prompt: str) -> bool:
    """In any case of letters."""
    return text.casefold() in prompt.casefold()


def _is_any(value: str | None, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted
