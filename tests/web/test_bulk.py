"""Many tasks in one request: cancelled, retried, deleted or given another priority."""

import asyncio
import json
from collections import Counter

import pytest

from tests.conftest import ServerProcess
from tests.web.bad_values import KINDS, MEBIBYTE
from tests.web.conftest import TASKS, Answer, connected, footprint, text_of, until, wire

ON_EVERY_RECORD = ON_ENCRYPTED_RECORD = True

VERBS = ("cancel", "retry", "delete", "priority")
ALLOWED = {
    "cancel": {"waiting", "failed", "spent"},
    "retry": {"failed"},
    "delete": {"completed", "failed", "spent", "cancelled"},
    "priority": {"waiting", "failed", "spent"},
}
TYPES = {"cancel": "task.cancelled", "retry": "task.retried", "delete": "task.deleted", "priority": "task.updated"}
NOBODY = "00000000-0000-7000-8000-000000000000"


async def steer(api, verb, **said) -> Answer:
    if verb == "priority":
        said.setdefault("priority", "high")
    return await api.post(f"{TASKS}/{verb}", said)


async def alone(api, verb, task_id) -> Answer:
    """The call about one task."""
    if verb == "delete":
        return await api.call("DELETE", f"{TASKS}/{task_id}")
    if verb == "priority":
        headers = {"Content-Type": "application/json"}
        return await api.call("PATCH", f"{TASKS}/{task_id}", data='{"priority":"high"}', headers=headers)
    return await api.post(f"{TASKS}/{task_id}/{verb}", {})


def told(matched, changed, skipped=None):
    """The whole answer; `skipped`: what is to be skipped, by the code."""
    named = [{"task_id": task_id, "code": code} for task_id, code in (skipped or {}).items()]
    return {"matched": matched, "changed": changed, "skipped": named, "skipped_count": matched - changed}


def in_any_order(data):
    return {**data, "skipped": sorted(data["skipped"], key=lambda it: it["task_id"])}


async def in_every_state(api, directory, **fields):
    """A task in every state, by its name; `spent`: it failed, and may not be retried."""
    zoo = {}
    for state in ("working", "completed", "failed", "spent"):
        retries = {"max_retries": 0} if state == "spent" else {}
        task = zoo[state] = await api.claimed(directory, **fields, **retries)
        if state == "completed":
            assert (await api.tell(task, "complete", result={"n": 1})).status == 200
        elif state != "working":
            assert (await api.tell(task, "fail", error_message="no")).status == 200
    zoo["cancelled"] = await api.create(directory, **fields)
    await api.post(f"{TASKS}/{zoo['cancelled']['task_id']}/cancel", {})
    zoo["waiting"] = await api.create(directory, **fields)
    return {state: task["task_id"] for state, task in zoo.items()}


async def many(api, directory, count, **fields):
    ids = []
    for _ in range(0, count, 1000):
        batch = [{"work_directory": directory, "prompt": "Tidy up", **fields}] * min(1000, count)
        ids += [task["task_id"] for task in (await api.post(f"{TASKS}/batch", {"tasks": batch})).data["tasks"]]
    return ids


async def counts(api, directory):
    """How many tasks it has by status."""
    listed = (await api.get("/api/v1/work-directories")).data["work_directories"]
    return next(it for it in listed if it["work_directory"] == directory)


def refusals(verb, zoo):
    codes = {"spent": "RETRY_LIMIT_REACHED"} if verb == "retry" else {}
    return {zoo[state]: codes.get(state, "INVALID_STATE") for state in zoo if state not in ALLOWED[verb]}


