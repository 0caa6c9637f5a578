"""What is decided about single messages, in examples; test_window.py holds the rest against an oracle."""

from typing import Any

import pytest

from dispatcher.board import Board, Effects, Parked, Rules
from dispatcher.errors import InvalidState, LeaseLost, LeaseTokenRequired, PromptMismatch, TaskNotFound
from dispatcher.fields import Priority
from dispatcher.messages import (
    Cancel,
    Claim,
    Complete,
    Create,
    Created,
    Delete,
    Fail,
    Heartbeat,
    Held,
    Message,
    Release,
    Tick,
)
from dispatcher.ports import Snapshot
from dispatcher.task import MOVES, Status, Task
from storage.sqlite import journal as sqlite
from tests.dispatcher.world import CountingMint, database

CLAIM = Claim(work_directories=("/w",), worker_id="ann", lease_seconds=10)


class JitteryMint(CountingMint):
    def jitter(self) -> float:
        return 0.5


class Desk:
    """A board on a record of its own: each message is a batch."""

    def __init__(self, **rules: Any) -> None:
        self.db = database()
        self.board = Board(Snapshot(), CountingMint(), Rules(**rules))

    def say(self, message: Message[Any], now: int = 0) -> Any:
        return self.effects(message, now).reply

    def effects(self, message: Message[Any], now: int = 0) -> Effects[Any]:
        self.board.forget()
        self.board.learn(sqlite.fetch(self.db, self.board.needs([message], now)))
        effects = self.board.apply(message, now)
        sqlite.commit(self.db, effects.changes)
        return effects

    def create(self, **fields: Any) -> Task:
        created: Created = self.say(Create(**{"work_directory": "/w", "prompt": "count the lines", **fields}))
        return created.task

    def claim(self, **fields: Any) -> Task:
        (task,) = self.say(Claim(**{"work_directories": ("/w",), **fields}))
        return task


def test_claim_takes_highest_priority_then_oldest() -> None:
    desk = Desk()
    for priority in ("low", "high", "medium", "high"):
        desk.create(priority=Priority(priority))
    assert [task.arrival for task in desk.say(Claim(work_directories=("/w",), limit=10))] == [2, 4, 3, 1]


def test_a_lost_lease_returns_the_task_to_its_place_and_fences_the_old_holder() -> None:
    desk = Desk()
    desk.create()
    desk.create()
    lost = desk.say(CLAIM)[0]
    (back,) = [change.after for change in desk.effects(Tick(), now=10_000).changes]
    assert (back.status, back.retry_count, back.error_message) == (
        "waiting",
        1,
        "attempt 1: the worker stopped renewing its lease",
    )
    again = desk.claim()
    assert (again.task_id, again.attempt) == (lost.task_id, 2)
    late = desk.say(Complete(task_id=lost.task_id, lease_token=lost.lease_token, result=42), now=11_000)
    assert (late.reason, late.status, late.attempt) == ("reassigned", "working", 2)
    assert desk.say(Complete(task_id=lost.task_id, lease_token=again.lease_token)).status == "completed"


def test_a_late_result_is_refused_and_kept() -> None:
    desk = Desk()
    desk.create()
    task = desk.say(CLAIM)[0]
    desk.say(Tick(), now=10_000)
    effects = desk.effects(Complete(task_id=task.task_id, lease_token=task.lease_token, result={"n": 1}), now=12_000)
    assert isinstance(effects.reply, LeaseLost)
    (change,) = effects.changes
    assert change.after is change.before
    assert change.entry is not None
    assert (change.entry.type, change.entry.at) == ("task.late_result", 12_000)
    assert change.entry.details == {"reason": "expired", "status": "completed", "result": {"n": 1}}
    assert (change.entry.worker_id, change.entry.attempt) == ("ann", 1)


def test_of_late_results_the_first_is_kept_and_laid_at_the_right_door() -> None:
    desk = Desk()
    desk.create()
    late = desk.say(CLAIM)[0]
    desk.say(Tick(), now=10_000)
    desk.claim(worker_id="bob")
    report = Complete(task_id=late.task_id, lease_token=late.lease_token, result=1)
    (change,) = desk.effects(report, now=12_000).changes
    assert change.entry is not None
    assert (change.entry.worker_id, change.entry.attempt, change.entry.status) == ("ann", 1, "working")
    assert desk.effects(report, now=13_000).changes == ()


