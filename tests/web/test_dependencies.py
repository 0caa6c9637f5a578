"""Tasks that wait for others: when they become ready, what they are told, and what becomes of them otherwise."""

import asyncio
import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tests.web.conftest import PATIENCE_SECONDS, TASKS, connected, footprint, paused, text_of, until, wire

ON_EVERY_RECORD = True

POLICIES = ["wait", "cancel", "run"]
MANY = 600  # those who wait for one task hear of its end in slices of 256


def background(coroutine):
    return asyncio.create_task(coroutine)


def path_of(task):
    return f"{TASKS}/{task['task_id']}"


def soon(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def child_of(api, directory, *parents, **fields):
    return await api.create(directory, "child", depends_on=[task["task_id"] for task in parents], **fields)


async def end(api, task, status):
    """Bring a claimed task, or for `cancelled` any, to this end."""
    if status == "cancelled":
        assert (await api.post(f"{path_of(task)}/cancel", {"force": True})).status == 200
    else:
        said = {"result": {"of": task["task_id"]}} if status == "completed" else {"error_message": "broken"}
        assert (await api.tell(task, "complete" if status == "completed" else "fail", **said)).status == 200


async def ended(api, directory, status):
    task = await api.claimed(f"{directory}/ended")
    await end(api, task, status)
    return task


async def gone_to(api, task, status):
    """Wait until it has come to this end; its last line in the history."""
    shown = (await api.get(path_of(task), until="terminal", wait_seconds=10)).data
    assert shown["status"] == status, shown
    return (await api.history(task))[-1]


async def counts(api, directory):
    listed = (await api.get("/api/v1/work-directories")).data["work_directories"]
    return next(found for found in listed if found["work_directory"] == directory)


async def family(api, directory, **fields):
    """A claimed task, and many that wait for it."""
    parent = await api.claimed(f"{directory}/parent", max_retries=1)
    child = {"work_directory": directory, "prompt": "child", "depends_on": [parent["task_id"]], **fields}
    told = (await api.post(f"{TASKS}/batch", {"tasks": [child] * MANY})).data["tasks"]
    return parent, [task["task_id"] for task in told]


async def test_a_task_says_what_it_waits_for(api, directory):
    parents = [await api.create(f"{directory}/parents") for _ in range(2)]
    ids = [task["task_id"] for task in parents]
    child = await child_of(api, directory, *parents)
    expected = {"status": "waiting", "depends_on": ids, "blocked_by": ids, "on_dependency_failure": "wait"}
    for told in (child, await api.show(child)):
        assert {name: told[name] for name in expected} == expected
    assert (parents[0]["depends_on"], parents[0]["blocked_by"]) == ([], [])


async def test_a_task_is_claimable_at_once_when_the_last_of_those_it_depends_on_completes(api, directory):
    parents = [await api.claimed(f"{directory}/parents") for _ in range(3)]
    child = await child_of(api, directory, *parents)
    for number, parent in enumerate(parents, start=1):
        assert await api.next(directory) is None
        await end(api, parent, "completed")
        if number < 3:

            async def blocked_by_the_others(left=parents[number:]):
                return (await api.show(child))["blocked_by"] == [task["task_id"] for task in left]

            await until(blocked_by_the_others)
    assert (await api.next(directory))["task_id"] == child["task_id"]
    shown = await api.show(child)
    assert (shown["blocked_by"], shown["depends_on"]) == ([], [task["task_id"] for task in parents])
    assert await api.life(child) == ["created", "available", "claimed"]


async def test_a_task_that_was_blocked_keeps_its_place_in_the_line(api, directory):
    parent = await api.claimed(directory)
    child = await child_of(api, directory, parent)
    younger = await api.create(directory)
    await end(api, parent, "completed")
    assert [(await api.next(directory))["task_id"] for _ in range(2)] == [child["task_id"], younger["task_id"]]


@pytest.mark.parametrize("names", [["nobody"], ["real", "nobody"], ["nobody", "real", "none"]])
async def test_who_depends_on_a_task_that_is_not_there_is_refused(api, shared, directory, names):
    real = await api.create(f"{directory}/real")
    before = footprint(shared)
    depends_on = [real["task_id"] if name == "real" else name for name in names]
    body = {"work_directory": directory, "prompt": "x", "depends_on": depends_on}
    details = (await api.post(TASKS, body)).refused(422, "DEPENDENCY_NOT_FOUND")
    missing = [f"depends_on[{place}]" for place, name in enumerate(names) if name != "real"]
    assert [error["field"] for error in details["errors"]] == missing
    assert {"field": details["field"], "reason": details["reason"]} == details["errors"][0]
    assert footprint(shared) == before


async def test_who_depends_on_a_deleted_task_is_refused(api, directory):
    gone = await ended(api, directory, "completed")
    assert (await api.call("DELETE", path_of(gone))).status == 200
    body = {"work_directory": directory, "prompt": "x", "depends_on": [gone["task_id"]]}
    assert (await api.post(TASKS, body)).refused(422, "DEPENDENCY_NOT_FOUND")["field"] == "depends_on[0]"


@pytest.mark.parametrize("how", ["next", "claim", "stream"])
async def test_whoever_waits_is_given_the_task_as_it_becomes_ready(api, directory, how):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent)
    async with AsyncExitStack() as stack:
        if how == "stream":
            events = await stack.enter_async_context(api.stream(directory))
            waiting = background(events.task())
        elif how == "next":
            waiting = background(api.next(directory, wait_seconds=20))
        else:
            waiting = background(api.post(f"{TASKS}/claim", {"work_directory": directory, "wait_seconds": 20}))
        await api.busy_with(1)
        await end(api, parent, "completed")
        told = await waiting
    task = told.data["tasks"][0] if how == "claim" else told
    assert task["task_id"] == child["task_id"]
    expected = [{"task_id": parent["task_id"], "status": "completed", "result": {"of": parent["task_id"]}}]
    assert task["dependencies"] == expected


