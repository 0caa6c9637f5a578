"""The life of a task as its submitter and its workers see it over HTTP: claims, leases, reports, history."""

import time
from datetime import datetime

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, footprint, until

ON_EVERY_RECORD = ON_ENCRYPTED_RECORD = True

PROMPT = "Rename the module and\nfix every import of it"


def seconds_between(earlier, later):
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


async def has_status(api, task, status):
    async def reached():
        return await api.status(task) == status

    await until(reached)


async def expired(api, directory):
    """A task that its worker has lost, with its former claim."""
    task = await api.claimed(directory, lease_seconds=0.01, prompt=PROMPT)
    await has_status(api, task, "waiting")
    return task


async def reassigned(api, directory):
    task = await expired(api, directory)
    await api.next(directory)
    return task


async def released(api, directory):
    task = await api.claimed(directory, prompt=PROMPT)
    (await api.tell(task, "release")).data  # noqa: B018
    return task


async def completed(api, directory):
    task = await api.claimed(directory, prompt=PROMPT)
    (await api.tell(task, "complete", result="first")).data  # noqa: B018
    return task


async def failed(api, directory):
    task = await api.claimed(directory, prompt=PROMPT)
    (await api.tell(task, "fail", error_message="first")).data  # noqa: B018
    return task


async def unknown_token(api, directory):
    return {**await api.claimed(directory, prompt=PROMPT), "lease_token": "forged"}


async def cancelled(api, directory):
    task = await api.claimed(directory)
    assert (await api.post(f"{TASKS}/{task['task_id']}/cancel", {"force": True})).data["status"] == "cancelled"
    return task


LOSSES = [  # how the lease is lost, the reason told, and where the task stands then
    (expired, "expired", "waiting", 1),
    (reassigned, "reassigned", "working", 2),
    (released, "released", "waiting", 1),
    (completed, "finished", "completed", 1),
    (failed, "finished", "failed", 1),
    (cancelled, "cancelled", "cancelled", 1),
    (unknown_token, "unknown_token", "working", 1),
]
TOLD_AGAIN = [(completed, "complete"), (failed, "fail")]  # these get the stored outcome: see below


@pytest.mark.parametrize(
    ("lose", "reason", "status", "attempt", "verb"),
    [
        (*loss, verb)
        for loss in LOSSES
        for verb in ("heartbeat", "complete", "fail", "release")
        if (loss[0], verb) not in TOLD_AGAIN
    ],
)
async def test_a_lost_lease_is_refused_with_its_reason(api, directory, lose, reason, status, attempt, verb):
    """The task stays as it is; a result that comes too late is kept in the history all the same."""
    task = await lose(api, directory)
    before, life = await api.show(task), await api.life(task)
    report = {"complete": {"result": {"answer": 42}}, "fail": {"error_message": "too late"}}.get(verb, {})
    details = (await api.tell(task, verb, **report)).refused(409, "LEASE_LOST")
    assert details == {"reason": reason, "status": status, "attempt": attempt}
    assert await api.show(task) == before
    kept = report and reason != "unknown_token"
    assert await api.life(task) == life + ["late_result"] * bool(kept)
    if kept:
        last = (await api.history(task))[-1]
        told = {"complete": {"status": "completed", **report}, "fail": {"status": "failed", **report}}[verb]
        assert last["details"] == {"reason": reason, **told}
        assert (last["status"], last["attempt"]) == (status, task["attempt"])


@pytest.mark.parametrize(
    ("verb", "report"),
    [
        ("complete", {"result": 1}),
        ("complete", {"status": "failed", "error_message": "no"}),
        ("fail", {"error_message": "no"}),
        ("fail", {"error_message": "no", "retryable": True}),
    ],
)
async def test_the_same_report_told_again_gets_the_stored_outcome(api, shared, directory, verb, report):
    """Even when it says something else the second time, and when the task has gone on since, it changes nothing."""
    task = await api.claimed(directory)
    first = (await api.tell(task, verb, **report)).data
    before = footprint(shared)
    for again in (report, report | {"error_message": "another"}):
        assert (await api.tell(task, verb, **again)).data == first
    assert footprint(shared) == before


