"""The event feed: what it shows, where it begins, what it leaves out, and how it is read page by page."""

import re
from itertools import product

import pytest

from dispatcher.events import EVENT_TYPES
from tests.web.conftest import TASKS, connected, raw, text_of
from tests.web.tails import EVENTS, JSON, cycle, last_seq, page, pages, tail

ON_EVERY_RECORD = True

FIELDS = {
    *("seq", "type", "task_id", "work_directory", "status", "priority", "worker_id", "attempt", "at", "details"),
}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_a_feed_is_a_stream_of_events_that_nobody_keeps(api):
    async with tail(api) as feed:
        headers = feed.response.headers
        assert headers["Content-Type"].split(";")[0] == "text/event-stream"
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert "Content-Encoding" not in headers
        assert re.match(rb"retry: \d+\nid: \d+\n\n", await feed.response.content.readany())


async def test_an_event_tells_all_there_is_to_tell(api, directory):
    async with tail(api, work_directory=directory) as feed:
        task = await api.create(directory, priority="high")
        await api.next(directory, worker_id="ann")
        created, claimed = await feed.take(2)
    assert created.keys() == claimed.keys() == FIELDS
    about = {"task_id": task["task_id"], "work_directory": directory, "priority": "high", "details": created["details"]}
    seq, at = created["seq"], created["at"]
    assert RFC3339.fullmatch(at)
    assert created == about | {
        **{"seq": seq, "type": "task.created", "status": "waiting", "worker_id": None, "attempt": 0, "at": at}
    }
    assert (claimed["type"], claimed["status"], claimed["worker_id"], claimed["attempt"]) == (
        *("task.claimed", "working", "ann", 1),
    )
    assert claimed["seq"] == seq + 1


async def test_the_feed_shows_every_kind_of_event_and_never_a_token(api, directory):
    """And says the same as the pages and as the history of the task."""
    async with tail(api, work_directory=directory) as feed:
        first = await api.claimed(directory, retry_delay_seconds=0)
        await api.tell(first, "heartbeat", progress={"percent": 1, "message": "on it"})
        await api.tell(first, "heartbeat", progress={"percent": 1, "message": "on it"})
        await api.tell(first, "heartbeat")
        await api.tell(first, "release")
        second = await api.next(directory)
        await api.tell(second, "fail", error_message="no", retryable=True)
        third = await api.next(directory, lease_seconds=0.01)
        fourth = await api.next(directory, wait_seconds=10)
        await api.tell(third, "complete", result="late")
        await api.tell(fourth, "fail", error_message="no")
        path = f"{TASKS}/{first['task_id']}"
        await api.call("PATCH", path, json={"tags": ["a"]})
        await api.post(f"{path}/cancel", {})
        history = await api.history(first)
        await api.call("DELETE", path)
        later = await api.create(directory, delay_seconds=0.01)
        last = await api.next(directory, wait_seconds=10)
        assert last["task_id"] == later["task_id"]
        await api.tell(last, "complete")
        for verb in ("pause", "resume", "drain"):
            await api.post(f"/api/v1/work-directories/{verb}?path={directory}", {})
        await api.call("PATCH", f"/api/v1/work-directories?path={directory}", json={"max_working": 3})
        seen = await feed.until("directory.updated")
    assert [event["type"].partition(".")[2] for event in seen] == [
        *("created", "claimed", "progress", "released", "claimed", "retried", "claimed", "lease_expired", "claimed"),
        *("late_result", "failed", "updated", "cancelled", "deleted", "created", "available", "claimed", "completed"),
        *("paused", "resumed", "draining", "drained", "updated"),
    ]
    assert {event["type"] for event in seen} == set(EVENT_TYPES) - {"config.changed", "server.draining"}
    assert seen[2]["details"] == {"percent": 1, "message": "on it"}
    assert seen == await pages(api, work_directory=directory)
    in_history = [{name: event[name] for name in history[0]} for event in seen if event["task_id"] == first["task_id"]]
    assert in_history[:-1] == history
    assert first["lease_token"] not in str(feed.raw)


async def test_without_a_beginning_a_stream_shows_what_happens_from_now_on(api, directory):
    await api.create(directory)
    async with tail(api, work_directory=directory) as feed:
        task = await api.create(directory)
        assert [event["task_id"] for event in await feed.take(1)] == [task["task_id"]]