async def test_who_completes_the_last_of_them_may_go_on_with_the_task_in_the_same_call(api, directory):
    """Every time, also when many do so at the same moment."""
    length, chains = 8, 15

    async def walk(place):
        tasks = [{"work_directory": place, "prompt": "0", "ref": "0"}]
        tasks += [
            {"work_directory": place, "prompt": f"{number}", "ref": f"{number}", "depends_on": [f"ref:{number - 1}"]}
            for number in range(1, length)
        ]
        made = (await api.post(f"{TASKS}/batch", {"tasks": tasks})).data["tasks"]
        task, walked = await api.next(place), []
        while task:
            walked.append((task["task_id"], [parent["result"] for parent in task["dependencies"]]))
            claim = {"work_directory": place}
            task = (await api.tell(task, "complete", result=task["prompt"], claim_next=claim)).data["next"]
        expected = [(task["task_id"], [f"{number - 1}"] if number else []) for number, task in enumerate(made)]
        assert walked == expected

    await asyncio.gather(*(walk(f"{directory}/{number}") for number in range(chains)))


async def test_who_completes_a_task_goes_on_with_the_next_however_many_others_are_being_told(api, directory):
    """Two tasks end at the same moment, and one of them has very many who waited for it."""
    parent, _ = await family(api, f"{directory}/many")
    other, _ = await family(api, f"{directory}/more")
    last = await api.claimed(f"{directory}/last")
    child = await child_of(api, directory, last)
    claim = {"work_directory": directory}
    answers = await asyncio.gather(
        api.tell(parent, "complete"), api.tell(other, "complete"), api.tell(last, "complete", claim_next=claim)
    )
    next_task = answers[2].data["next"]
    assert next_task is not None
    assert next_task["task_id"] == child["task_id"]


