"""What tools may be asked. Whatever REST knows is asked as there."""

from typing import Annotated

from annotated_types import Ge, Le, MaxLen, MinLen
from attrs import fields, frozen

from dispatcher.fields import LeaseSeconds, Rule, Tags, TaskId, WorkDirectory, WorkerId
from dispatcher.messages import Complete, Create
from dispatcher.record import Sort
from web.answers import IDEMPOTENCY_KEY_CHARACTERS
from web.bodies import Batch, Show
from web.filters import Cursor, ListQuery, TaskFilter

WAIT_SECONDS_MAX = 50  # clients give up on a call after 60
WAIT_SECONDS = 25

ShortWait = Annotated[float, Ge(0), Le(WAIT_SECONDS_MAX)]


def printable(key: str) -> str:
    """Printable ASCII characters."""
    if not (key.isascii() and key.isprintable()):
        raise ValueError("must be printable ASCII characters")
    return key


IdempotencyKey = Annotated[str, MinLen(1), MaxLen(IDEMPOTENCY_KEY_CHARACTERS), Rule(printable)]


@frozen(kw_only=True)
class NamedTask:
    task_id: TaskId


@frozen(kw_only=True)
class NamedWorker:
    worker_id: WorkerId


@frozen(kw_only=True)
class Listing(TaskFilter):
    sort: Sort = "-created_at"
    limit: Annotated[int, Ge(1), Le(100)] = 20
    cursor: Cursor | None = None

    def query(self) -> ListQuery:
        return ListQuery(**{field.name: getattr(self, field.name) for field in fields(Listing)})


@frozen(kw_only=True)
class Look(Show):
    """With `until` it waits for the outcome."""

    wait_seconds: ShortWait = 0


@frozen(kw_only=True)
class AboutStats:
    work_directory: WorkDirectory | None = None


@frozen(kw_only=True)
class NewTask(Create):
    """Said again with the same `idempotency_key`, it gets the task that was made then."""

    idempotency_key: IdempotencyKey | None = None


@frozen(kw_only=True)
class NewTasks(Batch):
    idempotency_key: IdempotencyKey | None = None


@frozen(kw_only=True)
class AnotherTask:
    work_directory: WorkDirectory
    worker_id: WorkerId | None = None
    wait_seconds: ShortWait = 0
    lease_seconds: LeaseSeconds | None = None
    tags: Tags = ()


@frozen(kw_only=True)
class NextTask(AnotherTask):
    wait_seconds: ShortWait = WAIT_SECONDS


@frozen(kw_only=True)
class Report(Complete):
    """And what to claim once it is accepted."""

    claim_next: AnotherTask | None = None

    def report(self) -> Complete:
        return Complete(**{field.name: getattr(self, field.name) for field in fields(Complete)})