# What it does


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("by", ["ids", "filter"])
async def test_what_may_be_done_to_each_is_done_and_the_others_are_skipped(api, directory, verb, by):
    """With the code of the call about that task alone; a dry run says the same beforehand, and changes nothing."""
    zoo = await in_every_state(api, directory)
    unknown = {NOBODY: "TASK_NOT_FOUND"} if by == "ids" else {}
    which = {"ids": [*zoo.values(), *unknown]} if by == "ids" else {"filter": {"work_directory": directory}}
    skipped = refusals(verb, zoo) | unknown
    expected = in_any_order(told(6 + len(unknown), 6 + len(unknown) - len(skipped), skipped))
    for task_id, code in skipped.items():
        assert (await alone(api, verb, task_id)).json["error"]["code"] == code
    before = [await api.show({"task_id": task_id}) for task_id in zoo.values()]
    assert in_any_order((await steer(api, verb, dry_run=True, **which)).data) == expected
    assert [await api.show({"task_id": task_id}) for task_id in zoo.values()] == before
    assert in_any_order((await steer(api, verb, **which)).data) == expected
    for state, task_id in zoo.items():
        answer = await api.get(f"{TASKS}/{task_id}")
        if verb == "delete" and state in ALLOWED[verb]:
            answer.refused(404, "TASK_NOT_FOUND")
            continue
        done = {"cancel": "cancelled", "retry": "waiting"}.get(verb) if state in ALLOWED[verb] else None
        assert answer.data["status"] == (done or {"spent": "failed"}.get(state, state))
        assert answer.data["priority"] == ("high" if (verb, state in ALLOWED[verb]) == ("priority", True) else "medium")


@pytest.mark.parametrize("verb", ["cancel", "retry", "priority"])
async def test_the_history_tells_what_it_tells_of_one_alone_and_why(api, directory, verb):
    """Also that it was done to one of many cannot be seen; nothing is written about those skipped."""
    one, other = [(await in_every_state(api, directory))["failed"] for _ in range(2)]
    assert (await alone(api, verb, one)).status == 200
    working = await api.claimed(f"{directory}/other")
    assert (await steer(api, verb, ids=[other, working["task_id"]], reason="over")).data["changed"] == 1
    single, among_many = [(await api.history({"task_id": task_id}))[-1] for task_id in (one, other)]
    assert among_many.pop("details") == {**single.pop("details"), "reason": "over"}
    assert single.pop("seq") < among_many.pop("seq")
    del single["at"], among_many["at"]
    assert among_many == single
    assert among_many["type"] == TYPES[verb]
    assert await api.life(working) == ["created", "claimed"]
    versions = [(await api.show({"task_id": task_id}))["version"] for task_id in (one, other)]
    assert versions[0] == versions[1]


FILTERS = [
    ({"status": "failed"}, {"failed"}),
    ({"status": ["failed", "waiting"]}, {"failed", "low", "tagged", "both", "asked"}),
    ({"priority": "low"}, {"low"}),
    ({"priority": ["low", "high"]}, {"low", "tagged"}),
    ({"tags": ["a", "b"]}, {"both"}),
    ({"tags": "a"}, {"tagged", "both"}),
    ({"tags": ["a", "b"], "tag_mode": "any"}, {"tagged", "both"}),
    ({"worker_id": "ann"}, {"failed"}),
    ({"worker_id": ["bob", "eve"]}, set()),
    ({"q": "ÄPFEL & Nüsse%"}, {"asked"}),
    ({"q": "_"}, set()),
    ({"created_before": "2020-01-01T00:00:00Z"}, set()),
    ({"created_after": "2999-01-01T00:00:00Z"}, set()),
    ({"created_after": "2020-01-01T00:00:00Z", "priority": "low"}, {"low"}),
    ({"status": "waiting", "tags": "a", "priority": "high"}, {"tagged"}),
]


@pytest.mark.parametrize(("only", "names"), FILTERS, ids=lambda it: json.dumps(it) if isinstance(it, dict) else "")
async def test_a_filter_means_those_of_which_everything_in_it_is_true(api, directory, only, names):
    zoo = {"failed": await api.claimed(directory)}
    await api.tell(zoo["failed"], "release")
    zoo["failed"] = await api.next(directory, worker_id="ann")
    await api.tell(zoo["failed"], "fail", error_message="no")
    zoo["low"] = await api.create(directory, priority="low")
    zoo["tagged"] = await api.create(directory, tags=["x", "a"], priority="high")
    zoo["both"] = await api.create(directory, tags=["b", "a"])
    zoo["asked"] = await api.create(directory, prompt="Pick äpfel & nÜSSE% today")
    await api.create(f"{directory}/other", tags=["a", "b"], priority="low")
    only = {**only, "work_directory": directory}
    assert (await steer(api, "cancel", filter=only, dry_run=True)).data["matched"] == len(names)
    assert (await steer(api, "cancel", filter=only)).data == told(len(names), len(names))
    assert {name for name in zoo if await api.status(zoo[name]) == "cancelled"} == names


