"""What requests may say beyond the dispatcher's own messages: query strings, and the body of a claim."""

from collections.abc import Iterable
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from attrs import field, fields, frozen

from dispatcher.audit import AuditFilter, Head, head_of
from dispatcher.caller import Scope
from dispatcher.events import EventType
from dispatcher.fields import (
    ClaimId,
    ClaimLimit,
    DirectoryPattern,
    Instant,
    JsonObject,
    KeyName,
    Later,
    LeaseSeconds,
    Listed,
    Offset,
    PageLimit,
    Priority,
    Reason,
    Rule,
    Tags,
    TaskId,
    WaitSeconds,
    Wire,
    WorkDirectory,
    WorkerId,
    by_comma,
    by_path,
    distinct,
    text,
)
from dispatcher.messages import Claim, Complete, Regulate
from dispatcher.record import EventFilter
from web.codec import Fault, Invalid
from web.filters import FEW, TaskFilter

AuditWord = Annotated[str, MinLen(1), MaxLen(100), Rule(text)]
TaskIds = Annotated[tuple[TaskId, ...], Rule(distinct)]


@frozen
class Nothing:
    """No parameters."""


@frozen(kw_only=True)
class NewKey:
    """`work_directories` are patterns."""

    name: KeyName
    scopes: Annotated[tuple[Scope, ...], MinLen(1), Rule(distinct)]
    work_directories: Annotated[tuple[DirectoryPattern, ...], MinLen(1), MaxLen(100), Rule(distinct)] = ("*",)
    expires_at: Instant | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if "admin" in self.scopes and "*" not in self.work_directories:
            yield "work_directories", "cannot be given with admin, which is for all of them"

    def check_expiry(self, now: int) -> None:
        if self.expires_at is not None and self.expires_at <= now:
            raise Invalid([Fault("expires_at", "must be in the future")])


@frozen
class AboutKey:
    name: str


@frozen(kw_only=True)
class Credential:
    key: Annotated[str, MinLen(1), MaxLen(500)] = field(repr=False)


@frozen(kw_only=True)
class Next:
    work_path: WorkDirectory
    worker_id: WorkerId | None = None
    wait_seconds: WaitSeconds = 0
    lease_seconds: LeaseSeconds | None = None
    tags: Tags = ()

    def claim(self) -> Claim:
        return Claim(
            work_directories=(self.work_path,),
            worker_id=self.worker_id,
            wait_seconds=self.wait_seconds,
            lease_seconds=self.lease_seconds,
            tags=self.tags,
        )


@frozen(kw_only=True)
class ClaimBody:
    work_directory: WorkDirectory | None = None
    work_directories: Annotated[tuple[WorkDirectory, ...], MinLen(1), MaxLen(100), Rule(distinct)] | None = None
    worker_id: WorkerId | None = None
    limit: ClaimLimit = 1
    wait_seconds: WaitSeconds = 0
    lease_seconds: LeaseSeconds | None = None
    tags: Tags = ()
    claim_id: ClaimId | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.work_directory is None and self.work_directories is None:
            yield "work_directory", "is required, or work_directories"
        if self.work_directory is not None and self.work_directories is not None:
            yield "work_directories", "cannot be given together with work_directory"

    def claim(self) -> Claim:
        one = (self.work_directory,) if self.work_directory is not None else ()
        return Claim(
            work_directories=one or self.work_directories or (),
            worker_id=self.worker_id,
            limit=self.limit,
            wait_seconds=self.wait_seconds,
            lease_seconds=self.lease_seconds,
            tags=self.tags,
            claim_id=self.claim_id,
        )


@frozen(kw_only=True)
class NextClaim:
    work_directory: WorkDirectory
    worker_id: WorkerId | None = None
    wait_seconds: WaitSeconds = 0
    lease_seconds: LeaseSeconds | None = None
    tags: Tags = ()
    claim_id: ClaimId | None = None


@frozen(kw_only=True)
class CompleteBody(Complete):
    """A report, and what to claim once it is accepted."""

    claim_next: NextClaim | None = None

    def report(self) -> Complete:
        return Complete(**{field.name: getattr(self, field.name) for field in fields(Complete)})

    def claim(self) -> Claim | None:
        """Named after the lease of the report, if it has no name, so that a repeated call gets the same task."""
        if (claim := self.claim_next) is None:
            return None
        after = f"after {self.lease_token}" if self.lease_token else None
        return Claim(
            work_directories=(claim.work_directory,),
            worker_id=claim.worker_id,
            wait_seconds=claim.wait_seconds,
            lease_seconds=claim.lease_seconds,
            tags=claim.tags,
            claim_id=claim.claim_id or after,
        )


@frozen(kw_only=True)
class Batch:
    """The tasks are read one by one, so that each fault is told with its place."""

    tasks: Annotated[tuple[object, ...], MinLen(1), MaxLen(1000)]
    atomic: bool = True