@pytest.mark.parametrize("told", [PROMPT, f"  {PROMPT.upper()}\n", PROMPT.replace(" ", "\n\t "), PROMPT[:-8], None])
async def test_a_worker_that_talks_of_the_right_task_may_complete_it(api, directory, told):
    task = await api.claimed(directory, prompt=PROMPT)
    assert (await api.tell(task, "complete", original_prompt=told, result="done")).data["status"] == "completed"
    assert (await api.show(task))["result"] == "done"


@pytest.mark.parametrize("told", ["Something else", PROMPT * 2, PROMPT[:20], PROMPT[::-1]])
async def test_a_worker_that_talks_of_another_task_is_refused(api, shared, directory, told):
    task = await api.claimed(directory, prompt=PROMPT)
    before = footprint(shared)
    details = (await api.tell(task, "complete", original_prompt=told)).refused(422, "PROMPT_MISMATCH")
    assert details["threshold"] == 0.8
    assert 0 <= details["similarity"] < 0.8
    assert (footprint(shared), await api.status(task)) == (before, "working")


@pytest.mark.parametrize(("verb", "report"), [("complete", {}), ("fail", {"error_message": "no"})])
async def test_without_a_token_a_report_is_believed_only_while_the_task_is_worked_on(api, directory, verb, report):
    task = await api.create(directory)
    path = f"{TASKS}/{task['task_id']}/{verb}"
    for status in ("waiting", "completed" if verb == "complete" else "failed"):
        refused = (await api.post(path, report)).refused(409, "INVALID_STATE")
        assert refused == {"status": status, "allowed_from": ["working"]}
        if status == "waiting":
            await api.next(directory)
            assert (await api.post(path, report)).status == 200
    assert await api.life(task) == ["created", "claimed", "completed" if verb == "complete" else "failed"]


async def test_without_a_token_the_worker_must_be_the_right_one(api, directory):
    task = await api.create(directory)
    await api.next(directory, worker_id="w1")
    path = f"{TASKS}/{task['task_id']}/complete"
    details = (await api.post(path, {"worker_id": "w2"})).refused(409, "LEASE_LOST")
    assert details == {"reason": "reassigned", "status": "working", "attempt": 1}
    assert await api.life(task) == ["created", "claimed"]
    assert (await api.post(path, {"worker_id": "w1"})).data["status"] == "completed"


async def test_the_token_can_be_made_compulsory(tmp_path, own_record, directory):
    server = ServerProcess(tmp_path, environ={"APP_TASK_REQUIRE_LEASE_TOKEN": "true"}, record=own_record).start()
    try:
        async with connected(server) as api:
            task = await api.claimed(directory)
            path = f"{TASKS}/{task['task_id']}"
            assert (await api.post(f"{path}/complete", {})).faults() == ["lease_token"]
            assert (await api.post(f"{path}/fail", {"error_message": "no"})).faults() == ["lease_token"]
            assert (await api.tell(task, "complete")).data["status"] == "completed"
    finally:
        assert server.terminate() == 0


async def test_a_heartbeat_renews_the_lease_by_its_length_up_to_the_deadline(api, directory):
    task = await api.claimed(directory, lease_seconds=10, timeout_seconds=100)
    for sent, length in (({}, 10), ({"lease_seconds": 20}, 20), ({}, 20), ({"lease_seconds": 1000}, None)):
        told = (await api.tell(task, "heartbeat", **sent)).data
        shown = await api.show(task)
        assert told["deadline_at"] == task["deadline_at"]
        assert told == {name: shown[name] for name in told}
        if length is None:
            assert told["lease_expires_at"] == told["deadline_at"]
        else:
            assert seconds_between(shown["updated_at"], told["lease_expires_at"]) == length


async def test_progress_is_shown_until_the_attempt_is_over(api, directory):
    task = await api.claimed(directory)
    for progress in ({"percent": 0, "message": None}, {"percent": 99.5, "message": "soon"}):
        await api.tell(task, "heartbeat", progress=progress)
        assert (await api.show(task))["progress"] == progress
    await api.tell(task, "heartbeat")
    assert (await api.show(task))["progress"] == progress
    await api.tell(task, "release")
    assert (await api.show(task))["progress"] is None


