"""How tasks come into the naive server: one by one or many at once, and which are refused. Found by looking again
and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from dispatcher.messages import Create, CreateMany, Draft
from dispatcher.rules import Rules
from tests.dispatcher.jobs import ENDED, Job

if TYPE_CHECKING:
    from tests.dispatcher.oracle import Oracle

DAY = 24 * 3600 * 1000
CYCLE = "DependencyCycle"

Drafts = Sequence[Draft | None]


def create(oracle: Oracle, create: Create, now: int) -> Any:
    if earlier := _keyed(oracle, create, now):
        same = earlier.create.request_digest == create.request_digest
        return earlier.summary() if same else "IdempotencyKeyReused"
    before, known = oracle.ids(), oracle.known_to(create)
    missing = {at: name for at, name in enumerate(create.depends_on) if name not in known}
    if missing:
        return not_found(missing)
    job = _make(oracle, create, create.depends_on, now)
    _look_at_parents(oracle, job, before, now)
    return job.summary()


def create_many(oracle: Oracle, many: CreateMany, now: int) -> Any:
    drafts, before = many.drafts, oracle.ids()
    wrong = faults(drafts, oracle.known_to(many))
    wrong |= {at: "OutOfReach" for at, it in enumerate(drafts) if it and not oracle.sees(many, it.work_directory)}
    if many.atomic and (wrong or None in drafts):
        return f"BatchRefused {dict(sorted(wrong.items()))}"
    wrong |= orphans(drafts, wrong)
    good = {place: draft for place, draft in enumerate(drafts) if draft and place not in wrong}
    names = {f"ref:{draft.ref}": f"task-{number}" for number, draft in enumerate(good.values(), len(oracle.jobs) + 1)}
    made: dict[int, Job] = {}
    for place, draft in good.items():
        made[place] = _make(oracle, draft, tuple(names.get(name, name) for name in draft.depends_on), now)
        made[place].has_children = any(f"ref:{draft.ref}" in other.depends_on for other in drafts if other)
    for job in made.values():
        _look_at_parents(oracle, job, before, now)
    return [made[place].summary() if place in made else wrong.get(place) for place in range(len(drafts))]


def _keyed(oracle: Oracle, create: Create, now: int) -> Job | None:
    """The task that was made when this was said before."""
    for job in oracle.jobs:
        same = create.idempotency_key and job.create.idempotency_key == create.idempotency_key and not job.deleted
        if same and (job.status not in ENDED or now < job.created_at + DAY):
            return job
    return None


def _make(oracle: Oracle, create: Create, parents: tuple[str, ...], now: int) -> Job:
    for job in oracle.jobs:
        if create.idempotency_key and job.create.idempotency_key == create.idempotency_key:
            job.create = evolve(job.create, idempotency_key=None)  # the key stands for the new one from now on
    available_at = now + round((create.delay_seconds or 0) * 1000)
    if create.run_at is not None:
        available_at = max(now, create.run_at)
    create = _with_defaults(create, oracle.rules)
    job = Job(len(oracle.jobs) + 1, create, parents, now, available_at, available_at <= now, list(parents))
    oracle.jobs.append(job)
    return job


def _with_defaults(create: Create, rules: Rules) -> Create:
    """What it does not say is as the settings are when it is created, whatever they become."""
    retries = rules.default_max_retries if create.max_retries is None else create.max_retries
    seconds = rules.default_timeout_seconds if create.timeout_seconds is None else create.timeout_seconds
    return evolve(create, max_retries=retries, timeout_seconds=seconds)


def _look_at_parents(oracle: Oracle, job: Job, before: list[str], now: int) -> None:
    """Those of its parents that were there before may have ended already. What is met is met first."""
    parents = [parent for parent in oracle.jobs if parent.id in job.parents and parent.id in before]
    for parent in sorted(parents, key=lambda parent: parent.status != "completed"):
        job.hear_of(parent, now)
    job.touched = job.status != "waiting"
    for parent in parents:
        parent.has_children |= job.status == "waiting" and parent.id in job.unmet


def not_found(missing: dict[int, str]) -> str:
    return f"DependencyNotFound {missing}"


def faults(drafts: Drafts, ids: Sequence[str]) -> dict[int, str]:
    """By place: the drafts that are wrong in themselves."""
    found = {}
    known = {f"ref:{draft.ref}" for draft in drafts if draft and draft.ref} | set(ids)
    for place, draft in enumerate(drafts):
        if missing := {at: name for at, name in enumerate(draft.depends_on) if name not in known} if draft else {}:
            found[place] = not_found(missing)
        if any(behind in _behind(drafts, behind) for behind in {place} | _behind(drafts, place)):
            found[place] = CYCLE
    return found


def orphans(drafts: Drafts, refused: dict[int, str]) -> dict[int, str]:
    """By place: those that depend on one that is refused, or is an orphan itself."""
    found: dict[int, str] = {}
    for _ in drafts:
        for place, draft in enumerate(drafts):
            names = draft.depends_on if draft else ()
            gone = [f"ref:{drafts[other].ref}" for other in refused.keys() | found.keys()]  # type: ignore[union-attr]
            missing = {at: name for at, name in enumerate(names) if name in gone}
            if missing and place not in refused:
                found[place] = not_found(missing)
    return found


def _behind(drafts: Drafts, place: int) -> set[int]:
    """The places of all that this one waits for, directly or not."""
    reached: set[int] = set()
    for _ in drafts:
        for start in {place} | reached:
            names = drafts[start].depends_on if drafts[start] else ()  # type: ignore[union-attr]
            reached |= {at for at, other in enumerate(drafts) if other and other.ref and f"ref:{other.ref}" in names}
    return reached