@frozen(kw_only=True)
class Many:
    """Which tasks, by their ids or by what they are. The ids are read a piece at a time, so that nobody is held up."""

    ids: Annotated[tuple[object, ...], MinLen(1), MaxLen(100_000), Later(TaskIds)] | None = None
    filter: TaskFilter | None = None
    all: bool = False
    dry_run: bool = False
    reason: Reason | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.ids is None and self.filter is None:
            yield "ids", "is required, or filter"
        if self.ids is not None and self.filter is not None:
            yield "filter", "cannot be given together with ids"
        if self.ids is not None and self.all:
            yield "all", "cannot be given together with ids"


@frozen(kw_only=True)
class ManyOfPriority(Many):
    priority: Priority


@frozen(kw_only=True)
class AboutTask:
    task_id: str


@frozen(kw_only=True)
class Path:
    """The query of whatever is about a work directory."""

    path: WorkDirectory


@frozen(kw_only=True)
class AboutDirectory:
    work_directory: WorkDirectory


@frozen(kw_only=True)
class Pause:
    work_directory: WorkDirectory
    paused_reason: Reason | None = None
    paused_until: Instant | None = None

    def rules(self) -> Regulate:
        return Regulate(
            work_directory=self.work_directory,
            paused=True,
            paused_reason=self.paused_reason,
            paused_until=self.paused_until,
        )


@frozen(kw_only=True)
class Show:
    task_id: str
    include: Annotated[tuple[Literal["history", "logs"], ...], Rule(distinct)] = ()
    wait_seconds: WaitSeconds = 0
    until: Literal["terminal"] | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.wait_seconds and self.until is None:
            yield "until", "is required with wait_seconds"


@frozen(kw_only=True)
class HistoryQuery:
    """Lines of a task's history with a seq beyond `after`."""

    task_id: str
    after: Offset = 0
    limit: PageLimit = 1000


@frozen(kw_only=True)
class Logs:
    """Lines beyond the number `after`: a page of them, or all there are and will be. `attempt`: of that one alone."""

    task_id: str
    after: Offset = 0
    limit: PageLimit | None = None
    attempt: Annotated[int, Ge(1), Le(2**63 - 1)] | None = None
    follow: bool = False

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.follow and self.limit is not None:
            yield "limit", "cannot be given together with follow"


@frozen(kw_only=True)
class Stream:
    work_path: WorkDirectory
    worker_id: WorkerId | None = None
    capacity: Annotated[int, Ge(1), Le(100)] = 1
    lease_seconds: LeaseSeconds = 60
    tags: Tags = ()
    mode: Literal["assign", "notify"] = "assign"


@frozen(kw_only=True)
class ChangeSettings:
    """`changes` are `{"section.key": value}`; null takes back what was set so before."""

    changes: JsonObject
    reason: Reason | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if not self.changes:
            yield "changes", "must name a setting"


@frozen(kw_only=True)
class Rollback:
    version: Annotated[int, Ge(0), Le(2**63 - 1)]
    reason: Reason | None = None


@frozen(kw_only=True)
class SettingsHistory:
    limit: PageLimit = 100
    offset: Offset = 0


@frozen(kw_only=True)
class EventsQuery:
    """A stream begins behind `after`, or with what happens from now on; a page behind `after`, or at the beginning."""

    after: Offset | None = None
    work_directory: Annotated[tuple[WorkDirectory, ...], Listed(by_path), MaxLen(100), Rule(distinct)] = ()
    types: Annotated[tuple[EventType, ...], Listed(by_comma), MaxLen(100), Rule(distinct)] = ()
    task_id: TaskId | None = None
    limit: PageLimit | None = None

    def filter(self) -> EventFilter:
        return EventFilter(work_directories=self.work_directory, types=self.types, task_id=self.task_id)


@frozen(kw_only=True)
class TaskEventsQuery:
    """It begins behind `after`, or with the creation of the task."""

    task_id: str
    after: Offset | None = None


@frozen(kw_only=True)
class AuditQuery:
    """The newest first, or those before the number `before`; with `after`, those behind that one, the oldest first."""

    after: Offset | None = None
    before: Annotated[int, Ge(1), Le(2**63 - 1)] | None = None
    limit: PageLimit = 100
    who: Annotated[str, MinLen(1), MaxLen(512), Rule(text)] | None = None
    action: Annotated[tuple[AuditWord, ...], Listed(by_comma), *FEW] | None = None
    outcome: Annotated[tuple[AuditWord, ...], Listed(by_comma), *FEW] | None = None
    from_: Instant | None = None
    to: Instant | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.after is not None and self.before is not None:
            yield "before", "cannot be given together with after"

    def filter(self) -> AuditFilter:
        return AuditFilter(
            who=self.who, actions=self.action or (), outcomes=self.outcome or (), since=self.from_, until=self.to
        )


@frozen(kw_only=True)
class AuditEnd:
    """`head`, as NUMBER:HASH: an entry that the log is known to have had."""

    head: Annotated[Head, Wire(str, head_of)] | None = None