async def test_who_holds_a_task_leaves_word_in_its_metadata(api, directory):
    """Each member given takes the place of the one of its name, null takes it away, the others stay; the next attempt
    and everybody else see it, and the history tells of each change."""
    task = await api.claimed(directory, metadata={"ticket": "APP-12", "gone": 1, "none": None})
    said = {"session_id": "s-1", "gone": None, "never": None}
    for sent in (said, said, {}, None):
        assert (await api.tell(task, "heartbeat", metadata=sent)).status == 200
        shown = await api.show(task)
        assert shown["metadata"] == {"ticket": "APP-12", "none": None, "session_id": "s-1"}
    both = await api.tell(task, "heartbeat", metadata={"session_id": "s-2"}, progress={"percent": 5})
    assert both.status == 200
    await api.tell(task, "release")
    again = await api.next(directory)
    assert again["metadata"] == {"ticket": "APP-12", "none": None, "session_id": "s-2"}
    assert await api.life(task) == ["created", "claimed", "updated", "updated", "progress", "released", "claimed"]
    late = await api.tell(task, "heartbeat", metadata={"session_id": "late"})
    assert late.refused(409, "LEASE_LOST")["reason"] == "reassigned"
    assert (await api.show(task))["metadata"] == again["metadata"]


async def test_word_that_does_not_fit_renews_nothing(api, directory):
    """What is left in the metadata has its bound together with what is there already."""
    task = await api.claimed(directory, metadata={"a": "x" * 40_000}, lease_seconds=100)
    before = await api.show(task)
    refused = await api.tell(task, "heartbeat", metadata={"b": "y" * 30_000}, lease_seconds=1000)
    fault = refused.refused(400, "VALIDATION_ERROR")
    assert fault["field"] == "metadata"
    assert fault["reason"] == "must be at most 65536 bytes together with what the task has, is 70015"
    assert await api.show(task) == before
    assert (await api.tell(task, "heartbeat", metadata={"a": "y" * 60_000})).status == 200


async def test_a_lost_lease_burns_a_retry_until_there_is_none(api, directory):
    task = await api.create(directory, max_retries=1)
    for attempt in (1, 2):
        claimed = await api.next(directory, wait_seconds=10, lease_seconds=0.01, worker_id="w")
        assert (claimed["task_id"], claimed["attempt"], claimed["retry_count"]) == (
            task["task_id"],
            attempt,
            attempt - 1,
        )
    assert "stopped renewing its lease" in claimed["previous_error"]
    await has_status(api, task, "failed")
    shown = await api.show(task)
    assert (shown["retry_count"], shown["attempt"]) == (1, 2)
    assert shown["completed_at"]
    assert "lost 2 times" in shown["error_message"]
    assert await api.life(task) == ["created", "claimed", "lease_expired", "claimed", "lease_expired", "failed"]


async def test_no_heartbeat_carries_an_attempt_past_its_deadline(api, directory):
    task = await api.claimed(directory, timeout_seconds=0.05, max_retries=0)

    async def refused():
        answer = await api.tell(task, "heartbeat", lease_seconds=60)
        return answer if answer.status != 200 else None

    answer = await until(refused)
    assert answer.refused(409, "LEASE_LOST")["status"] == "failed"
    assert "ran longer than timeout_seconds" in (await api.show(task))["error_message"]


async def test_a_failure_is_final_unless_somebody_asks_for_a_retry(api, directory):
    for asked, said, status in ((False, {}, "failed"), (True, {}, "waiting"), (False, {"retryable": True}, "waiting")):
        task = await api.claimed(directory, auto_retry=asked, retry_delay_seconds=1000)
        told = (await api.tell(task, "fail", error_message="no", **said)).data
        assert told["status"] == status
        assert (told["completed_at"] is None) == (status == "waiting")
        shown = await api.show(task)
        assert (shown["error_message"], shown["retry_count"]) == ("no", int(status == "waiting"))
    task = await api.claimed(directory, auto_retry=True)
    assert (await api.tell(task, "fail", error_message="no", retryable=False)).data["status"] == "failed"