@pytest.mark.parametrize("how", ["next", "claim", "stream"])
async def test_a_worker_is_told_what_came_of_each_of_them(api, directory, how):
    """In the order in which they were named, wherever they were worked on; of an ordinary task there is nothing."""
    places = [f"{directory}/a", f"{directory}/b", directory]
    parents = [await api.claimed(place) for place in places]
    for number, parent in enumerate(parents):
        await api.tell(parent, "complete", result=[None, {"n": [number]}][number % 2])
    await child_of(api, directory, *reversed(parents))
    if how == "stream":
        async with api.stream(directory) as events:
            task = await events.task()
    elif how == "next":
        task = await api.next(directory)
    else:
        (task,) = (await api.post(f"{TASKS}/claim", {"work_directory": directory})).data["tasks"]
    assert task["dependencies"] == [
        {"task_id": parent["task_id"], "status": "completed", "result": result}
        for parent, result in zip(reversed(parents), (None, {"n": [1]}, None), strict=True)
    ]


async def test_a_parent_deleted_since_is_told_as_gone(api, directory):
    parent = await ended(api, directory, "completed")
    await child_of(api, directory, parent)
    assert (await api.call("DELETE", path_of(parent))).status == 200
    (told,) = (await api.next(directory))["dependencies"]
    assert (told["task_id"], told["status"], told["result"]) == (parent["task_id"], None, None)


async def test_by_default_a_task_outlasts_the_failure_of_another_and_runs_after_its_retry(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent)
    await end(api, parent, "failed")
    assert await api.next(directory) is None
    assert (await api.show(child))["blocked_by"] == [parent["task_id"]]
    assert (await api.post(f"{path_of(parent)}/retry", {})).status == 200
    assert await api.next(directory) is None
    await end(api, await api.next(f"{directory}/parent"), "completed")
    assert (await api.next(directory))["task_id"] == child["task_id"]
    assert await api.life(child) == ["created", "available", "claimed"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_failure_that_is_retried_is_none(api, directory, policy):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent, on_dependency_failure=policy)
    said = {"error_message": "no", "retryable": True, "retry_after_seconds": 0}
    assert (await api.tell(parent, "fail", **said)).data["status"] == "waiting"
    again = await api.next(f"{directory}/parent")
    assert await api.next(directory) is None
    assert (await api.show(child))["blocked_by"] == [parent["task_id"]]
    await end(api, again, "completed")
    assert (await api.next(directory))["task_id"] == child["task_id"]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_failure_cancels_those_that_ask_for_it_generation_by_generation(api, directory, how):
    """The history says why; who waits or runs nevertheless is not cancelled."""
    first = await api.claimed(directory)
    generations = [first]
    for number in range(3):
        place = f"{directory}/{number}"
        generations.append(await child_of(api, place, generations[-1], on_dependency_failure="cancel"))
    patient = await child_of(api, f"{directory}/p", generations[2], on_dependency_failure="wait")
    bold = await child_of(api, f"{directory}/b", generations[2], on_dependency_failure="run")
    await end(api, first, how)
    for parent, child in pairwise(generations):
        last = await gone_to(api, child, "cancelled")
        assert (last["type"], last["details"]["reason"]) == ("task.cancelled", "dependency_failed")
        assert last["details"]["dependency"] == parent["task_id"]
        assert (await api.show(child))["blocked_by"] == []
    assert (await api.next(f"{directory}/b", wait_seconds=10))["task_id"] == bold["task_id"]
    assert (await api.show(patient))["blocked_by"] == [generations[2]["task_id"]]
    assert await api.next(f"{directory}/p") is None


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_who_runs_nevertheless_starts_after_a_failure_and_is_told_of_it(api, directory, how):
    parents = [await api.claimed(f"{directory}/parents") for _ in range(2)]
    child = await child_of(api, directory, *parents, on_dependency_failure="run")
    await end(api, parents[0], how)
    assert await api.next(directory) is None
    await end(api, parents[1], "completed")
    task = await api.next(directory)
    assert task["task_id"] == child["task_id"]
    assert [(told["task_id"], told["status"]) for told in task["dependencies"]] == [
        (parents[0]["task_id"], how),
        (parents[1]["task_id"], "completed"),
    ]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_what_has_ended_before_counts_as_if_it_ended_now(api, directory, status, policy):
    parent = await ended(api, directory, status)
    child = await child_of(api, directory, parent, on_dependency_failure=policy)
    if status == "completed" or policy == "run":
        assert (child["status"], child["blocked_by"]) == ("waiting", [])
        (told,) = (await api.next(directory))["dependencies"]
        assert (told["task_id"], told["status"]) == (parent["task_id"], status)
    elif policy == "cancel":
        assert (child["status"], child["blocked_by"]) == ("cancelled", [])
        assert (await gone_to(api, child, "cancelled"))["details"]["reason"] == "dependency_failed"
        assert await api.next(directory) is None
    else:
        assert (child["status"], child["blocked_by"]) == ("waiting", [parent["task_id"]])
        assert await api.next(directory) is None


