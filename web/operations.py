"""What is told to the world of each operation, beyond what its route and its handler say themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen

from dispatcher.events import EVENT_TYPES
from web import (
    audit,
    batches,
    bulk,
    config,
    directories,
    docs,
    events,
    explain,
    health,
    keys,
    limits,
    lists,
    logs,
    rate_limits,
    scrape,
    show,
    statistics,
    stream,
    tasks,
    workers,
)
from web.export import FORMS
from web.route import Handle
from web.views import ClaimedTask, Event

JSON = "application/json"
EVENTS = "text/event-stream"
HTML = "text/html"
PLAIN = "text/plain"

Tag = Literal["tasks", "claims", "directories", "keys", "system"]

TAGS: Mapping[Tag, str] = {
    "tasks": "What is to be done: create, look, steer.",
    "claims": "What workers say: claim, renew, report.",
    "directories": "Work directories and who works there: what lies in them, and the rules for them.",
    "keys": "Who may do what, and who did what.",
    "system": "The server itself, and this description.",
}


@frozen
class Link:
    """What may come next. `path` and `query` are parameters, `body` fields; each value is a JSON pointer into the
    answer, or a constant if it does not begin with a slash."""

    to: Handle
    path: Mapping[str, str] = field(factory=dict)
    query: Mapping[str, str] = field(factory=dict)
    body: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Operation:
    """`refuses`: codes that belong to it; those that everything may answer are added. `media`: what can be had, the
    default first. `takes` and `gives` are headers. `bare`: without the envelope, also when it is not well (503).
    `unwell`: what it then says, if more than when it is well. `events`: the data of each kind, for a stream."""

    tag: Tag
    statuses: Sequence[int] = (200,)
    refuses: Sequence[str] = ()
    media: Sequence[str] = (JSON,)
    takes: Sequence[Literal["Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID"]] = ()
    gives: Sequence[Literal["ETag", "Location", "Idempotent-Replayed"]] = ()
    links: Sequence[Link] = ()
    bare: bool = False
    unwell: Any = None
    events: Mapping[str, Any] = field(factory=dict)
    claims: bool = False  # looking at it changes something, so there is no HEAD

    @property
    def has_head(self) -> bool:
        return not self.claims and EVENTS not in self.media


NO_TASK = "TASK_NOT_FOUND"
LEASED = (NO_TASK, "LEASE_LOST")
REPORT = (NO_TASK, "INVALID_STATE", "LEASE_LOST")  # the status counts where there need be no token
CREATION = ("DEPENDENCY_NOT_FOUND", "IDEMPOTENCY_KEY_REUSED")


def _about(to: Handle, task: str = "/data") -> Link:
    return Link(to, path={"task_id": f"{task}/task_id"})


def _lease(to: Handle, task: str, **more: str) -> Link:
    body = {"lease_token": f"{task}/lease_token", **more}
    return Link(to, path={"task_id": f"{task}/task_id"}, body=body)


def _reports(task: str) -> tuple[Link, ...]:
    return (
        _lease(tasks.heartbeat, task),
        _lease(tasks.complete, task, original_prompt=f"{task}/prompt"),
        _lease(tasks.fail, task),
        _lease(tasks.release, task),
        _about(show.show, task),
    )


_NEXT = Link(tasks.claim_next, query={"work_path": "/data/work_directory"})
_STEER = (_about(show.show), _about(tasks.edit), _about(tasks.cancel), _about(show.history), _about(explain.explain))
_DIRECTORY = (Link(directories.resume, query={"path": "/data/work_directory"}),)

OPERATIONS: Mapping[Handle, Operation] = {
    tasks.create: Operation(
        tag="tasks",
        statuses=(201, 200),
        refuses=CREATION,
        takes=("Idempotency-Key",),
        gives=("Location", "ETag", "Idempotent-Replayed"),
        links=(*_STEER, _NEXT, Link(tasks.claim, body={"work_directory": "/data/work_directory"})),
    ),
    batches.create_many: Operation(
        tag="tasks",
        statuses=(201, 200),
        refuses=(*CREATION, "DEPENDENCY_CYCLE"),
        takes=("Idempotency-Key",),
        gives=("Idempotent-Replayed",),
        links=(_about(show.show, "/data/tasks/0"), _about(tasks.cancel, "/data/tasks/0")),
    ),
    lists.listing: Operation(tag="tasks", media=(JSON, *FORMS), links=(_about(show.show, "/data/tasks/0"),)),
    bulk.cancel: Operation(tag="tasks", refuses=("FILTER_TOO_WIDE",)),
    bulk.retry: Operation(tag="tasks", refuses=("FILTER_TOO_WIDE",)),
    bulk.delete: Operation(tag="tasks", refuses=("FILTER_TOO_WIDE",)),
    bulk.priority: Operation(tag="tasks", refuses=("FILTER_TOO_WIDE",)),
    tasks.claim_next: Operation(tag="claims", links=_reports("/data"), claims=True),
    tasks.claim: Operation(tag="claims", links=_reports("/data/tasks/0")),
    stream.stream: Operation(
        tag="claims",
        media=(EVENTS,),
        events={"task": ClaimedTask, "cancel": stream.Lost, "available": stream.Available, "drain": stream.Over},
    ),
    show.show: Operation(
        tag="tasks",
        statuses=(200, 304),
        refuses=(NO_TASK,),
        takes=("If-None-Match",),
        gives=("ETag",),
        links=(_about(tasks.edit),),
    ),
    show.history: Operation(tag="tasks", refuses=(NO_TASK,)),
    logs.read: Operation(
        tag="tasks",
        refuses=(NO_TASK,),
        media=(JSON, EVENTS),
        takes=("Last-Event-ID",),
        events={"log": logs.Line, "end": logs.End},
    ),
    logs.append: Operation(tag="claims", refuses=(*REPORT, "LOG_FULL"), links=(_about(logs.read),)),
    events.task_events: Operation(
        tag="tasks",
        statuses=(200, 204),
        refuses=(NO_TASK,),
        media=(EVENTS,),
        takes=("Last-Event-ID",),
        events={**dict.fromkeys(EVENT_TYPES, Event), "gap": events.Gap},
    ),
    explain.explain: Operation(tag="tasks", refuses=(NO_TASK,)),
    tasks.heartbeat: Operation(tag="claims", refuses=LEASED),
    tasks.complete: Operation(
        tag="claims",
        refuses=(*REPORT, "PROMPT_MISMATCH"),
        links=(_about(show.show), _about(tasks.delete), *_reports("/data/next")[:2]),
    ),
    tasks.fail: Operation(tag="claims", refuses=REPORT, links=(_about(tasks.retry), _about(tasks.cancel))),
    tasks.release: Operation(tag="claims", refuses=LEASED, links=(_about(show.show),)),
    tasks.edit: Operation(
        tag="tasks",
        refuses=(NO_TASK, "INVALID_STATE", "VERSION_CONFLICT"),
        takes=("If-Match",),
        gives=("ETag",),
        links=(_about(show.show),),
    ),
    tasks.delete: Operation(
        tag="tasks",
        refuses=(NO_TASK, "INVALID_STATE", "VERSION_CONFLICT"),
        takes=("If-Match",),
        links=(_about(show.show), _about(show.history)),
    ),
    tasks.cancel: Operation(
        tag="tasks", refuses=(NO_TASK, "INVALID_STATE"), gives=("ETag",), links=(_about(tasks.delete),)
    ),
    tasks.retry: Operation(
        tag="tasks", refuses=(NO_TASK, "INVALID_STATE", "RETRY_LIMIT_REACHED"), gives=("ETag",), links=(_NEXT,)
    ),
    directories.listing: Operation(tag="directories"),
    directories.regulate: Operation(tag="directories", links=_DIRECTORY),
    directories.pause: Operation(tag="directories", links=_DIRECTORY),
    directories.resume: Operation(tag="directories"),
    directories.drain: Operation(tag="directories", links=_DIRECTORY),
    workers.listing: Operation(tag="directories"),
    events.events: Operation(
        tag="system",
        media=(EVENTS, JSON),
        takes=("Last-Event-ID",),
        events={**dict.fromkeys(EVENT_TYPES, Event), "gap": events.Gap},
    ),
    statistics.statistics: Operation(tag="system"),
    keys.create: Operation(
        tag="keys",
        statuses=(201,),
        refuses=("ALREADY_EXISTS",),
        links=(Link(keys.revoke, path={"name": "/data/name"}),),
    ),
    keys.listing: Operation(tag="keys"),
    keys.revoke: Operation(tag="keys", refuses=("NOT_FOUND", "LAST_ADMIN")),
    keys.session: Operation(tag="keys"),
    keys.open_: Operation(tag="keys", statuses=(201,), refuses=("UNAUTHORIZED",)),
    keys.close: Operation(tag="keys"),
    audit.listing: Operation(tag="keys"),
    audit.verify: Operation(tag="keys"),
    config.show: Operation(tag="system"),
    config.change: Operation(tag="system"),
    config.history: Operation(tag="system"),
    config.rollback: Operation(tag="system"),
    limits.show: Operation(tag="system"),
    rate_limits.show: Operation(tag="system"),
    health.health: Operation(tag="system", bare=True, unwell=health.Health | health.Starting),
    health.live: Operation(tag="system", bare=True),
    health.ready: Operation(tag="system", bare=True),
    scrape.scrape: Operation(tag="system", media=(PLAIN,)),
    docs.document: Operation(tag="system", bare=True),
    docs.page: Operation(tag="system", media=(HTML,)),
}


def told_of(handler: Handle) -> Operation:
    return OPERATIONS[handler]