async def test_times_lie_outside(api, directory):
    tasks = []
    for _ in range(3):
        tasks.append(await api.create(directory))
        await until(lambda: api.create(f"{directory}/later"))  # some time passes
        while (await api.get("/health")).json["timestamp"] <= tasks[-1]["created_at"]:
            pass
    first, second, third = tasks
    only = {"created_after": first["created_at"], "created_before": third["created_at"], "work_directory": directory}
    assert (await steer(api, "cancel", filter=only)).data == told(1, 1)
    assert await api.status(second) == "cancelled"


async def test_several_directories_and_windows_paths(api, directory):
    paths = [directory, "C:\\" + directory[6:], f"{directory}/b"]
    for path in paths:
        await api.create(path)
    only = {"work_directory": [f"{directory}//.", paths[1].replace("\\", "/")]}
    assert (await steer(api, "cancel", filter=only)).data == told(2, 2)
    assert (await counts(api, paths[2]))["waiting"] == 1


async def test_everything_there_is(server, directory):
    """An empty filter means all tasks of all directories, and must say that it does."""
    async with connected(server) as api:
        ids = [(await api.create(f"{directory}/{number}"))["task_id"] for number in range(3)]
        for empty in ({}, {"tag_mode": "all"}, {"tags": None, "q": None}):
            for more in ({}, {"all": False}, {"dry_run": True}):
                assert (await steer(api, "cancel", filter=empty, **more)).refused(422, "FILTER_TOO_WIDE") == {}
        assert [await api.status({"task_id": task_id}) for task_id in ids] == ["waiting"] * 3
        assert (await steer(api, "cancel", filter={}, all=True, dry_run=True)).data == told(3, 3)
        assert (await steer(api, "cancel", filter={}, all=True)).data == told(3, 3)
        assert (await steer(api, "delete", filter={"status": "cancelled"}, all=True)).data == told(3, 3)
        assert (await steer(api, "delete", filter={}, all=True)).data == told(0, 0)


async def test_said_again_it_finds_nothing_more_to_do(api, directory):
    ids = await many(api, directory, 3)
    assert (await steer(api, "cancel", ids=ids)).data == told(3, 3)
    again = told(3, 0, dict.fromkeys(reversed(ids), "INVALID_STATE"))
    assert (await steer(api, "cancel", ids=ids)).data == again
    assert (await steer(api, "delete", ids=ids)).data == told(3, 3)
    assert (await steer(api, "delete", ids=ids)).data == told(3, 0, dict.fromkeys(ids, "TASK_NOT_FOUND"))


async def test_those_who_wait_hear_of_it(api, directory):
    """Who waits for the outcome, and who waits for a task."""
    first, second = await api.create(directory), await api.claimed(f"{directory}/b")
    outcome = asyncio.create_task(api.get(f"{TASKS}/{first['task_id']}", until="terminal", wait_seconds=20))
    await api.busy_with(1)
    assert (await steer(api, "cancel", ids=[first["task_id"]])).data["changed"] == 1
    assert (await outcome).data["status"] == "cancelled"
    await api.tell(second, "fail", error_message="no")
    claim = asyncio.create_task(api.next(f"{directory}/b", wait_seconds=20))
    await api.busy_with(1)
    assert (await steer(api, "retry", filter={"work_directory": f"{directory}/b"})).data["changed"] == 1
    assert (await claim)["task_id"] == second["task_id"]


async def test_a_new_priority_moves_them_to_their_place(api, directory):
    """Among each other they keep their order."""
    ids = await many(api, directory, 4)
    assert (await steer(api, "priority", ids=[ids[3], ids[1]], priority="high")).data == told(2, 2)
    assert (await steer(api, "priority", ids=[ids[0]], priority="low")).data == told(1, 1)
    claimed = [(await api.next(directory))["task_id"] for _ in ids]
    assert claimed == [ids[1], ids[3], ids[2], ids[0]]


async def test_dependants_are_cancelled_with_those_they_depend_on(api, directory):
    """If they are meant themselves they are counted, and are cancelled for that reason and no other."""
    for meant in (False, True):
        parent = {"work_directory": directory, "prompt": "x", "ref": "p"}
        child = {"work_directory": directory, "prompt": "x", "depends_on": ["ref:p"]}
        tasks = [parent, *[{**child, "on_dependency_failure": "cancel"}] * 100]
        made = (await api.post(f"{TASKS}/batch", {"tasks": tasks})).data["tasks"]
        ids = [task["task_id"] for task in (made if meant else made[:1])]
        expected = told(len(ids), len(ids))
        assert (await steer(api, "cancel", ids=ids, reason="over", dry_run=True)).data == expected
        assert (await steer(api, "cancel", ids=ids, reason="over")).data == expected
        only = {"work_directory": directory, "status": "waiting"}

        async def nobody_waits(only=only):
            return (await steer(api, "cancel", filter=only, dry_run=True)).data["matched"] == 0

        await until(nobody_waits)
        reasons = Counter([(await api.history(task))[-1]["details"]["reason"] for task in made])
        assert reasons == ({"over": 101} if meant else {"over": 1, "dependency_failed": 100})