async def test_one_failure_among_others_that_are_yet_to_run_cancels_too(api, directory):
    open_one, broken = await api.create(f"{directory}/open"), await ended(api, directory, "failed")
    child = await child_of(api, directory, open_one, broken, on_dependency_failure="cancel")
    assert child["status"] == "cancelled"
    await end(api, await api.next(f"{directory}/open"), "completed")
    assert await api.life(child) == ["created", "cancelled"]


async def test_a_failed_task_that_was_there_before_frees_those_who_wait_once_it_is_retried(api, directory):
    parent = await ended(api, directory, "failed")
    child = await child_of(api, directory, parent)
    assert (await api.post(f"{path_of(parent)}/retry", {})).status == 200
    await end(api, await api.next(f"{directory}/ended"), "completed")
    assert (await api.next(directory))["task_id"] == child["task_id"]


async def test_a_task_that_is_put_off_waits_for_its_time_and_for_the_others(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent, delay_seconds=1000)
    await end(api, parent, "completed")
    assert await api.next(directory) is None
    shown = await until(lambda: shown_unblocked(api, child))
    assert shown["available_at"] == child["available_at"]
    edit = {"data": '{"run_at":null}', "headers": {"Content-Type": "application/json"}}
    assert (await api.call("PATCH", path_of(child), **edit)).status == 200
    assert (await api.next(directory))["task_id"] == child["task_id"]


async def shown_unblocked(api, task):
    shown = await api.show(task)
    return None if shown["blocked_by"] else shown


async def test_a_task_whose_time_comes_is_still_blocked(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent, run_at=soon(0.1))
    edit = {"data": '{"run_at":null}', "headers": {"Content-Type": "application/json"}}
    other = await child_of(api, directory, parent, delay_seconds=1000)
    assert (await api.call("PATCH", path_of(other), **edit)).data["blocked_by"] == [parent["task_id"]]
    assert await api.next(directory, wait_seconds=0.3) is None
    await end(api, parent, "completed")
    claimed = [(await api.next(directory))["task_id"] for _ in range(2)]
    assert claimed == [child["task_id"], other["task_id"]]


async def test_a_short_delay_that_ends_after_the_others_is_kept(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent, delay_seconds=0.5)
    await end(api, parent, "completed")
    assert (await api.next(directory, wait_seconds=10))["task_id"] == child["task_id"]
    assert (await api.show(child))["started_at"] >= child["available_at"]


async def test_a_blocked_task_expires_as_any_other_and_is_not_brought_back(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent, expires_at=soon(0.2))
    grandchild = await child_of(api, directory, child, on_dependency_failure="cancel")
    assert (await gone_to(api, child, "cancelled"))["details"]["reason"] == "expired"
    assert (await gone_to(api, grandchild, "cancelled"))["details"]["reason"] == "dependency_failed"
    await end(api, parent, "completed")
    assert await api.next(directory) is None
    assert (await api.show(child))["blocked_by"] == []


async def test_a_blocked_task_that_is_cancelled_stays_so(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent)
    assert (await api.post(f"{path_of(child)}/cancel", {})).data["blocked_by"] == []
    await end(api, parent, "completed")
    assert await api.next(directory) is None
    assert await api.life(child) == ["created", "cancelled"]


