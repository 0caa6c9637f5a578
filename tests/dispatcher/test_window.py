"""However little of the backlog is in memory, the answers are those of a board that holds everything."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.errors import LeaseLost, Refusal, Unavailable
from dispatcher.fields import UNSET, Priority
from dispatcher.messages import (
    FOREVER,
    Cancel,
    Claim,
    Complete,
    Create,
    Created,
    Delete,
    Edit,
    Fail,
    Heartbeat,
    Message,
    Release,
    Retry,
    Tick,
)
from dispatcher.task import Task
from storage import sqlite
from tests.dispatcher.oracle import Oracle
from tests.dispatcher.world import World

DIRECTORIES = ("/a", "/b", "/c")
TAGS = ("x", "y")
COUNTS = ("retry_count", "lost_leases")
SECONDS = st.sampled_from([0.5, 1, 2, 5])

tags = st.lists(st.sampled_from(TAGS), unique=True, max_size=2).map(tuple)
task_ids = st.integers(1, 12).map("task-{}".format)
tokens = st.none() | st.integers(1, 16).map("token-{}".format)

creates = st.builds(
    Create,
    work_directory=st.sampled_from(DIRECTORIES),
    prompt=st.just("do it"),
    priority=st.sampled_from(Priority),
    tags=tags,
    max_retries=st.none() | st.integers(0, 2),
    auto_retry=st.booleans(),
    retry_delay_seconds=SECONDS,
    timeout_seconds=st.none() | SECONDS,
    delay_seconds=st.none() | st.just(0) | SECONDS,
    expires_at=st.none() | st.integers(0, 20).map(lambda seconds: seconds * 1000),
)
claims = st.builds(
    Claim,
    work_directories=st.lists(st.sampled_from(DIRECTORIES), unique=True, min_size=1, max_size=3).map(tuple),
    worker_id=st.none() | st.sampled_from(["ann", "bob"]),
    limit=st.sampled_from([1, 1, 1, 2, 5]),
    wait_seconds=st.sampled_from([0, 0, 0, 1, 5, FOREVER]),
    lease_seconds=st.none() | SECONDS,
    tags=st.just(()) | tags,
    claim_id=st.none() | st.sampled_from(["c1", "c2"]),
)
reports = st.one_of(
    st.builds(Heartbeat, task_id=task_ids, lease_token=tokens.filter(bool), lease_seconds=st.none() | SECONDS),
    st.builds(
        Complete,
        task_id=task_ids,
        lease_token=tokens,
        status=st.sampled_from(["completed", "failed"]),
        worker_id=st.none() | st.just("ann"),
        result=st.none() | st.just({"n": 1}),
    ),
    st.builds(
        Fail,
        task_id=task_ids,
        lease_token=tokens,
        error_message=st.just("no"),
        retryable=st.none() | st.booleans(),
        retry_after_seconds=st.none() | SECONDS,
    ),
    st.builds(
        Release, task_id=task_ids, lease_token=tokens.filter(bool), delay_seconds=st.none() | st.just(0) | SECONDS
    ),
)
steering = st.one_of(
    st.builds(Cancel, task_id=task_ids, force=st.booleans()),
    st.builds(Retry, task_id=task_ids),
    st.builds(
        Edit,
        task_id=task_ids,
        priority=st.just(UNSET) | st.sampled_from(Priority),
        tags=st.just(UNSET) | tags,
        run_at=st.just(UNSET) | st.none() | st.integers(0, 20).map(lambda seconds: seconds * 1000),
    ),
    st.builds(Delete, task_id=task_ids),
)
batches = st.lists(st.one_of(creates, creates, claims, claims, reports, steering), min_size=1, max_size=8)
steps = st.one_of(
    batches.map(lambda batch: ("say", batch)),
    batches.map(lambda batch: ("say", batch)),
    SECONDS.map(lambda seconds: ("pass", seconds)),
    st.integers(0, 30).map(lambda place: ("leave", place)),
    st.just(("restart", None)),
)


@settings(max_examples=400)
@given(st.lists(steps, max_size=40), st.sampled_from([1, 2, 3]), st.sampled_from([4, 1000]), st.sampled_from([2, 1000]))
def test_a_tiny_window_gives_the_answers_of_a_board_that_holds_everything(
    history: list[Any], window: int, resident_max: int, shelves_max: int
) -> None:
    """And so it does after a restart at any point, and when directories are forgotten all the time."""
    asyncio.run(_compare(history, World(window, resident_max, shelves_max)))


async def _compare(history: list[Any], world: World) -> None:
    oracle = Oracle()
    await world.start()
    asked: dict[int, asyncio.Task[Any]] = {}
    expected: dict[int, Any] = {}
    for step, detail in history:
        if step == "say":
            await _say(detail, world, oracle, asked, expected)
        elif step == "pass":
            world.now += round(detail * 1000)
            await _say([Tick()], world, oracle, asked, expected)
        elif step == "leave" and detail in asked and not asked[detail].done():
            asked[detail].cancel()
            oracle.leave(detail)
            expected[detail] = "gone"
            await world.settle()
        elif step == "restart":
            await world.stop()
            expected |= {parked.key: "unavailable" for parked in oracle.parked}  # type: ignore[misc]
            oracle.parked.clear()
            await world.start()
        expected |= oracle.answers  # type: ignore[arg-type]
        assert {key: _answer(ask) for key, ask in asked.items() if ask.done()} == {
            key: answer for key, answer in expected.items() if answer is not None
        }
        _check_record(world, oracle)
        _check_memory(world)
    await world.stop()
    await asyncio.gather(*asked.values(), return_exceptions=True)


async def _say(
    messages: list[Message[Any]],
    world: World,
    oracle: Oracle,
    asked: dict[int, Any],
    expected: dict[int, Any],
) -> None:
    """All in one batch, as far as the board knows enough for that."""
    for message in messages:
        key = len(asked)
        asked[key] = world.ask(message)
        expected[key] = oracle.say(key, message, world.now)
    await world.settle()
    oracle.tick(world.now)  # the dispatcher sees by itself to what is due at once


def _answer(ask: "asyncio.Task[Any]") -> Any:
    if ask.cancelled():
        return "gone"
    match ask.exception() or ask.result():
        case (Task() as task) | Created(task=task):
            return _summary(task)
        case tuple(tasks):
            return [_summary(task) for task in tasks]
        case LeaseLost() as lost:
            return f"LeaseLost {lost.reason}"
        case Unavailable():
            return "unavailable"
        case Refusal() as refusal:
            return type(refusal).__name__
        case None:
            return "ticked"
    raise AssertionError(ask)


def _summary(task: Task) -> dict[str, Any]:
    names = "arrival status priority tags ready available_at attempt lease_token lease_expires_at deadline_at"
    return {name: getattr(task, name) for name in (*names.split(), *COUNTS, "error_message", "result")}


def _check_record(world: World, oracle: Oracle) -> None:
    tasks, total = sqlite.newest(world.journal.db, None, 1000, 0)
    jobs = [job.summary() for job in oracle.jobs if job.number not in oracle.deleted]
    assert total == len(tasks) == len(jobs)
    assert [_summary(task) for task in reversed(tasks)] == jobs
    late = world.journal.db.execute("select count(*) from task_history where type = 'task.late_result'").fetchone()
    assert late == (len(oracle.late),)


def _check_memory(world: World) -> None:
    """A lane grows past its window only as far as one claim wants, and the count of what is here is right."""
    lanes = [lane for shelf in world.agenda._recency.values() for lane in shelf.lanes.values()]
    assert all(len(lane.tasks) <= max(world.window, 5) * 2 for lane in lanes)
    assert world.agenda._resident == sum(len(lane.tasks) for lane in lanes)
