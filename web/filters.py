"""Which tasks a request is about, as query parameters or as the `filter` of a body: lists by comma, or JSON lists.
And how a list of them is asked for."""

from collections.abc import Iterable
from typing import Annotated, Literal

from annotated_types import MaxLen, MinLen
from attrs import frozen

from dispatcher.fields import (
    Instant,
    Listed,
    Offset,
    PageLimit,
    Priority,
    Rule,
    Tag,
    WorkDirectory,
    WorkerId,
    by_comma,
    by_path,
    distinct,
    text,
)
from dispatcher.record import Filter, Sort
from dispatcher.task import Status
from web.access.redaction import over_payloads
from web.answers import Failure

SEARCH_OFFSET_MAX = 10_000  # what lies before a page of a search is searched for, too

Cursor = Annotated[str, MinLen(1), MaxLen(500)]
FEW = (MinLen(1), MaxLen(100), Rule(distinct))


@frozen(kw_only=True)
class TaskFilter:
    status: Annotated[tuple[Status, ...], Listed(by_comma), *FEW] | None = None
    work_directory: Annotated[tuple[WorkDirectory, ...], Listed(by_path), *FEW] | None = None
    priority: Annotated[tuple[Priority, ...], Listed(by_comma), *FEW] | None = None
    tags: Annotated[tuple[Tag, ...], Listed(by_comma), MinLen(1), MaxLen(50), Rule(distinct)] | None = None
    tag_mode: Literal["all", "any"] = "all"
    worker_id: Annotated[tuple[WorkerId, ...], Listed(by_comma), *FEW] | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None
    q: Annotated[str, MinLen(1), MaxLen(1000), Rule(text)] | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.tag_mode == "any" and self.tags is None:
            yield "tags", "is required with tag_mode"

    def filter(self) -> Filter:
        """Raises a 403 Failure where a search would find what may not be seen, letter by letter."""
        if self.q is not None and over_payloads():
            raise Failure(
                403, "FORBIDDEN", "to search in prompts takes a key with the scope payload", {"scope": "payload"}
            )
        return Filter(
            statuses=self.status or (),
            work_directories=self.work_directory or (),
            priorities=self.priority or (),
            tags=self.tags or (),
            tag_mode=self.tag_mode,
            worker_ids=self.worker_id or (),
            created_after=self.created_after,
            created_before=self.created_before,
            text=self.q,
        )


@frozen(kw_only=True)
class ListQuery(TaskFilter):
    """A page begins at an `offset`, or where the `next_cursor` of the page before says."""

    sort: Sort = "-created_at"
    limit: PageLimit = 100
    offset: Offset | None = None
    cursor: Cursor | None = None

    def faults(self) -> Iterable[tuple[str, str]]:
        yield from TaskFilter.faults(self)
        if self.cursor is not None and self.offset is not None:
            yield "cursor", "cannot be given together with offset"
        if self.q is not None and (self.offset or 0) > SEARCH_OFFSET_MAX:
            yield "offset", f"must be at most {SEARCH_OFFSET_MAX} together with q: go on with a cursor"