async def test_a_task_lost_beyond_its_retries_has_failed_for_those_who_wait_too(api, directory):
    parent = await api.claimed(f"{directory}/parent", lease_seconds=0.1, max_retries=0)
    kinds = {kind: await child_of(api, f"{directory}/{kind}", parent, on_dependency_failure=kind) for kind in POLICIES}
    bold = await api.next(f"{directory}/run", wait_seconds=10)
    assert [told["status"] for told in bold["dependencies"]] == ["failed"]
    assert (await gone_to(api, kinds["cancel"], "cancelled"))["details"]["reason"] == "dependency_failed"
    assert (await api.show(kinds["wait"]))["blocked_by"] == [parent["task_id"]]


async def test_a_task_lost_within_its_retries_keeps_those_who_wait_waiting(api, directory):
    parent = await api.claimed(f"{directory}/parent", lease_seconds=0.1, max_retries=1)
    children = [await child_of(api, directory, parent, on_dependency_failure=policy) for policy in POLICIES]
    again = await api.next(f"{directory}/parent", wait_seconds=10)
    assert again["task_id"] == parent["task_id"]
    assert await api.next(directory) is None
    await end(api, again, "completed")
    claim = {"work_directory": directory, "limit": 3}
    claimed = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert [task["task_id"] for task in claimed] == [task["task_id"] for task in children]


async def test_very_many_become_ready_together_and_in_order(api, directory):
    parent, children = await family(api, directory)
    await end(api, parent, "completed")
    claimed = []

    async def all_claimed():
        claim = {"work_directory": directory, "limit": 100}
        claimed.extend(task["task_id"] for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"])
        return len(claimed) >= MANY

    await until(all_claimed)
    assert claimed == children


@pytest.mark.parametrize("policy", ["cancel", "run"])
async def test_very_many_hear_of_a_failure(api, directory, policy):
    parent, _ = await family(api, directory, on_dependency_failure=policy)
    await end(api, parent, "failed")

    async def all_have_heard():
        if policy == "cancel":
            return (await counts(api, directory))["cancelled"] == MANY
        claim = {"work_directory": directory, "limit": 100}
        await api.post(f"{TASKS}/claim", claim)
        return (await counts(api, directory))["working"] == MANY

    await until(all_have_heard)


async def test_very_many_share_one_fate_also_if_the_failure_is_retried_at_once(api, shared, directory):
    """Whether they are cancelled must not depend on their place in the line."""
    parent, children = await family(api, directory, on_dependency_failure="cancel")
    async with wire(shared) as connection:
        await connection.send(
            text_of("POST", f"{path_of(parent)}/fail", {"error_message": "no"})
            + text_of("POST", f"{path_of(parent)}/retry", {})
        )
        answers = [await connection.answer() for _ in range(2)]
    assert answers[0].status == 200
    if answers[1].status == 200:
        await end(api, await api.next(f"{directory}/parent"), "completed")
    fates = []

    async def settled():
        count = await counts(api, directory)
        fates.append((count["waiting"], count["cancelled"]))
        last = await api.show({"task_id": children[-1]})
        return last["status"] == "cancelled" or not last["blocked_by"]

    await until(settled)
    assert fates[-1] in [(MANY, 0), (0, MANY)]


async def test_whoever_is_deleted_leaves_those_who_wait_blocked_and_told_why(api, directory):
    parent = await api.claimed(f"{directory}/parent")
    child = await child_of(api, directory, parent)
    await end(api, parent, "failed")

    async def deleted():  # those who wait are told of the end first
        return (await api.call("DELETE", path_of(parent))).status == 200

    await until(deleted)
    shown = await api.show(child)
    assert (shown["status"], shown["blocked_by"]) == ("waiting", [parent["task_id"]])
    assert await api.next(directory) is None
    (why,) = (await api.get(f"{path_of(child)}/explain")).data["blocked_by"]
    assert why["kind"] == "dependency"
    assert parent["task_id"] in why["detail"]
    assert "deleted" in why["detail"]
    assert (await api.post(f"{path_of(child)}/cancel", {})).data["status"] == "cancelled"


async def test_nobody_is_forgotten_who_comes_as_the_other_ends(api, shared, directory):
    """Creations and reports arrive together, in any order."""
    pairs = [await api.claimed(f"{directory}/parents") for _ in range(20)]
    reports = [text_of("POST", f"{path_of(parent)}/complete", {}) for parent in pairs]
    bodies = [
        {"work_directory": directory, "prompt": f"{number}", "depends_on": [parent["task_id"]]}
        for number, parent in enumerate(pairs)
    ]
    requests = reports + [text_of("POST", TASKS, body) for body in bodies]
    random.Random(3).shuffle(requests)
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wire(shared)) for _ in requests]
        for connection in wires:  # it is there, and served
            await connection.send(text_of("GET", "/health/live"))
            await connection.answer()
        with paused(shared):
            for connection, request in zip(wires, requests, strict=True):
                await connection.send(request)
        assert {(await connection.answer()).status for connection in wires} == {200, 201}
    claim = {"work_directory": directory, "limit": 100}
    claimed = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert sorted(int(task["prompt"]) for task in claimed) == list(range(20))


