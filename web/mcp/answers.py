"""What tools answer: what REST says, without nulls, and without what the caller has just said."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from orjson import loads

from dispatcher.fields import Priority
from dispatcher.task import Status, Task
from web.access.redaction import seen
from web.codec import encode, rfc3339
from web.views import ClaimedTask, moment

SUMMARY_CHARACTERS = 80
T = TypeVar("T")

NOTHING: tuple[object, ...] = (None, (), [], {})


class Brief(TypedDict):
    """A task in a list; where it belongs, if that may be in several places."""

    task_id: str
    status: Status
    work_directory: NotRequired[str]
    priority: Priority
    summary: str
    worker_id: NotRequired[str]
    error: NotRequired[str]


class Briefs(TypedDict):
    tasks: Sequence[Brief]
    total: int
    next_cursor: NotRequired[str]


class Created(TypedDict):
    task_id: str
    status: Status
    created_at: str
    available_at: str
    blocked_by: NotRequired[Sequence[str]]
    replayed: NotRequired[bool]


class Made(TypedDict):
    """One of many; those that were refused are told with their places, codes and reasons."""

    index: int
    task_id: str
    status: Status
    ref: NotRequired[str]
    blocked_by: NotRequired[Sequence[str]]


class ManyMade(TypedDict):
    tasks: Sequence[Made]
    errors: NotRequired[Sequence[Mapping[str, Any]]]


class Outcome(TypedDict):
    task_id: str
    status: Status
    completed_at: NotRequired[str]
    available_at: NotRequired[str]
    retry_count: NotRequired[int]


class Renewed(TypedDict):
    lease_expires_at: str
    deadline_at: str


class Claimed(TypedDict):
    """`retry`: claim again, it was only that nothing came in time."""

    task: Mapping[str, Any] | None
    resumed: bool
    retry: bool
    why: str


class Done(Outcome):
    next: NotRequired[Claimed]


class Directory(TypedDict):
    work_directory: str
    waiting: int
    working: int
    completed: int
    failed: int
    cancelled: int


class Stats(TypedDict):
    """`omitted`: so many directories more, in which there is less to do."""

    total: int
    by_status: Mapping[str, int]
    work_directories: Sequence[Directory]
    omitted: NotRequired[int]


class Whole(TypedDict):
    task_id: str
    status: Status
    work_directory: str
    prompt: str


def compact(of: type[T], view: Mapping[str, Any], keep: Collection[str] = ()) -> T:
    """The answer without what is null or empty, but for what is to be kept; what is within is as somebody said it."""
    return cast(T, {name: value for name, value in view.items() if name in keep or value not in NOTHING})


def plain(view: Mapping[str, Any]) -> Any:
    """Its fragments of JSON taken apart."""
    return loads(encode(view))


def whole(view: dict[str, Any], keep: Collection[str] = ()) -> Whole:
    """Of a task that is shown, with what was included."""
    if view["progress"]:
        view["progress"] = compact(dict[str, Any], view["progress"])
    if "history" in view:
        view["history"] = [compact(dict[str, Any], line) for line in view["history"]]
    return compact(Whole, view, keep)


def brief(task: Task, *, is_placed: bool) -> Brief:
    return compact(
        Brief,
        {
            "task_id": task.task_id,
            "status": task.status,
            "work_directory": None if is_placed else task.work_directory,
            "priority": task.priority,
            "summary": _cut(seen(task.prompt)),
            "worker_id": task.worker_id,
            "error": _cut(seen(task.error_message)) if task.error_message and task.status is Status.FAILED else None,
        },
    )


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SUMMARY_CHARACTERS else f"{line[: SUMMARY_CHARACTERS - 1]}…"


def created(task: Task, replayed: bool) -> Created:
    return compact(
        Created,
        {
            "task_id": task.task_id,
            "status": task.status,
            "created_at": rfc3339(task.created_at),
            "available_at": rfc3339(task.available_at),
            "blocked_by": task.unmet,
            "replayed": replayed or None,
        },
    )


def outcome(task: Task) -> Outcome:
    """`available_at`, if it is to be worked on once more."""
    waits = task.status is Status.WAITING
    return compact(
        Outcome,
        {
            "task_id": task.task_id,
            "status": task.status,
            "completed_at": moment(task.completed_at),
            "available_at": rfc3339(task.available_at) if waits else None,
            "retry_count": task.retry_count or None,
        },
    )


def claimed(briefed: ClaimedTask) -> Mapping[str, Any]:
    """Its metadata and the results of its parents are theirs, nulls and all."""
    view = plain(briefed)
    view["dependencies"] = [compact(dict[str, Any], parent) for parent in view["dependencies"]]
    return compact(dict[str, Any], view)