async def test_retries_back_off_and_come_to_an_end(api, directory):
    task = await api.create(directory, auto_retry=True, max_retries=2, retry_delay_seconds=0)
    for attempt in (1, 2, 3):
        claimed = await api.next(directory, wait_seconds=10)
        assert (claimed["attempt"], claimed["previous_error"]) == (
            attempt,
            f"no {attempt - 1}" if attempt > 1 else None,
        )
        told = (await api.tell(claimed, "fail", error_message=f"no {attempt}")).data
    assert told["status"] == "failed"
    assert await api.life(task) == ["created", *["claimed", "retried"] * 2, "claimed", "failed"]


@pytest.mark.parametrize(
    ("task", "said", "least", "most"),
    [
        ({"retry_delay_seconds": 100}, {}, 80, 120),
        ({}, {}, 8, 12),
        ({"retry_delay_seconds": 100}, {"retry_after_seconds": 5.5}, 5.5, 5.5),
        ({}, {"retry_after_seconds": 0}, 0, 0),
    ],
)
async def test_a_retry_waits_as_long_as_was_asked_for(api, directory, task, said, least, most):
    claimed = await api.claimed(directory, **task)
    told = (await api.tell(claimed, "fail", error_message="no", retryable=True, **said)).data
    shown = await api.show(claimed)
    assert least <= seconds_between(shown["updated_at"], told["available_at"]) <= most
    assert (await api.next(directory) is None) == (least > 0)


async def test_a_released_task_waits_again_and_no_retry_is_burnt(api, directory):
    task = await api.claimed(directory)
    assert (await api.tell(task, "release", reason="not mine")).data["status"] == "waiting"
    shown = await api.show(task)
    names = ("worker_id", "started_at", "lease_expires_at", "deadline_at", "retry_count")
    assert [shown[name] for name in names] == [None, None, None, None, 0]
    assert (await api.history(task))[-1]["details"] == {"reason": "not mine"}
    again = await api.next(directory)
    assert (again["task_id"], again["attempt"], again["retry_count"]) == (task["task_id"], 2, 0)
    assert again["lease_token"] != task["lease_token"]


async def test_a_task_released_with_a_delay_is_handed_out_only_then(api, directory):
    task = await api.claimed(directory)
    available_at = (await api.tell(task, "release", delay_seconds=0.2)).data["available_at"]
    assert await api.next(directory) is None
    again = await api.next(directory, wait_seconds=10)
    assert again["task_id"] == task["task_id"]
    assert seconds_between(available_at, (await api.show(task))["started_at"]) >= 0


async def test_a_released_task_keeps_its_place_in_line(api, directory):
    first, second = await api.create(directory), await api.create(directory)
    await api.tell(await api.next(directory), "release")
    assert [(await api.next(directory))["task_id"] for _ in range(2)] == [first["task_id"], second["task_id"]]


async def test_a_delayed_task_waits_for_its_time(api, directory):
    later = await api.create(directory, delay_seconds=0.2, priority="high")
    past = await api.create(directory, run_at="2000-01-01T00:00:00Z")
    assert (await api.next(directory))["task_id"] == past["task_id"]
    assert (await api.next(directory, wait_seconds=10))["task_id"] == later["task_id"]
    assert seconds_between(later["available_at"], (await api.show(later))["started_at"]) >= 0
    assert await api.life(later) == ["created", "available", "claimed"]


@pytest.mark.parametrize("expires_at", ["2000-01-01T00:00:00Z", None])
async def test_a_task_that_nobody_took_in_time_is_cancelled(api, directory, expires_at):
    soon = datetime.fromtimestamp(time.time() + 0.2).astimezone().isoformat()
    task = await api.create(directory, expires_at=expires_at or soon)
    shown = (await api.get(f"{TASKS}/{task['task_id']}", until="terminal", wait_seconds=10)).data
    assert shown["status"] == "cancelled"
    assert await api.next(directory) is None
    assert (await api.history(task))[-1]["details"]["reason"] == "expired"


