"""Why is a task not being worked on, and how long will that last?"""

from collections.abc import Iterator, Mapping
from typing import Literal, NotRequired, TypedDict

from aiohttp.web import Request, Response
from attrs import frozen

from dispatcher.errors import TaskNotFound
from dispatcher.record import Outcome, Place
from dispatcher.situation import Situation
from dispatcher.task import Status, Task
from web.access.redaction import seen
from web.answers import ok
from web.bodies import AboutTask
from web.codec import rfc3339
from web.service import Service


class Reason(TypedDict):
    """One of those that keep a task from being worked on; `detail` is a sentence for people."""

    kind: Literal["paused", "run_at", "dependency", "directory_limit", "global_limit", "priority", "no_worker"]
    detail: str
    task_id: NotRequired[str]  # the dependency
    status: NotRequired[Status | None]  # of the dependency; null: it has been deleted
    run_at: NotRequired[str]
    ahead: NotRequired[int]  # tasks that come first
    working: NotRequired[int]  # tasks of its directory that are being worked on


class Explanation(TypedDict):
    task_id: str
    status: Status
    position: int | None
    estimated_wait_seconds: float | None
    blocked_by: list[Reason]


@frozen
class Case:
    """All that an explanation is made of."""

    task: Task
    situation: Situation
    place: Place | None  # None: it does not stand in the line of its directory
    parents: Mapping[str, Outcome]
    now: int


async def explain(service: Service, asked: AboutTask, request: Request) -> Response:
    """Say why a task is not being worked on, what its position is, and how long that may last."""
    task = await service.record.task(asked.task_id)
    if task is None:
        raise TaskNotFound(asked.task_id)
    aging_seconds = service.settings.task.priority_aging_seconds
    place = await service.record.place(task, aging_seconds) if task.ready else None
    parents = await service.record.outcomes(task.unmet, 0) if task.unmet else {}
    now = service.clock()
    case = Case(task, await _situation(service, task), place, parents, now)
    told: Explanation = {
        "task_id": task.task_id,
        "status": task.status,
        "position": None if place is None else 1 + place.more_urgent + place.older,
        "estimated_wait_seconds": estimate(case),
        "blocked_by": list(reasons(case)) if task.status is Status.WAITING else [],
    }
    return ok(told, now)


async def _situation(service: Service, task: Task) -> Situation:
    here = await service.record.directory(task.work_directory)
    working, limit = await service.record.working(), service.settings.task.max_concurrent_tasks
    working_here, limit_here = here.tasks[Status.WORKING], here.rules.max_working
    return Situation(
        rules=here.rules,
        working_here=working_here,
        working=working,
        max_concurrent_tasks=limit,
        is_directory_full=limit_here is not None and working_here >= limit_here,
        is_full=0 < limit <= working,
        waiters=await service.waiting_in(task.work_directory, task.tags),
        attempt_seconds=service.dispatcher.attempt_seconds(task.work_directory),
    )


def reasons(case: Case) -> Iterator[Reason]:
    """Everything that keeps a waiting task from being worked on at this moment."""
    yield from _of_itself(case)
    yield from _of_operators(case)
    if (place := case.place) and (ahead := place.more_urgent + place.older):
        detail = f"{place.more_urgent} more urgent and {place.older} older tasks of its directory are ahead of it"
        yield {"kind": "priority", "detail": detail, "ahead": ahead}
    if case.place and not case.situation.waiters:
        working = case.situation.working_here
        detail = f"no worker is waiting for it; {working} tasks of its directory are being worked on"
        yield {"kind": "no_worker", "detail": detail, "working": working}


def _of_itself(case: Case) -> Iterator[Reason]:
    for task_id in case.task.unmet:
        parent = case.parents.get(task_id)
        state = f"which is {parent.status}" if parent else "which has been deleted and will never complete"
        detail = f"it waits for task {task_id}, {state}"
        yield {"kind": "dependency", "detail": detail, "task_id": task_id, "status": parent.status if parent else None}
    if case.task.available_at > case.now:
        moment = rfc3339(case.task.available_at)
        yield {"kind": "run_at", "detail": f"it is not to run before {moment}", "run_at": moment}


def _of_operators(case: Case) -> Iterator[Reason]:
    rules, situation = case.situation.rules, case.situation
    if rules.paused:
        until = f" until {rfc3339(rules.paused_until)}" if rules.paused_until else ""
        why = f": {seen(rules.paused_reason)}" if rules.paused_reason else ""
        yield {"kind": "paused", "detail": f"its work directory is paused{until}{why}"}
    if rules.draining:
        yield {"kind": "paused", "detail": "its work directory is being drained"}
    if situation.is_directory_full:
        detail = (
            f"{situation.working_here} tasks of its directory are being worked on, max_working is {rules.max_working}"
        )
        yield {"kind": "directory_limit", "detail": detail}
    if situation.is_full:
        limit = situation.max_concurrent_tasks
        detail = f"{situation.working} tasks are being worked on, max_concurrent_tasks is {limit}"
        yield {"kind": "global_limit", "detail": detail}


def estimate(case: Case) -> float | None:
    """Seconds until it is started, judging by the tasks of late in its directory; None if that cannot be said."""
    task, situation = case.task, case.situation
    rules = situation.rules
    if task.status is not Status.WAITING or task.unmet or rules.draining or (rules.paused and not rules.paused_until):
        return None
    soonest = max(0, task.available_at - case.now, (rules.paused_until or 0) - case.now) / 1000
    if case.place is None:
        return soonest
    workers = _workers(situation)
    nobody_is_free = situation.waiters == 0 or situation.is_directory_full or situation.is_full
    waves = (case.place.more_urgent + case.place.older + nobody_is_free) / max(workers, 1)
    if not waves:
        return soonest
    if not workers or situation.attempt_seconds is None:
        return None
    return round(soonest + waves * situation.attempt_seconds, 3)


def _workers(situation: Situation) -> int:
    """How many can work in the directory at once."""
    limits = [situation.waiters + situation.working_here]
    if situation.rules.max_working is not None:
        limits.append(situation.rules.max_working)
    if situation.max_concurrent_tasks:
        limits.append(situation.max_concurrent_tasks)
    return min(limits)