async def test_who_has_seen_nothing_yet_can_come_again_without_loss(api, directory):
    """The stream says where it stands before anything has happened, as a browser needs to know."""
    async with tail(api, work_directory=directory) as feed:
        start = int((await feed.response.content.readany()).split(b"id: ")[1].split()[0])
    task = await api.create(directory)
    async with tail(api, last_event_id=start, work_directory=directory) as feed:
        assert [event["task_id"] for event in await feed.take(1)] == [task["task_id"]]


async def test_a_stream_begins_behind_what_was_seen_last_and_goes_on(api, directory):
    """The header of a browser that comes again is stronger than its address, which it repeats unchanged."""
    tasks = [await api.create(directory) for _ in range(5)]
    seqs = [event["seq"] for event in await pages(api, work_directory=directory)]
    for place, asked in enumerate([{"after": 0}, *({"after": seq} for seq in seqs)]):
        for header in (None, *seqs):
            begin = place if header is None else seqs.index(header) + 1
            async with tail(api, last_event_id=header, work_directory=directory, **asked) as feed:
                seen = await feed.take(5 - begin)
                assert [event["task_id"] for event in seen] == [task["task_id"] for task in tasks[begin:]]
    async with tail(api, last_event_id=seqs[-2], work_directory=directory) as feed:
        await feed.take(1)
        task = await api.create(directory)
        assert [event["task_id"] for event in await feed.take(1)] == [task["task_id"]]


async def test_filters_leave_out_what_does_not_match_all_of_them(api, directory):
    """Every combination, in a stream from the beginning, in one that goes on, and in pages."""
    other = f"{directory}/other,C:\\a,b"
    before = await last_seq(api)
    task = await cycle(api, directory)
    for path in (directory, other):
        await cycle(api, path)
    await api.post(f"/api/v1/work-directories/pause?path={directory}", {})
    every = await pages(api, after=before)
    assert len(every) == 10
    normal = "C:\\a,b"
    directories = (None, [directory], [normal], [directory, f"{directory}/other", normal])
    types = (None, ["task.created"], ["task.claimed", "directory.paused"], ["server.draining"])
    for paths, kinds, task_id in product(directories, types, (None, task["task_id"], "nobody")):
        query = {"work_directory": paths and ",".join(paths), "types": kinds and ",".join(kinds), "task_id": task_id}
        asked = {name: value for name, value in query.items() if value}
        expected = [
            event
            for event in every
            if (not paths or event["work_directory"] in paths)
            and (not kinds or event["type"] in kinds)
            and (not task_id or event["task_id"] == task_id)
        ]
        assert await pages(api, after=before, **asked) == expected
        assert await pages(api, after=before, limit=1, **asked) == expected
        async with tail(api, after=before, **asked) as feed:
            assert await feed.take(len(expected)) == expected


@pytest.mark.parametrize(
    "query",
    [
        *({"types": "task.created,directory.paused"}, {"work_directory": "HERE"}, {"task_id": "TASK"}),
        {"types": "task.created", "work_directory": "HERE,/nowhere", "task_id": "TASK"},
    ],
    ids=str,
)
async def test_filters_hold_for_what_happens_while_it_is_read(api, directory, query):
    task = await api.create(directory)
    here = {"HERE": directory, "TASK": task["task_id"], "HERE,/nowhere": f"{directory},/nowhere"}
    asked = {name: here.get(value, value) for name, value in query.items()}
    start = await last_seq(api)
    async with tail(api, **asked) as feed:
        for path in (directory, f"{directory}/other"):
            await cycle(api, path)
        await api.post(f"/api/v1/work-directories/pause?path={directory}", {})
        expected = await pages(api, after=start, **asked)
        assert await feed.take(len(expected)) == expected
        marker = await api.create(f"{directory}/last")
    assert marker["task_id"] not in str(feed.raw) or "task_id" not in asked


