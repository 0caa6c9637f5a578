"""What can be had together with a task, and what need not be sent again."""

import asyncio

import pytest

from tests.web.conftest import TASKS

ON_EVERY_RECORD = True


def path_of(task):
    return f"{TASKS}/{task['task_id']}"


async def seen_before(api, task, *etags, path=""):
    headers = [("If-None-Match", etag) for etag in etags]
    return await api.call("GET", path_of(task) + path, headers=headers)


@pytest.mark.parametrize("include", ["history", "logs", "history,logs", "logs,history"])
async def test_what_is_asked_for_stands_beside_the_task(api, directory, include):
    task = await api.claimed(directory)
    await api.tell(task, "logs", lines=["a", "b"])
    plain = await api.show(task)
    answer = await api.get(path_of(task), include=include)
    beside = {name: answer.data[name] for name in answer.data.keys() - plain.keys()}
    whole = {
        "history": await api.history(task),
        "logs": (await api.get(f"{path_of(task)}/logs")).data["lines"],
    }
    assert [line["line"] for line in whole["logs"]] == ["a", "b"]
    assert beside == {name: whole[name] for name in include.split(",")}
    assert {name: answer.data[name] for name in plain} == plain


async def test_there_is_nothing_beside_a_task_that_nobody_asked_for(api, directory):
    task = await api.create(directory)
    assert not {"history", "logs"} & (await api.show(task)).keys()
    assert (await api.get(path_of(task), include="logs")).data["logs"] == []


async def test_of_a_long_log_it_is_the_end(api, directory):
    task = await api.claimed(directory)
    await api.tell(task, "logs", lines=["early"] * 1000)
    await api.tell(task, "logs", lines=["late"])
    logs = (await api.get(path_of(task), include="logs")).data["logs"]
    assert (len(logs), logs[0]["number"], logs[-1]["line"]) == (1000, 2, "late")


async def test_of_a_long_history_it_is_the_end_and_all_can_be_had_in_pages(api, directory):
    """The newest 1,000 lines beside the task; by itself from the oldest on, and it is said where it goes on."""
    task = await api.create(directory)
    edits = [api.call("PATCH", path_of(task), json={"max_retries": number % 2}) for number in range(1000)]
    await asyncio.gather(*edits)
    told, after, sizes = [], 0, []
    while after is not None:
        page = (await api.get(f"{path_of(task)}/history", after=after, limit=400)).data
        told += [line["seq"] for line in page["history"]]
        sizes.append(len(page["history"]))
        after = page["next_after"]
    assert sizes == [400, 400, 201]
    assert told == sorted(set(told))
    page = (await api.get(f"{path_of(task)}/history")).data
    assert ([line["seq"] for line in page["history"]], page["next_after"]) == (told[:1000], told[999])
    page = (await api.get(f"{path_of(task)}/history", after=told[0])).data
    assert ([line["seq"] for line in page["history"]], page["next_after"]) == (told[1:], None)
    page = (await api.get(f"{path_of(task)}/history", after=told[-1])).data
    assert (page["history"], page["next_after"]) == ([], None)
    included = (await api.get(path_of(task), include="history")).data["history"]
    assert [line["seq"] for line in included] == told[1:]


async def test_it_can_be_had_with_the_outcome(api, directory):
    """As of when the outcome is there."""
    task = await api.claimed(directory)
    await api.tell(task, "logs", lines=["a"])
    await api.tell(task, "complete")
    answer = (await api.get(path_of(task), include="history,logs", until="terminal", wait_seconds=5)).data
    assert answer["status"] == "completed"
    assert [entry["type"] for entry in answer["history"]] == ["task.created", "task.claimed", "task.completed"]
    assert [line["line"] for line in answer["logs"]] == ["a"]


async def test_of_a_task_that_does_not_exist_there_is_nothing(api):
    (await api.get(f"{TASKS}/nobody", include="history,logs")).refused(404, "TASK_NOT_FOUND")


async def test_a_task_that_has_not_changed_is_not_sent_again(api, directory):
    task = await api.create(directory)
    first = await api.get(path_of(task))
    assert (first.headers["ETag"], first.headers["Cache-Control"]) == ('"1"', "no-cache")
    again = await seen_before(api, task, '"1"')
    assert (again.status, again.content) == (304, b"")
    assert (again.headers["ETag"], again.headers["Cache-Control"]) == ('"1"', "no-cache")
    assert again.headers["X-Request-Id"]
    await api.call("PATCH", path_of(task), json={"tags": ["new"]})
    changed = await seen_before(api, task, '"1"')
    assert (changed.data["tags"], changed.headers["ETag"]) == (["new"], '"2"')


HAD = ['"1"', 'W/"1"', '"0", "1"', '"1","2"', ' W/"3" ,W/"1"', "*", '"x", "1"']
NOT_HAD = [
    '"2"',
    'W/"2"',
    "1",
    '"01"',
    '"1',
    '1"',
    "W/1",
    'w/"1"',
    "",
    ",",
    '"',
    "null",
    '"1" "2"',
    "\u00fc",
    "'1'",
    '"11"',
]


@pytest.mark.parametrize("etags", HAD)
async def test_every_way_to_say_that_one_has_it_is_understood(api, directory, etags):
    task = await api.create(directory)
    assert (await seen_before(api, task, etags)).status == 304


@pytest.mark.parametrize("etags", NOT_HAD)
async def test_whoever_says_anything_else_gets_the_task(api, directory, etags):
    task = await api.create(directory)
    assert (await seen_before(api, task, etags)).data["task_id"] == task["task_id"]


async def test_several_headers_count_as_one_list(api, directory):
    task = await api.create(directory)
    assert (await seen_before(api, task, '"7"', '"1"')).status == 304
    assert (await seen_before(api, task, '"7"', '"8"')).status == 200


@pytest.mark.parametrize(
    "query", ["?include=logs", "?include=history", "?until=terminal", "?until=terminal&include=logs"]
)
async def test_what_changes_without_the_version_is_always_sent(api, directory, query):
    """And kept by nobody; the ETag is there for If-Match."""
    task = await api.create(directory)
    answer = await seen_before(api, task, '"1"', path=query)
    assert answer.data["task_id"] == task["task_id"]
    assert (answer.headers["ETag"], answer.headers["Cache-Control"]) == ('"1"', "no-store")


async def test_who_has_it_is_told_that_it_is_gone(api, directory):
    task = await api.create(directory)
    await api.post(f"{path_of(task)}/cancel", {})
    assert (await api.call("DELETE", path_of(task))).status == 200
    (await seen_before(api, task, "*")).refused(404, "TASK_NOT_FOUND")