async def test_every_task_that_is_skipped_is_named_with_its_reason(api, directory):
    ids = [f"nobody-{number}" for number in range(20_000)]
    data = (await steer(api, "retry", ids=ids)).data
    assert (data["matched"], data["changed"], data["skipped_count"]) == (20_000, 0, 20_000)
    assert {it["task_id"] for it in data["skipped"]} == set(ids)
    assert {it["code"] for it in data["skipped"]} == {"TASK_NOT_FOUND"}


# What it refuses


ASKED = [
    ({}, ["ids"]),
    ({"all": True}, ["ids"]),
    ({"dry_run": True, "reason": "x"}, ["ids"]),
    ({"ids": None, "filter": None}, ["ids"]),
    ({"ids": ["a"], "filter": {}}, ["filter"]),
    ({"ids": ["a"], "filter": {"status": "failed"}, "all": True}, ["filter", "all"]),
    ({"ids": ["a"], "all": True}, ["all"]),
    ({"ids": []}, ["ids"]),
    ({"ids": ["a"] * 100_001}, ["ids"]),
    ({"ids": ["a", "b", "a"]}, ["ids[2]"]),
    ({"ids": ["a", 5, None, "", "a b", ["a"], {}, True]}, [f"ids[{at}]" for at in range(1, 8)]),
    ({"ids": [5] * 60}, [f"ids[{at}]" for at in range(50)]),
    ({"filter": {"colour": "red"}}, ["filter.colour"]),
    ({"filter": {"status": "done"}}, ["filter.status"]),
    ({"filter": {"status": "waiting,failed"}}, ["filter.status"]),
    ({"filter": {"status": []}}, ["filter.status"]),
    ({"filter": {"status": [None]}}, ["filter.status[0]"]),
    ({"filter": {"priority": 2}}, ["filter.priority"]),
    ({"filter": {"work_directory": "here"}}, ["filter.work_directory"]),
    ({"filter": {"tags": []}}, ["filter.tags"]),
    ({"filter": {"tag_mode": "any"}}, ["filter.tags"]),
    ({"filter": {"tag_mode": "none", "tags": ["a"]}}, ["filter.tag_mode"]),
    ({"filter": {"worker_id": ""}}, ["filter.worker_id"]),
    ({"filter": {"created_after": "today"}}, ["filter.created_after"]),
    ({"filter": {"q": ""}}, ["filter.q"]),
    ({"filter": {"q": "a\0"}}, ["filter.q"]),
    ({"filter": {"ids": ["a"]}}, ["filter.ids"]),
    ({"ids": ["a"], "force": True}, ["force"]),
    ({"ids": ["a"], "task_ids": ["a"], "status": "failed"}, ["status", "task_ids"]),
    ({"ids": ["a"], "reason": "x" * 501}, ["reason"]),
]
KINDS_TAKEN = {
    "ids": {"list", "null"},
    "filter": {"object", "null"},
    "all": {"boolean"},
    "dry_run": {"boolean"},
    "reason": {"string", "null"},
}
ASKED += [
    ({"ids": ["a"]} | {name: value} if name != "filter" else {name: value}, [name])
    for name, taken in KINDS_TAKEN.items()
    for kind, value in KINDS.items()
    if kind not in taken
]


@pytest.mark.parametrize(("asked", "fields"), ASKED, ids=lambda it: json.dumps(it)[:60])
@pytest.mark.once
async def test_what_is_not_said_right_is_refused(api, shared, directory, asked, fields):
    before = footprint(shared)
    for verb in VERBS:
        assert (await steer(api, verb, **asked)).faults() == fields
    assert footprint(shared) == before


