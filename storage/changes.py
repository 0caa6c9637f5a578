"""What a batch of changes means for the rows of a record, whatever it is kept in."""

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter

from dispatcher.ports import Change, Changes
from dispatcher.task import Status, Task
from storage.rows import TASKS, Row

# Set once, at creation; an update leaves them, and the indexes over them, alone.
FIXED = {
    "arrival",
    "task_id",
    "created_at",
    "created_by",
    "work_directory",
    "prompt",
    "priority",
    "tags",
    "max_retries",
    "auto_retry",
    "retry_delay_seconds",
    "timeout_seconds",
    "expires_at",
    "depends_on",
    "on_dependency_failure",
    "metadata",
}
CHANGING = [(place, name) for place, name in enumerate(TASKS.columns) if name not in FIXED]
EDITABLE = ("priority", "prompt", "tags", "metadata", "max_retries")
editable = attrgetter(*EDITABLE)


def net_of(changes: Iterable[Change]) -> list[Change]:
    """Each task that changed: as it is in the record, and as it shall be."""
    net: dict[int, Change] = {}
    for change in changes:
        if change.after is not change.before or change.gone:
            first = net.get(change.after.arrival, change)
            net[change.after.arrival] = Change(first.before, change.after, None, change.gone)
    return list(net.values())


def ready_tags(task: Task) -> Iterable[Row]:
    if task.ready:
        for tag in task.tags:
            yield task.work_directory, tag, task.priority.rank, task.arrival


def tags_lost(change: Change) -> Iterable[Row]:
    if change.before is not None and (change.gone or change.before.tags != change.after.tags):
        yield from ((tag, change.before.arrival) for tag in change.before.tags)


def tags_won(change: Change) -> Iterable[Row]:
    if not change.gone and (change.before is None or change.before.tags != change.after.tags):
        yield from ((tag, change.after.arrival) for tag in change.after.tags)


def unmet(task: Task) -> tuple[str, ...]:
    return task.unmet if task.status is Status.WAITING else ()


def no_longer_unmet(change: Change) -> Iterable[Row]:
    """None is ever added after the creation."""
    if change.before is not None:
        left = () if change.gone else unmet(change.after)
        yield from ((parent, change.after.arrival) for parent in unmet(change.before) if parent not in left)


def log_rows(changes: Changes) -> Iterable[Row]:
    for change in changes:
        if not isinstance(change, Change):
            continue
        for line in change.log:
            yield change.after.arrival, line.number, line.attempt, line.at, line.line


def counts(net: Iterable[Change]) -> Iterable[Row]:
    """Of each work directory: by how much the numbers of its tasks change, by status; and its name."""
    found: dict[str, Counter[Status]] = {}
    for change in net:
        count = found.setdefault(change.after.work_directory, Counter())
        if change.before is not None:
            count[change.before.status] -= 1
        if not change.gone:
            count[change.after.status] += 1
    for work_directory, count in found.items():
        if any(count.values()):
            yield *(count[status] for status in Status), work_directory