def test_beyond_max_retries_a_lost_lease_fails_the_task_and_says_how_often_it_was_lost() -> None:
    desk = Desk()
    desk.create(max_retries=1)
    desk.say(CLAIM)
    desk.say(Tick(), now=10_000)
    desk.claim(lease_seconds=5)
    effects = desk.effects(Tick(), now=20_000)
    assert [change.entry.type for change in effects.changes if change.entry] == ["task.lease_expired", "task.failed"]
    failed = effects.changes[-1].after
    assert (failed.status, failed.retry_count) == ("failed", 1)
    assert failed.error_message == "the worker was lost 2 times; in the last attempt it stopped renewing its lease"


def test_a_lease_never_outlives_the_attempt() -> None:
    """Liveness and run time are two clocks: heartbeats renew the one, and nothing the other."""
    desk = Desk()
    desk.create(timeout_seconds=15)
    task = desk.claim(lease_seconds=10)
    assert (task.lease_expires_at, task.deadline_at) == (10_000, 15_000)
    beat = desk.say(Heartbeat(task_id=task.task_id, lease_token=task.lease_token), now=9_000)
    assert (beat.lease_expires_at, beat.deadline_at) == (15_000, 15_000)
    back = desk.effects(Tick(), now=15_000).changes[0].after
    assert back.error_message == "attempt 1: the worker ran longer than timeout_seconds"


def test_a_claim_without_lease_seconds_lasts_until_the_deadline() -> None:
    desk = Desk(default_timeout_seconds=60)
    desk.create()
    task = desk.claim()
    assert task.lease_expires_at == task.deadline_at == 60_000


def test_the_same_terminal_call_again_gets_the_stored_outcome() -> None:
    desk = Desk()
    desk.create()
    task = desk.claim()
    done = desk.say(Complete(task_id=task.task_id, lease_token=task.lease_token, result=1), now=5)
    effects = desk.effects(Complete(task_id=task.task_id, lease_token=task.lease_token, result=2), now=9)
    assert (effects.reply.result, effects.reply.completed_at, effects.changes) == (1, done.completed_at, ())
    with_other_verb = desk.say(Fail(task_id=task.task_id, lease_token=task.lease_token, error_message="no"))
    assert with_other_verb.reason == "finished"


def test_a_repeated_failure_that_was_retried_gets_the_stored_outcome() -> None:
    desk = Desk()
    desk.create(auto_retry=True, retry_delay_seconds=4)
    task = desk.claim()
    fail = Fail(task_id=task.task_id, lease_token=task.lease_token, error_message="no")
    assert (desk.say(fail).available_at, desk.say(fail).available_at) == (4_000, 4_000)


def test_failures_back_off_twice_as_long_each_time_with_jitter() -> None:
    desk = Desk()
    desk.board.mint = JitteryMint()
    desk.create(auto_retry=True, retry_delay_seconds=1000, max_retries=5)
    delays, now = [], 0
    for _ in range(4):
        (task,) = desk.say(Claim(work_directories=("/w",)), now)
        back = desk.say(Fail(task_id=task.task_id, lease_token=task.lease_token, error_message="no"), now)
        delays.append((back.available_at - now) / 1000)
        now = back.available_at
        desk.say(Tick(), now)
    assert delays == [1100, 2200, 3960, 3960]


@pytest.mark.parametrize(
    ("fail", "status"),
    [({}, "failed"), ({"retryable": True}, "waiting"), ({"retryable": True, "retry_after_seconds": 3}, "waiting")],
)
def test_an_explicit_failure_is_final_unless_a_retry_is_asked_for(fail: dict[str, Any], status: str) -> None:
    desk = Desk()
    desk.create()
    task = desk.claim()
    failed = desk.say(Fail(task_id=task.task_id, lease_token=task.lease_token, error_message="no", **fail))
    assert (failed.status, failed.error_message) == (status, "no")
    assert failed.available_at == (0 if status == "failed" else 1000 * fail.get("retry_after_seconds", 10))


def test_release_burns_no_retry_and_keeps_the_place() -> None:
    desk = Desk()
    desk.create()
    desk.create()
    task = desk.claim()
    back = desk.say(Release(task_id=task.task_id, lease_token=task.lease_token, reason="shutting down"))
    assert (back.status, back.retry_count, back.worker_id) == ("waiting", 0, None)
    assert desk.claim().task_id == task.task_id


@pytest.mark.parametrize("report", [Complete(task_id="task-9"), Fail(task_id="task-9", error_message="no")])
def test_an_unknown_task_is_not_found(report: Message[Any]) -> None:
    with pytest.raises(TaskNotFound):
        Desk().say(report)


