"""The feed of one task: its whole life, where it was left off, and when it is over."""

import pytest

from tests.web.conftest import TASKS
from tests.web.tails import pages, tail

ON_EVERY_RECORD = True


def path(task):
    return f"{TASKS}/{task['task_id']}/events"


async def test_it_begins_with_the_creation_and_goes_on_to_the_end(api, directory):
    """Whatever happens to others meanwhile; when the task is completed, the stream ends."""
    task = await api.create(directory)
    async with tail(api, path(task)) as feed:
        seen = await feed.take(1)
        other = await api.create(directory)
        held = await api.next(directory)
        seen += await feed.take(1)
        await api.tell(held, "heartbeat", progress={"percent": 50, "message": "half way"})
        seen += await feed.take(1)
        await api.next(directory)
        await api.tell(held, "complete", result=1)
        seen += await feed.rest()
    assert [event["type"] for event in seen] == ["task.created", "task.claimed", "task.progress", "task.completed"]
    assert seen[2]["details"] == {"percent": 50, "message": "half way"}
    assert seen == await pages(api, task_id=task["task_id"])
    assert other["task_id"] not in str(feed.raw)


async def end(api, directory, how):
    """A task that has come to its end in some way, and what it was told."""
    task = await api.claimed(directory)
    about = f"{TASKS}/{task['task_id']}"
    if how == "completed":
        await api.tell(task, "complete")
    elif how == "cancelled":
        await api.post(f"{about}/cancel", {"force": True})
    else:
        await api.tell(task, "fail", error_message="no")
        await api.call("DELETE", about)
    return task


@pytest.mark.parametrize("how", ["completed", "cancelled", "deleted"])
async def test_of_a_task_that_is_over_it_tells_what_was_not_seen_and_ends(api, directory, how):
    task = await end(api, directory, how)
    events = await pages(api, task_id=task["task_id"])
    for place, event in enumerate(events[:-1], start=1):
        async with tail(api, path(task), last_event_id=event["seq"]) as feed:
            assert await feed.rest() == events[place:]
        async with tail(api, path(task), after=event["seq"]) as feed:
            assert await feed.rest() == events[place:]


@pytest.mark.parametrize("how", ["completed", "cancelled"])
async def test_a_browser_that_has_seen_the_end_is_kept_from_coming_again(api, directory, how):
    """It would for ever; only 204 stops it."""
    task = await end(api, directory, how)
    last = (await pages(api, task_id=task["task_id"]))[-1]["seq"]
    answer = await api.call("GET", path(task), headers={"Last-Event-ID": str(last)})
    assert (answer.status, answer.content) == (204, b"")
    await api.call("PATCH", f"{TASKS}/{task['task_id']}", json={"tags": ["late"]})
    async with tail(api, path(task), last_event_id=last) as feed:
        assert [event["type"] for event in await feed.rest()] == ["task.updated"]


async def test_a_failed_task_may_be_retried_so_its_feed_goes_on(api, directory):
    task = await api.claimed(directory)
    async with tail(api, path(task)) as feed:
        await api.tell(task, "fail", error_message="no")
        await feed.until("task.failed")
        await api.post(f"{TASKS}/{task['task_id']}/retry", {})
        await feed.until("task.retried")
        await api.tell(await api.next(directory), "fail", error_message="still no")
        await feed.until("task.failed")
        await api.call("DELETE", f"{TASKS}/{task['task_id']}")
        assert [event["type"] for event in await feed.rest()] == ["task.deleted"]


async def test_of_a_task_that_is_unknown_or_forgotten_there_is_no_feed(api, directory):
    task = await end(api, directory, "deleted")
    last = (await pages(api, task_id=task["task_id"]))[-1]["seq"]
    for asked in ({}, {"Last-Event-ID": str(last)}):
        (await api.call("GET", path(task), headers=asked)).refused(404, "TASK_NOT_FOUND")
    for name in ("nobody", "a%20b", "a" * 101, "%00", "%FF"):
        for query in ("", "?after=1"):
            (await api.call("GET", f"{TASKS}/{name}/events{query}")).refused(404, "TASK_NOT_FOUND")


@pytest.mark.parametrize(
    ("query", "field"), [("after=x", "after"), ("types=task.created", "types"), ("task_id=x", "task_id")]
)
async def test_what_makes_no_sense_is_refused_by_its_name(api, directory, query, field):
    task = await api.create(directory)
    assert (await api.call("GET", f"{path(task)}?{query}")).faults() == [field]
