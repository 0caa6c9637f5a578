"""What a claim gets in the naive server, and when it is the turn of those who wait. Found by looking through all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define

from dispatcher.messages import Claim
from tests.dispatcher.jobs import Job

if TYPE_CHECKING:
    from tests.dispatcher.oracle import Oracle

RANK = {"low": 0, "medium": 1, "high": 2}
Answered = Callable[[object], list[str] | None]  # what a parked claim, by its key, was given; None for nothing yet


@define
class Parked:
    claim: Claim
    until: float
    key: object


def take(oracle: Oracle, claim: Claim, now: int) -> list[Any]:
    chosen = _choose(oracle, claim, now)
    for job in chosen:
        job.lend(claim, now)
    return [job.summary() for job in chosen]


def serve_all(oracle: Oracle, now: int) -> None:
    """Whoever waits and can be served is served, each in turn."""
    for parked in list(oracle.parked):
        _serve(oracle, parked, now)


def serve_some(oracle: Oracle, now: int, answered: Answered) -> None:
    """Something has come free at the very moment when more is due, like the children of what has just ended.

    Who waits is served before that, or after it if his tasks must be looked up first, for what is due comes before the
    next batch. Either is right, so it is heard from the answers which it was. Nobody is passed over: whoever is behind
    one that is held up waits with him.
    """
    held_up: list[Claim] = []
    for parked in list(oracle.parked):
        chosen = _choose(oracle, parked.claim, now)
        is_behind = any(_goes_before(oracle, other, chosen) for other in held_up)
        if chosen and not is_behind and answered(parked.key) == [job.id for job in chosen]:
            _serve(oracle, parked, now)
        elif chosen:
            held_up.append(parked.claim)


def _serve(oracle: Oracle, parked: Parked, now: int) -> None:
    if tasks := take(oracle, parked.claim, now):
        oracle.parked.remove(parked)
        oracle.answers[parked.key] = tasks


def _goes_before(oracle: Oracle, claim: Claim, chosen: list[Job]) -> bool:
    """It might want one of these tasks, or the slot that one takes."""
    if oracle.rules.max_concurrent_tasks:
        return True
    here = [job for job in chosen if job.create.work_directory in claim.work_directories]
    return any(_fits(job, claim) or oracle.folder(job.create.work_directory).max_working for job in here)


def _choose(oracle: Oracle, claim: Claim, now: int) -> list[Job]:
    chosen: list[Job] = []
    while len(chosen) < claim.limit and (fitting := _fitting(oracle, claim, now, chosen)):
        chosen.append(min(fitting, key=lambda job: (_turn(oracle, job), job.number)))
    return chosen


def _fitting(oracle: Oracle, claim: Claim, now: int, chosen: list[Job]) -> list[Job]:
    """What it may have besides those that it is to have already."""
    working = [job for job in oracle.jobs if job.status == "working"] + chosen
    if oracle.rules.max_concurrent_tasks and len(working) >= oracle.rules.max_concurrent_tasks:
        return []
    paths = [job.create.work_directory for job in working]
    open_ones = [path for path in claim.work_directories if oracle.folder(path).is_open(paths.count(path))]
    ready = [job for job in oracle.jobs if job.ready and not job.expired(now) and job not in chosen]
    return [job for job in ready if job.create.work_directory in open_ones and _fits(job, claim)]


def _fits(job: Job, claim: Claim) -> bool:
    return set(claim.tags) <= set(job.create.tags)


def _turn(oracle: Oracle, job: Job) -> float:
    """The smaller, the earlier."""
    rank, aging = RANK[job.create.priority], oracle.rules.priority_aging_seconds * 1000
    return job.created_at - rank * aging if aging else -rank
