"""The types of the lines of the history, which are the events of the feed."""

from difflib import get_close_matches
from typing import Annotated

from dispatcher.fields import Rule

EVENT_TYPES = (
    "task.created",
    "task.available",
    "task.claimed",
    "task.progress",
    "task.completed",
    "task.failed",
    "task.cancelled",
    "task.retried",
    "task.released",
    "task.lease_expired",
    "task.late_result",
    "task.updated",
    "task.deleted",
    "directory.updated",
    "directory.paused",
    "directory.resumed",
    "directory.draining",
    "directory.drained",
    "config.changed",
    "server.draining",
)


def event_type(name: str) -> str:
    """The type of an event, such as task.created."""
    if name not in EVENT_TYPES:
        near = get_close_matches(name[:100], EVENT_TYPES, n=1, cutoff=0)[0]
        raise ValueError(f"must be the type of an event, did you mean {near!r}?")
    return name


EventType = Annotated[str, Rule(event_type)]
