"""What may be asked of a server in a given state. The strategies draw from the model that runs them: they name tasks
and leases that exist, mostly, and some that do not.

Nobody names a task or a lease before the batch that makes it is over, for nobody can know it.
"""

from collections.abc import Sequence
from typing import Any

from attrs import asdict, evolve
from hypothesis import strategies as st

from dispatcher.caller import ANYONE, Caller, Reach
from dispatcher.fields import UNSET, Priority
from dispatcher.messages import (
    FOREVER,
    Cancel,
    Claim,
    Complete,
    Create,
    CreateMany,
    Delete,
    Draft,
    Edit,
    Fail,
    Heartbeat,
    Held,
    Log,
    Message,
    Progress,
    Reconfigure,
    Regulate,
    Release,
    Retry,
    SteerMany,
)
from dispatcher.record import Filter
from dispatcher.rules import Rules
from dispatcher.task import Status

DIRECTORIES = ("/a", "/b", "/c")
WORKERS = ("ann", "bob")
SECONDS = [0.5, 1, 2, 5]
WAITS = [1.003, 5.007]  # never over when something else happens: if that is in time, is not said
MOMENTS = [-1000, 0, 500, 1000, 3000, 10_000]  # milliseconds from now
PROMPTS = ["do it", "write the tests"]

# None sees more of the directories than Oracle.seen_by says.
CALLERS = (
    Caller("ann", frozenset({"work"}), Reach(("/a",))),
    Caller("bob", frozenset({"work"}), Reach(("/a*", "/b"))),
    Caller("eve", frozenset({"admin"})),
)

directories = st.sampled_from(["/a", "/a", "/b", "/c"])
workers = st.sampled_from([None, *WORKERS])
tags = st.sampled_from([(), (), (), ("x",), ("y",), ("x", "y")])
priorities = st.sampled_from(Priority)
delays = st.sampled_from([None, 0, *SECONDS])
seconds = st.sampled_from([None, *SECONDS])
now_and_then = st.sampled_from([False, False, False, True])
callers = st.sampled_from([*[ANYONE] * 5, *CALLERS])


@st.composite
def moments(draw: st.DrawFn, otherwise: Sequence[Any] = ()) -> Any:
    """Around now, or one of these."""
    moment = draw(st.sampled_from([*otherwise, *MOMENTS]))
    return max(0, draw(st.runner()).world.now + moment) if moment in MOMENTS else moment