async def test_the_history_explains_the_whole_life(api, directory):
    task = await api.create(directory, retry_delay_seconds=0)
    await api.tell(await api.next(directory, worker_id="w1"), "release", reason="busy")
    await api.next(directory, worker_id="w2", lease_seconds=0.01)
    third = await api.next(directory, worker_id="w3", wait_seconds=10)
    await api.tell(third, "fail", error_message="no net", retryable=True)
    fourth = await api.next(directory, worker_id="w4", wait_seconds=10)
    await api.tell(fourth, "heartbeat", progress={"percent": 1})
    await api.tell(fourth, "complete", result="done")
    await api.tell(third, "complete", result="late")
    history = await api.history(task)
    assert [(line["type"], line["status"], line["worker_id"], line["attempt"]) for line in history] == [
        ("task.created", "waiting", None, 0),
        ("task.claimed", "working", "w1", 1),
        ("task.released", "waiting", "w1", 1),
        ("task.claimed", "working", "w2", 2),
        ("task.lease_expired", "waiting", "w2", 2),
        ("task.claimed", "working", "w3", 3),
        ("task.retried", "waiting", "w3", 3),
        ("task.claimed", "working", "w4", 4),
        ("task.progress", "working", "w4", 4),
        ("task.completed", "completed", "w4", 4),
        ("task.late_result", "completed", "w3", 3),
    ]
    details = [line["details"] for line in history]
    assert (details[2], details[8], details[10]["result"]) == ({"reason": "busy"}, {"percent": 1}, "late")
    assert (details[6]["error_message"], details[6]["automatic"]) == ("no net", True)
    assert [line["seq"] for line in history] == sorted({line["seq"] for line in history})
    assert [line["at"] for line in history] == sorted(line["at"] for line in history)


async def test_a_waiting_task_is_cancelled_for_good(api, directory):
    task = await api.create(directory)
    path = f"{TASKS}/{task['task_id']}"
    shown = (await api.post(f"{path}/cancel", {"reason": "not needed"})).data
    assert (shown["status"], shown["version"]) == ("cancelled", 2)
    assert await api.next(directory) is None
    assert (await api.history(task))[-1]["details"] == {"reason": "not needed"}
    for verb in ("cancel", "retry"):
        refusal = (await api.post(f"{path}/{verb}", {})).refused(409, "INVALID_STATE")
        assert refusal["status"] == "cancelled"
    assert await api.show(task) == shown


async def test_a_task_that_is_worked_on_is_cancelled_only_by_force(api, directory):
    task = await api.claimed(directory)
    path = f"{TASKS}/{task['task_id']}"
    refusal = (await api.post(f"{path}/cancel", {})).refused(409, "INVALID_STATE")
    assert refusal == {"status": "working", "allowed_from": ["waiting", "failed"]}
    assert (await api.tell(task, "heartbeat")).status == 200
    assert (await api.post(f"{path}/cancel", {"force": True})).data["status"] == "cancelled"
    assert (await api.tell(task, "heartbeat")).refused(409, "LEASE_LOST")["reason"] == "cancelled"


async def test_a_failed_task_is_retried_by_hand_as_often_as_it_may_be(api, directory):
    task = await api.create(directory, max_retries=1)
    path = f"{TASKS}/{task['task_id']}"
    (await api.post(f"{path}/retry", {})).refused(409, "INVALID_STATE")
    await api.tell(await api.next(directory), "fail", error_message="no net")
    shown = (await api.post(f"{path}/retry", {})).data
    assert (shown["status"], shown["retry_count"], shown["completed_at"]) == ("waiting", 1, None)
    again = await api.next(directory)
    assert (again["attempt"], again["previous_error"]) == (2, "no net")
    await api.tell(again, "fail", error_message="still no net")
    assert (await api.post(f"{path}/retry", {})).refused(422, "RETRY_LIMIT_REACHED") == {"max_retries": 1}
    assert (await api.post(f"{path}/cancel", {})).data["status"] == "cancelled"
    assert await api.life(task) == ["created", "claimed", "failed", "retried", "claimed", "failed", "cancelled"]
