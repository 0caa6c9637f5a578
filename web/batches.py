"""Many tasks in one request."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from aiohttp.web import Request, Response

from dispatcher.errors import BatchRefused, DependencyNotFound, Refusal
from dispatcher.fields import REF
from dispatcher.messages import Created, CreateMany, Draft
from dispatcher.task import Status
from web.access.redaction import Redaction
from web.answers import DIGEST, Failure, failure, idempotency_key, ok
from web.bodies import Batch
from web.codec import Fault, Invalid, rfc3339, structure
from web.refusals import FaultyFields, FieldFault
from web.service import Service
from web.strict import FAULTS_MAX

Faults = Mapping[int, Exception]


class MadeTask(TypedDict):
    index: int
    task_id: str
    ref: str | None
    status: Status
    blocked_by: Sequence[str]
    created_at: str


class RefusedTask(TypedDict):
    index: int
    code: str
    message: str
    details: FaultyFields


class MadeTasks(TypedDict):
    tasks: list[MadeTask]
    errors: list[RefusedTask]


async def create_many(service: Service, asked: Batch, request: Request) -> Response:
    """Create many tasks: all or none, or if not `atomic` as many as are right."""
    key = idempotency_key(request)
    made, is_replayed = await make(service, asked, key, request[DIGEST] if key else None)
    if is_replayed:
        return ok(made, service.clock(), 200, {"Idempotent-Replayed": "true"})
    return ok(made, service.clock(), 201)


async def make(service: Service, asked: Batch, key: str | None, digest: str | None) -> tuple[MadeTasks, bool]:
    """The tasks, and whether all of them were there already. `digest`: of what was asked under the key."""
    drafts, invalid = _read(asked.tasks)
    try:
        outcomes = await service.ask(CreateMany(tuple(drafts), asked.atomic, key, digest))
    except BatchRefused as refused:
        raise _refused(invalid | _true_faults(refused.faults, asked.tasks, invalid)) from None
    created = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, Created)}
    faults = invalid | {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, Refusal)}
    hide = service.door.veil.redaction
    made: MadeTasks = {
        "tasks": [_created(place, drafts[place], outcome) for place, outcome in created.items()],
        "errors": [_error(place, fault, hide) for place, fault in sorted(faults.items())],
    }
    return made, bool(created) and all(outcome.replayed for outcome in created.values())


def _read(tasks: Sequence[object]) -> tuple[list[Draft | None], dict[int, Exception]]:
    """Each of them, None where it breaks the rules; and how."""
    drafts: list[Draft | None] = []
    invalid: dict[int, Exception] = {}
    refs: dict[object, int] = {}
    for place, task in enumerate(tasks):
        ref = task.get("ref") if isinstance(task, dict) else None
        faults: list[Fault] = []
        if isinstance(ref, str) and (first := refs.setdefault(ref, place)) != place:
            faults.append(Fault("ref", f"is already that of tasks[{first}]"))
        draft = None
        try:
            draft = structure(task, Draft)
        except Invalid as error:
            faults += error.faults
        drafts.append(None if faults else draft)
        if faults:
            invalid[place] = Invalid(faults)
    return drafts, invalid


def _true_faults(faults: Mapping[int, Refusal], tasks: Sequence[Any], invalid: Faults) -> dict[int, Refusal]:
    """Without those that are none once the invalid tasks are mended: to depend on one of them."""
    refs = {f"{REF}{task.get('ref')}" for place in invalid if isinstance(task := tasks[place], dict)}

    def is_true(fault: Refusal) -> bool:
        return not isinstance(fault, DependencyNotFound) or not refs.issuperset(fault.missing.values())

    return {place: fault for place, fault in faults.items() if is_true(fault)}


def _refused(faults: Faults) -> Failure:
    """The first one decides what kind of failure it is; all are named."""
    failures = {place: failure(fault) for place, fault in sorted(faults.items())}
    first = next(iter(failures.values()))
    errors = [error for place, it in failures.items() for error in _errors(place, it)][:FAULTS_MAX]
    details = {"field": errors[0]["field"], "reason": errors[0]["reason"], "errors": errors}
    return Failure(first.status, first.code, f"{errors[0]['field']}: {errors[0]['reason']}", details)


def _errors(place: int, failure: Failure) -> Iterable[FieldFault]:
    of_task: Any = failure.details.get("errors", [{"field": "", "reason": failure.message}])
    for error in of_task:
        path = f"tasks[{place}]" + (f".{error['field']}" if error["field"] not in ("", "body") else "")
        yield {"field": path, "reason": error["reason"], "code": failure.code}


def _error(place: int, fault: Exception, hide: Redaction) -> RefusedTask:
    told = hide.failure(failure(fault))
    errors = list(_errors(place, told))
    details: Any = {**told.details, "field": errors[0]["field"], "reason": errors[0]["reason"], "errors": errors}
    return {"index": place, "code": told.code, "message": told.message, "details": details}


def _created(place: int, draft: Draft | None, created: Created) -> MadeTask:
    task = created.task
    return {
        "index": place,
        "task_id": task.task_id,
        "ref": draft.ref if draft else None,
        "status": task.status,
        "blocked_by": task.unmet,
        "created_at": rfc3339(task.created_at),
    }