@st.composite
def task_ids(draw: st.DrawFn) -> str:
    """Of any task there is or was, the newest first, and one that never was."""
    last = len(draw(st.runner()).oracle.jobs)
    back = draw(st.integers(0, last + last // 8))
    return f"task-{last - back}" if back < last else "nobody"


def several(one: st.SearchStrategy[str], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(one, max_size=most).map(lambda names: tuple(dict.fromkeys(names)))


@st.composite
def leases(draw: st.DrawFn) -> tuple[str, str]:
    """A task and a token of it; current ones more often than ended ones, and one that was never given out."""
    oracle = draw(st.runner()).oracle
    current = [(job.id, job.token) for job in oracle.jobs if job.token]
    ended = [(job.id, token) for job in oracle.jobs for token in job.tokens]
    unknown = [(f"task-{len(oracle.jobs) or 1}", "no token")]
    return draw(st.sampled_from([*current, *current, *current, *ended, *unknown]))


# New tasks


def new(cls: type, **more: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        cls,
        work_directory=directories,
        prompt=st.sampled_from(PROMPTS),
        priority=priorities,
        tags=tags,
        max_retries=st.sampled_from([None, None, 0, 1, 2]),
        auto_retry=st.booleans(),
        retry_delay_seconds=st.sampled_from(SECONDS),
        timeout_seconds=st.sampled_from([None, None, *SECONDS]),
        delay_seconds=st.sampled_from([None, None, None, None, None, 0, *SECONDS]),
        expires_at=moments([None] * 10),
        on_dependency_failure=st.sampled_from(["wait", "cancel", "run"]),
        **more,
    )


creates = new(Create, depends_on=st.just(()) | several(task_ids(), 3))
keyed = new(Create, idempotency_key=st.sampled_from(["k1", "k2"]), request_digest=st.sampled_from(["d1", "d2"]))

several_drafts = st.lists(new(Draft), min_size=1, max_size=4)
refs = st.sampled_from(["ref:0", "ref:1", "ref:2", "ref:3", "ref:0", "ref:1", "ref:2", "ref:3", "ref:nobody"])
some_names = several(refs, 2) | several(refs | task_ids(), 2)
steps_back = st.lists(st.integers(1, 2), max_size=2).map(dict.fromkeys)


@st.composite
def batches(draw: st.DrawFn) -> CreateMany:
    """Drafts that depend on each other in any way, by names that exist and some that do not."""
    drafts: list[Draft | None] = []
    for place, draft in enumerate(draw(several_drafts)):
        named = evolve(draft, ref=f"{place}", depends_on=draw(some_names))
        drafts.append(None if draw(now_and_then) and draw(now_and_then) else named)
    return CreateMany(tuple(drafts), atomic=draw(st.booleans()))


@st.composite
def chains(draw: st.DrawFn) -> CreateMany:
    """Each may depend on those before it, or on those behind it, if it is turned round. Now and then the first one is
    refused, and whoever depends on it."""
    drafts: list[Draft | None] = []
    for place, draft in enumerate(draw(several_drafts)):
        depends_on = tuple(f"ref:{place - back}" for back in draw(steps_back) if back <= place)
        drafts.append(evolve(draft, ref=f"{place}", depends_on=depends_on))
    if draw(now_and_then):
        drafts[0] = draw(st.sampled_from([None, evolve(drafts[0], depends_on=("nobody",))]))
    return CreateMany(tuple(drafts[:: draw(st.sampled_from([1, -1]))]), atomic=draw(st.booleans()))


# Claims and reports

claims = st.builds(
    Claim,
    work_directories=st.sampled_from([("/a",), ("/a",), ("/b",), ("/a", "/b"), ("/c", "/a"), DIRECTORIES]),
    worker_id=workers,
    limit=st.sampled_from([1, 1, 1, 2, 5]),
    wait_seconds=st.sampled_from([0, 0, 0, *WAITS, FOREVER, FOREVER]),
    lease_seconds=st.sampled_from([None, None, None, *SECONDS]),
    tags=tags,
    claim_id=st.sampled_from([None, None, None, "c1", "c2"]),
)
held = st.builds(Held, worker_id=st.sampled_from(WORKERS), work_directory=directories)
completions = st.builds(
    Complete,
    task_id=st.just("nobody"),
    status=st.sampled_from(["completed", "completed", "failed"]),
    result=st.sampled_from([None, 1]),
    original_prompt=st.sampled_from([None, None, None, *PROMPTS]),
    worker_id=st.sampled_from([None, None, *WORKERS]),
)
failures = st.builds(
    Fail,
    task_id=st.just("nobody"),
    error_message=st.just("no"),
    retryable=st.sampled_from([None, False, True]),
    retry_after_seconds=seconds,
)


progress = st.sampled_from([None, Progress(), Progress(percent=1), Progress(message="on")])


@st.composite
def reports(draw: st.DrawFn) -> Message[Any]:
    task_id, token = draw(leases())
    report: dict[str, Any] = {"task_id": task_id, "lease_token": None if draw(now_and_then) else token}
    kind = draw(st.sampled_from([Complete, Fail, Release, Heartbeat, Log, Complete, Fail]))
    if kind is Complete:
        return evolve(draw(completions), **report)
    if kind is Fail:
        return evolve(draw(failures), **report)
    if kind is Log:
        return Log(lines=draw(st.sampled_from([("a",), ("\u00e9", ""), ("c", "c", "c")])), **report)
    if kind is Release:
        return Release(task_id=task_id, lease_token=token, delay_seconds=draw(delays))
    beat = Heartbeat(task_id=task_id, lease_token=token, lease_seconds=draw(seconds), progress=draw(progress))
    return evolve(beat, metadata=draw(st.sampled_from([None, None, {}, {"session_id": "a"}, {"session_id": None}])))


# What people do

versions = st.sampled_from([None, None, 1])
cancels = st.builds(
    Cancel,
    task_id=task_ids() | leases().map(lambda lease: lease[0]),
    force=st.booleans(),
    reason=st.sampled_from([None, "so"]),
)
retries = st.builds(Retry, task_id=task_ids())
edits = st.builds(
    Edit,
    task_id=task_ids(),
    if_version=versions,
    priority=st.just(UNSET) | priorities,
    tags=st.just(UNSET) | tags,
    prompt=st.sampled_from([UNSET, UNSET, *PROMPTS]),
    max_retries=st.sampled_from([UNSET, UNSET, 0, 1]),
    run_at=moments([UNSET] * 5 + [None] * 2),
)
deletions = st.builds(Delete, task_id=task_ids(), if_version=versions)

some_tasks = st.lists(task_ids(), min_size=1, max_size=8, unique=True).map(tuple)
filters = st.builds(
    Filter,
    statuses=st.just(()) | st.lists(st.sampled_from(Status), unique=True).map(tuple),
    work_directories=st.just(()) | st.lists(directories, unique=True).map(tuple),
    priorities=st.just(()) | st.lists(priorities, unique=True).map(tuple),
    tags=st.just(()) | tags,
    tag_mode=st.sampled_from(["all", "any"]),
    worker_ids=st.sampled_from([(), (), (), ("ann",), WORKERS]),
    created_after=moments([None] * 10),
    created_before=moments([None] * 10),
    text=st.sampled_from([None, None, "DO"]),
)
crowds = st.builds(
    SteerMany,
    task_ids=some_tasks,
    action=st.sampled_from(["cancel", "retry", "retry", "delete", "priority"]),
    only=st.none() | filters,
    priority=priorities,
    reason=st.sampled_from([None, "so"]),
    dry_run=now_and_then,
)


@st.composite
def regulations(draw: st.DrawFn) -> Regulate:
    said: dict[str, Any] = {"work_directory": draw(directories)}
    said["max_working"] = draw(st.sampled_from([UNSET, None, 1, 2]))
    said["paused"] = draw(st.sampled_from([UNSET, False, True]))
    said["draining"] = draw(st.sampled_from([UNSET, UNSET, False, True]))
    if said["paused"] is not False or draw(now_and_then):
        said["paused_until"] = draw(moments([UNSET] * 4 + [None] * 2))
        said["paused_reason"] = draw(st.sampled_from([UNSET, UNSET, None, "so"]))
    return Regulate(**said)


some_rules = st.builds(
    Rules,
    default_max_retries=st.sampled_from([3, 3, 0]),
    default_timeout_seconds=st.sampled_from([3600, 3600, 2]),
    max_concurrent_tasks=st.sampled_from([0, 0, 1, 2, 3]),
    priority_aging_seconds=st.sampled_from([0, 0, 0.5, 2]),
    restart_grace_seconds=st.sampled_from([0, 0, 2]),
    require_lease_token=st.sampled_from([False, False, False, True]),
)
reconfigurations = some_rules.map(
    lambda rules: Reconfigure(rules=rules, who="ann", changes={"some": "thing"}, runtime=asdict(rules))
)


@st.composite
def endings(draw: st.DrawFn) -> Message[Any]:
    """The end of a task that others wait for, if there is one."""
    jobs = draw(st.runner()).oracle.jobs
    parents = [job for job in jobs if job.has_children and job.status in ("waiting", "working")]
    if not parents:
        return draw(cancels)
    job = draw(st.sampled_from(parents))
    if job.token is None:
        return Cancel(task_id=job.id)
    return Complete(task_id=job.id, lease_token=job.token, status=draw(st.sampled_from(["completed", "failed"])))


@st.composite
def everything(draw: st.DrawFn) -> Message[Any]:
    """Any message, by anyone or with a key."""
    return evolve(draw(_anything()), by=draw(callers))


@st.composite
def _anything(draw: st.DrawFn) -> Message[Any]:
    """Rather one that makes sense now."""
    jobs = draw(st.runner()).oracle.jobs
    kinds = [
        creates,
        chains(),
        batches(),
        batches(),
        keyed,
        claims,
        reports(),
        held,
        cancels,
        retries,
        edits,
        deletions,
        crowds,
    ]
    kinds += [batches(), regulations()] * 2 + [reconfigurations]
    if len([job for job in jobs if job.status == "waiting"]) < 6:
        kinds += [creates, chains()] * 3
    if any(job.ready for job in jobs):
        kinds += [claims] * 6
    if any(job.token for job in jobs):
        kinds += [reports()] * 8 + [cancels]
    if any(job.has_children for job in jobs):
        kinds += [endings()] * 2
    return draw(draw(st.sampled_from(kinds)))