async def test_pages_follow_one_another_to_the_end_and_stay_there(api, directory):
    for _ in range(7):
        await api.create(directory)
    every = await pages(api)
    assert [event["seq"] for event in every] == list(range(1, len(every) + 1))
    for limit in (1, 2, 7, 100):
        assert await pages(api, limit=limit) == every
    end = await page(api, after=every[-1]["seq"])
    assert end == {"events": [], "next_after": every[-1]["seq"], "gap": None}
    first = await page(api)
    assert (first["events"], first["gap"]) == (every[:100], None)
    assert first["next_after"] == first["events"][-1]["seq"]
    nothing = await page(api, task_id="nobody")
    assert nothing == {"events": [], "next_after": every[-1]["seq"], "gap": None}


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        *((None, False), ("*/*", False), ("text/event-stream", False), ("text/html, */*;q=0.8", False)),
        *(("application/json", True), ("application/json, */*", True), ("Application/JSON; q=0.9", True)),
        *(("text/event-stream, application/json", False), ("application/json, text/event-stream", True)),
        *(("application/*", True), ("application/*, text/*", True), ("text/*, application/json", True)),
        *(("application/json;q=0.1, text/event-stream", False), ("application/json;q=0.1, */*", False)),
        *(("text/event-stream;q=0.5, application/json;q=0.6", True), ("text/event-stream;q=0, */*", True)),
        *(("application/json;q=0, */*", False), ("text/html, application/*;q=0.9, */*;q=0.8", True)),
    ],
)
async def test_who_asks_for_json_gets_a_page(shared, accept, is_page):
    headers = {} if accept is None else {"Accept": accept}
    async with connected(shared) as api, api.session.get(f"{api.url}{EVENTS}", headers=headers) as response:
        assert (response.content_type == "application/json") == is_page
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"after={value}", "after") for value in ("-1", "1.5", "x", "", "01", "+1", "null", "99999999999999999999")),
        *((f"types={value}", "types") for value in ("task.create", "created", "TASK.CREATED", "", "%00", "a" * 5000)),
        *(("types=task.created,", "types[1]"), ("types=task.created,task.created", "types")),
        *((f"work_directory={value}", "work_directory") for value in ("", "a", "/a%00", "/..", "/" + "a" * 512)),
        *((f"task_id={value}", "task_id") for value in ("", "a%20b", "%FF", "a" * 101)),
        *((f"limit={value}", "limit") for value in ("0", "1001", "x", "")),
        *(("after=1&after=2", "after"), ("after=1&typ=task.created", "typ"), ("follow=true", "follow")),
        *(("from=1", "from"), ("wait_seconds=5", "wait_seconds"), ("%FF=1", "\ufffd")),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_name(api, query, field):
    for headers in ({}, JSON):
        assert (await api.call("GET", f"{EVENTS}?{query}", headers=headers)).faults() == [field]


async def test_a_misspelt_type_is_refused_with_the_right_one(api):
    details = (await api.call("GET", f"{EVENTS}?types=task.complete")).refused(400, "VALIDATION_ERROR")
    assert "'task.completed'" in details["reason"]


async def test_a_limit_makes_sense_for_pages_only(api):
    assert (await api.call("GET", f"{EVENTS}?limit=5")).faults() == ["limit"]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "+1", "0x1", "1 2", "9223372036854775808", "1" * 5000, "\u0663"])
async def test_a_last_event_id_that_is_none_is_refused(api, shared, directory, value):
    task = await api.create(directory)
    own = f"{TASKS}/{task['task_id']}/events"
    for path, accept in ((EVENTS, "text/event-stream"), (EVENTS, "application/json"), (own, "text/event-stream")):
        answer = await raw(shared, text_of("GET", path, Last_Event_ID=value, Accept=accept))
        assert answer.faults() == ["Last-Event-ID"]


async def test_two_last_event_ids_are_refused_and_an_empty_one_says_nothing(api, shared, directory):
    """A browser that has seen no id has an empty one."""
    twice = text_of("GET", EVENTS).replace(b"\r\n\r\n", b"\r\nLast-Event-ID: 1\r\nLast-Event-ID: 2\r\n\r\n")
    assert (await raw(shared, twice)).faults() == ["Last-Event-ID"]
    await api.create(directory)
    answer = await raw(shared, text_of("GET", f"{EVENTS}?limit=1", Last_Event_ID="", Accept="application/json"))
    assert [event["seq"] for event in answer.data["events"]] == [1]