def test_without_a_token_the_task_must_be_working_and_the_worker_the_same() -> None:
    desk = Desk()
    waiting = desk.create()
    with pytest.raises(InvalidState) as refusal:
        desk.say(Complete(task_id=waiting.task_id))
    assert refusal.value.allowed_from == ["working"]
    desk.say(CLAIM)
    with pytest.raises(LeaseLost):
        desk.say(Complete(task_id=waiting.task_id, worker_id="bob"))
    assert desk.say(Complete(task_id=waiting.task_id, worker_id="ann")).status == "completed"


def test_the_token_can_be_made_compulsory() -> None:
    desk = Desk(require_lease_token=True)
    task = desk.create()
    desk.say(CLAIM)
    with pytest.raises(LeaseTokenRequired):
        desk.say(Complete(task_id=task.task_id))


def test_the_prompt_is_compared_fuzzily() -> None:
    desk = Desk()
    desk.create(prompt="Count the lines\nof every file")
    task = desk.claim()
    with pytest.raises(PromptMismatch) as refusal:
        desk.say(Complete(task_id=task.task_id, lease_token=task.lease_token, original_prompt="Paint the fence green"))
    assert 0 < refusal.value.similarity < refusal.value.threshold == 0.8
    same = "  count THE lines of every  file"
    assert (
        desk.say(Complete(task_id=task.task_id, lease_token=task.lease_token, original_prompt=same)).status
        == "completed"
    )


def test_a_refusal_changes_nothing() -> None:
    desk = Desk()
    task = desk.create()
    desk.say(CLAIM)
    before = desk.db.serialize()
    for refused in (
        Complete(task_id=task.task_id, lease_token="wrong", result=1),
        Heartbeat(task_id=task.task_id, lease_token="wrong"),
        Release(task_id=task.task_id, lease_token="wrong"),
        Complete(task_id=task.task_id, original_prompt="something else entirely"),
    ):
        with pytest.raises((LeaseLost, PromptMismatch)):
            desk.say(refused)
    assert desk.db.serialize() == before
    assert desk.board.working[task.task_id].lease_token == "token-1"


def test_held_tells_what_a_worker_holds_in_a_directory() -> None:
    desk = Desk()
    desk.create()
    desk.create(work_directory="/elsewhere")
    held = desk.say(CLAIM)[0]
    desk.claim(work_directories=("/elsewhere",), worker_id="ann")
    assert desk.say(Held("ann", "/w")) == (held,)
    assert desk.say(Held("bob", "/w")) == ()


def test_a_claim_with_nothing_to_take_is_parked_and_answered_in_time() -> None:
    desk = Desk()
    parked = desk.say(Claim(work_directories=("/w",), wait_seconds=1.5))
    assert isinstance(parked, Parked)
    assert desk.board.next_due() == 1500
    assert desk.effects(Tick(), now=1500).served == ((parked.ticket, ()),)
    assert desk.board.next_due() is None


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("to", Status)
def test_a_task_moves_only_as_the_table_allows(status: Status, to: Status) -> None:
    task = Desk().create()
    object.__setattr__(task, "status", status)
    if to in MOVES[status]:
        assert task.move(to, 1).status is to
    else:
        with pytest.raises(AssertionError):
            task.move(to, 1)
    assert task.status is status


def test_what_was_deleted_in_a_batch_does_not_fall_due_in_it() -> None:
    desk = Desk()
    task = desk.create(tags=("a",))
    desk.say(CLAIM)
    batch: list[Message[Any]] = [Cancel(task_id=task.task_id, force=True), Delete(task_id=task.task_id), Tick()]
    desk.board.forget()
    desk.board.learn(sqlite.fetch(desk.db, desk.board.needs(batch, 10_000)))
    changes = [change for message in batch for change in desk.board.apply(message, 10_000).changes]
    sqlite.commit(desk.db, changes)
    assert [change.entry.type for change in changes if change.entry] == ["task.cancelled", "task.deleted"]
    assert desk.say(Claim(work_directories=("/w",)), 10_000) == ()


def test_a_waiting_task_cancelled_and_deleted_in_a_batch_leaves_nothing_behind() -> None:
    desk = Desk()
    task = desk.create(tags=("a", "b"))
    desk.board.forget()
    steps = (Cancel(task_id=task.task_id), Delete(task_id=task.task_id))
    desk.board.learn(sqlite.fetch(desk.db, desk.board.needs(steps, 0)))
    sqlite.commit(desk.db, [change for message in steps for change in desk.board.apply(message, 0).changes])
    for table in ("tasks", "ready_tags"):
        assert desk.db.execute(f"select count(*) from {table}").fetchone() == (0,)