@pytest.mark.parametrize("how", ["completed", "failed"])
async def test_the_end_of_a_task_reaches_those_who_wait_over_a_kill(server, directory, how):
    """Also when the server is killed as soon as it has answered: very many cannot have been told by then."""
    policy = "wait" if how == "completed" else "cancel"
    async with connected(server) as api:
        parent, _ = await family(api, directory, on_dependency_failure=policy)
        last = await api.claimed(f"{directory}/parent")
        child = await child_of(api, f"{directory}/last", last, on_dependency_failure=policy)
        await asyncio.gather(end(api, parent, how), end(api, last, how))
        server.kill()
    server.start()
    async with connected(server) as api:
        if how == "failed":
            await gone_to(api, child, "cancelled")

            async def all_cancelled():
                return (await counts(api, directory))["cancelled"] == MANY

            await until(all_cancelled)
            return
        assert (await api.next(f"{directory}/last", wait_seconds=10))["task_id"] == child["task_id"]
        claimed = set()

        async def all_claimed():
            claim = {"work_directory": directory, "limit": 100}
            claimed.update(task["task_id"] for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"])
            return len(claimed) == MANY

        await until(all_claimed)


async def test_who_waits_for_others_still_does_after_a_restart(server, directory):
    async with connected(server) as api:
        parent = await api.claimed(f"{directory}/parent")
        child = await child_of(api, directory, parent)
    assert server.terminate() == 0
    server.start()
    async with connected(server) as api:
        assert await api.next(directory) is None
        assert (await api.show(child))["blocked_by"] == [parent["task_id"]]
        await end(api, parent, "completed")
        assert (await api.next(directory))["task_id"] == child["task_id"]


async def test_a_task_that_waits_for_very_many_is_ready_when_all_have_ended_together(api, directory):
    batch = [{"work_directory": f"{directory}/parents", "prompt": "x"}] * 100
    await api.post(f"{TASKS}/batch", {"tasks": batch})
    claim = {"work_directory": f"{directory}/parents", "limit": 100}
    parents = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    child = await child_of(api, directory, *parents)
    waiting = background(api.next(directory, wait_seconds=20))
    await asyncio.gather(*(api.tell(parent, "complete", result=parent["task_id"]) for parent in parents))
    task = await waiting
    assert task["task_id"] == child["task_id"]
    assert [told["result"] for told in task["dependencies"]] == [parent["task_id"] for parent in parents]


WEB_TASKS = 240


def web_of(directory, chance):
    """Tasks that depend on up to three others, in no order, under every policy; how each will end if it is run."""
    tasks, ends = [], []
    for number in range(WEB_TASKS):
        parents = chance.sample(range(number), min(number, chance.choice([0, 1, 1, 2, 3])))
        task = {"work_directory": f"{directory}/{number % 4}", "prompt": f"{number}", "ref": f"{number}"}
        task |= {"depends_on": [f"ref:{parent}" for parent in parents]}
        tasks.append(task | {"on_dependency_failure": chance.choice(POLICIES)})
        ends.append(chance.choice(["completed"] * 6 + ["failed", "cancelled"]))
    return tasks, ends


def fates(tasks, ends):
    """What must become of each of them, by its number."""
    found = []
    for task, end_ in zip(tasks, ends, strict=True):
        parents = {found[int(name.removeprefix("ref:"))] for name in task["depends_on"]}
        policy = task["on_dependency_failure"]
        if policy == "cancel" and parents & {"failed", "cancelled"}:
            found.append("cancelled")
        elif "waiting" in parents or (policy == "wait" and parents & {"failed", "cancelled"}):
            found.append("waiting")
        else:
            found.append(end_)
    return found


@pytest.mark.parametrize("seed", range(2))
async def test_in_a_web_of_tasks_each_meets_its_fate(server, directory, seed):
    """Also over a kill in the middle; and none begins before those it depends on have ended."""
    chance = random.Random(seed)
    tasks, ends = web_of(directory, chance)
    expected, places = fates(tasks, ends), [f"{directory}/{number}" for number in range(4)]
    over_at = 0

    async def worker(api):
        claim = {"work_directories": places, "wait_seconds": 0.2, "limit": 3}
        while sum(worked.values()) < over_at:
            for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"]:
                worked[int(task["prompt"])] += 1
                await end(api, task, ends[int(task["prompt"])])

    async def work(api, tasks_over):
        nonlocal over_at
        over_at = tasks_over
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(worker(api) for _ in range(8)))

    worked = dict.fromkeys(range(WEB_TASKS), 0)
    told = chance.sample(tasks, WEB_TASKS)
    runs = sum(
        fate != "waiting" and not (task["on_dependency_failure"] == "cancel" and is_broken(task, expected))
        for task, fate in zip(tasks, expected, strict=True)
    )
    async with connected(server) as api:
        made = (await api.post(f"{TASKS}/batch", {"tasks": told})).data["tasks"]
        await work(api, runs // 2)
    server.kill()
    server.start()
    async with connected(server) as api:
        await work(api, runs)

        async def settled():
            listed = (await api.get(TASKS, limit=1000)).data["tasks"]
            return {int(task["prompt"]): task["status"] for task in listed} == dict(enumerate(expected))

        await until(settled)
        assert set(worked.values()) <= {0, 1}
        ids = {int(task["prompt"]): {"task_id": told["task_id"]} for task, told in zip(told, made, strict=True)}
        lives = {number: await api.history(task) for number, task in ids.items()}
    for number, task in enumerate(tasks):
        begun = [line["seq"] for line in lives[number] if line["type"] == "task.claimed"]
        assert len(begun) == worked[number]
        for name in task["depends_on"] if begun else ():
            assert lives[int(name.removeprefix("ref:"))][-1]["seq"] < begun[0]


def is_broken(task, expected):
    return any(expected[int(name.removeprefix("ref:"))] in ("failed", "cancelled") for name in task["depends_on"])


async def test_results_that_are_too_large_together_are_left_out_and_it_says_so(api, directory):
    """16 MiB of them come with a claim; the others are to be had from the tasks themselves."""
    parents = [await api.claimed(f"{directory}/{number}") for number in range(17)]
    for parent in parents:
        await api.tell(parent, "complete", result="x" * (1024 * 1024 - 2))
    await api.create(directory, depends_on=[parent["task_id"] for parent in parents])
    told = (await api.next(directory))["dependencies"]
    assert [len(it["result"]) for it in told[:16]] == [1024 * 1024 - 2] * 16
    assert told[16] == {
        "task_id": parents[16]["task_id"],
        "status": "completed",
        "result": None,
        "result_omitted": True,
    }