async def test_a_priority_is_for_the_call_that_gives_one(api):
    assert (await api.post(f"{TASKS}/priority", {"ids": ["a"]})).faults() == ["priority"]
    for value in (None, "urgent", "HIGH", 1):
        assert (await steer(api, "priority", ids=["a"], priority=value)).faults() == ["priority"]
    for verb in ("cancel", "retry", "delete"):
        assert (await steer(api, verb, ids=["a"], priority="low")).faults() == ["priority"]


async def test_it_keeps_to_the_manners_of_all_other_calls(api, shared):
    for verb in VERBS:
        (await api.post(f"{TASKS}/{verb}?dry_run=true", {"ids": ["a"], "priority": "low"})).refused(
            400, "VALIDATION_ERROR"
        )
        (await api.post(f"{TASKS}/{verb}", b"{")).refused(400, "MALFORMED_JSON")
        assert (await api.post(f"{TASKS}/{verb}", [])).faults() == ["body"]
        (await api.post(f"{TASKS}/{verb}", b" " * (16 * MEBIBYTE + 1))).refused(413, "PAYLOAD_TOO_LARGE")
        plain = await api.call("POST", f"{TASKS}/{verb}", data="{}", headers={"Content-Type": "text/plain"})
        plain.refused(415, "UNSUPPORTED_MEDIA_TYPE")


# Very many


async def test_five_thousand_in_one_call_and_claims_go_on_meanwhile(api, directory):
    ids = await many(api, directory, 5000)
    call = asyncio.create_task(steer(api, "cancel", ids=ids, reason="over"))
    claims = 0
    while not call.done():
        task = await api.claimed(f"{directory}/other")
        claims += task is not None
    assert claims > 10
    assert (await call).data == told(5000, 5000)
    assert (await counts(api, directory))["cancelled"] == 5000
    assert (await steer(api, "delete", filter={"work_directory": directory})).data == told(5000, 5000)


async def some_cancelled(api, directory):
    async def some():
        return (await counts(api, directory))["cancelled"] > 0

    await until(some)


async def test_who_leaves_stops_it(api, shared, directory):
    """At the next slice; what was done stays done."""
    await many(api, directory, 5000)
    body = {"filter": {"work_directory": directory}}
    async with wire(shared) as caller:
        await caller.send(text_of("POST", f"{TASKS}/cancel", body, Content_Type="application/json"))
        await some_cancelled(api, directory)
        await caller.leave()
    await api.busy_with(0)
    await api.create(f"{directory}/other")  # its turn comes after the last slice
    left = await counts(api, directory)
    assert left["waiting"] > 0
    assert left["waiting"] + left["cancelled"] == 5000
    assert (await steer(api, "cancel", filter={**body["filter"], "status": "waiting"})).data == told(
        left["waiting"], left["waiting"]
    )


async def interrupted(server, directory, how):
    """Cancels many, and stops the server midway: its answer, None if there was none."""
    async with connected(server) as api:
        await many(api, directory, 5000)
        call = asyncio.create_task(steer(api, "cancel", filter={"work_directory": directory}, reason="over"))
        await some_cancelled(api, directory)
        await asyncio.to_thread(how)
        return (
            None if isinstance(answer := (await asyncio.gather(call, return_exceptions=True))[0], Exception) else answer
        )


@pytest.mark.once
async def test_a_server_that_stops_says_so_and_what_was_done_stays_done(server: ServerProcess, directory):
    answer = await interrupted(server, directory, server.terminate)
    answer.refused(503, "UNAVAILABLE")
    await all_or_nothing(server, directory)


async def test_a_server_that_is_killed_has_done_it_to_each_or_has_not(server: ServerProcess, directory):
    assert await interrupted(server, directory, server.kill) is None
    await all_or_nothing(server, directory)


async def all_or_nothing(server, directory):
    await asyncio.to_thread(server.start)
    async with connected(server) as api:
        before = await counts(api, directory)
        assert min(before["waiting"], before["cancelled"]) > 0
        assert before["waiting"] + before["cancelled"] == 5000
        page = (
            await api.get(TASKS, work_directory=directory, limit=1000, offset=before["cancelled"] // 1000 * 1000)
        ).data
        for task in page["tasks"][:: 1000 // 50]:
            life = await api.life(task)
            assert life == ["created"] + ["cancelled"] * (task["status"] == "cancelled")
        only = {"work_directory": directory, "status": "waiting"}
        assert (await steer(api, "cancel", filter=only)).data == told(before["waiting"], before["waiting"])
