"""The types of the lines of the history, which are the events of the feed."""

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
