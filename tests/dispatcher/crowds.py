"""One thing done to many tasks, in the naive server: each is looked at by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dispatcher.messages import Cancel, Delete, Edit, Retry, SteerMany
from tests.dispatcher.jobs import ENDED, Job

if TYPE_CHECKING:
    from tests.dispatcher.oracle import Oracle

ALLOWED = {"cancel": ("waiting", "failed"), "retry": ("failed",), "delete": ENDED, "priority": ("waiting", "failed")}


def steer_many(oracle: Oracle, many: SteerMany, now: int) -> Any:
    skipped, changed = {}, 0
    for name in many.task_ids:
        job = next((job for job in oracle.jobs if job.id == name and not job.deleted), None)
        if job is not None and not oracle.sees(many, job.create.work_directory):
            job = None
        if many.only is not None and (job is None or not is_meant(many.only, job)):
            continue
        if refusal := _refusal(many.action, job):
            skipped[name] = refusal
            continue
        changed += 1
        if not many.dry_run:
            oracle.speak_of_one(_alone(many, name), now)
    return {"matched": changed + len(skipped), "changed": changed, "skipped": skipped}


def is_meant(only: Any, job: Job) -> bool:
    task = job.create
    if only.statuses and job.status not in only.statuses:
        return False
    if only.work_directories and task.work_directory not in only.work_directories:
        return False
    if only.priorities and task.priority not in only.priorities:
        return False
    if only.worker_ids and job.worker not in only.worker_ids:
        return False
    if only.text is not None and only.text.lower() not in task.prompt.lower():
        return False
    after = -1 if only.created_after is None else only.created_after
    if not after < job.created_at < (10**15 if only.created_before is None else only.created_before):
        return False
    borne = len(set(only.tags) & set(task.tags))
    return borne > 0 or not only.tags if only.tag_mode == "any" else borne == len(only.tags)


def _refusal(action: str, job: Job | None) -> str | None:
    if job is None:
        return "TaskNotFound"
    if job.status not in ALLOWED[action]:
        return "InvalidState"
    return "RetryLimitReached" if action == "retry" and not job.retries_left else None


def _alone(many: SteerMany, name: str) -> Any:
    if many.action == "cancel":
        return Cancel(task_id=name, reason=many.reason)
    if many.action == "retry":
        return Retry(task_id=name)
    if many.action == "delete":
        return Delete(task_id=name)
    assert many.priority is not None
    return Edit(task_id=name, priority=many.priority)
