"""One claim for each row of the contract about finding, watching and steering: names, types, numbers."""

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from tests.web.conftest import TASKS, Api, Events, connected, until
from tests.web.test_contract import TASK, TIME, assert_times, of_success

ON_EVERY_RECORD = True

EVENT = {
    *("seq", "type", "task_id", "work_directory", "status", "priority", "worker_id", "attempt", "at", "details"),
}
SECONDS = {"avg", "p50", "p95", "p99", "max"}


@asynccontextmanager
async def listening(api: Api, path: str, **headers: str) -> AsyncIterator[Events]:
    async with api.session.get(api.url + path, headers=headers) as response:
        assert response.status == 200, await response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Events(response)


async def accepting(api: Api, path: str, accept: str, **query: object):
    params = {name: str(value) for name, value in query.items()}
    return await api.call("GET", path, params=params, headers={"Accept": accept})


# Lists


async def test_a_list_is_a_page_with_its_numbers(api, directory):
    made = [await api.create(directory, prompt=f"Task {number}") for number in range(5)]
    first = of_success(await api.get(TASKS, work_directory=directory, limit=2))
    assert first.keys() >= {"tasks", "total", "page", "limit", "offset", "next_cursor"}
    assert (first["total"], first["page"], first["limit"], first["offset"]) == (5, 1, 2, 0)
    assert [task["task_id"] for task in first["tasks"]] == [task["task_id"] for task in reversed(made[3:])]
    assert first["tasks"][0].keys() >= TASK
    second = of_success(await api.get(TASKS, work_directory=directory, limit=2, offset=2))
    by_cursor = of_success(await api.get(TASKS, work_directory=directory, limit=2, cursor=first["next_cursor"]))
    assert by_cursor["tasks"] == second["tasks"]
    assert second["page"] == 2
    last = of_success(await api.get(TASKS, work_directory=directory, limit=2, offset=4))
    assert (len(last["tasks"]), last["next_cursor"]) == (1, None)


async def test_a_list_leaves_out_what_does_not_match_each_filter(api, directory):
    red = await api.create(directory, prompt="Paint the DOOR red", tags=["paint", "red"], priority="high")
    blue = await api.create(directory, prompt="paint the wall blue", tags=["paint", "blue"], priority="low")
    mow = await api.create(directory, prompt="Mow 100% of it_all")
    claimed = await api.next(directory, worker_id="ann")
    assert claimed["task_id"] == red["task_id"]

    async def found(**query):
        data = of_success(await api.get(TASKS, work_directory=directory, sort="created_at", **query))
        assert data["total"] == len(data["tasks"])
        return [task["task_id"] for task in data["tasks"]]

    red, blue, mow = (task["task_id"] for task in (red, blue, mow))
    assert await found() == [red, blue, mow]
    assert await found(status="waiting") == [blue, mow]
    assert await found(status="working,waiting") == [red, blue, mow]
    assert await found(priority="low,high") == [red, blue]
    assert await found(tags="paint,red") == [red]
    assert await found(tags="blue,red", tag_mode="any") == [red, blue]
    assert await found(worker_id="ann") == [red]
    assert await found(q="door") == [red]
    assert await found(q="PAINT THE") == [red, blue]
    assert await found(q="100%") == [mow]
    assert await found(q="0% of it_") == [mow]
    assert await found(q="it%all") == []
    assert await found(created_after="2000-01-01T00:00:00Z") == [red, blue, mow]
    assert await found(created_before="2000-01-01T00:00:00Z") == []


async def test_a_list_is_sorted_as_asked(api, directory):
    low, high, first, second = [
        (await api.create(directory, priority=priority))["task_id"] for priority in ("low", "high", "medium", "medium")
    ]
    await api.call("PATCH", f"{TASKS}/{low}", json={"tags": ["touched"]})

    async def order(sort):
        data = of_success(await api.get(TASKS, work_directory=directory, sort=sort))
        return [task["task_id"] for task in data["tasks"]]

    assert await order("created_at") == [low, high, first, second]
    assert await order("-created_at") == [second, first, high, low]
    assert await order("priority") == [high, first, second, low]
    assert (await order("-priority"))[0] == low
    assert (await order("-priority"))[-1] == high
    assert (await order("-updated_at"))[0] == low
    assert (await order("updated_at"))[-1] == low


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("status=", "status"),
        ("priority=urgent", "priority"),
        ("work_directory=relative", "work_directory"),
        ("tag_mode=some", "tag_mode"),
        ("created_after=yesterday", "created_after"),
        ("sort=prompt", "sort"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("offset=-1", "offset"),
        ("cursor=nonsense", "cursor"),
        ("q=", "q"),
        ("unknown=1", "unknown"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_a_bad_query_is_named(api, query, field):
    assert field in (await api.get(f"{TASKS}?{query}")).faults()


async def test_the_whole_match_is_exported(api, directory):
    for number in range(120):
        await api.create(directory, prompt=f'Say "{number}", twice\nand more', tags=["a,b", "c"])
    answer = await accepting(api, TASKS, "text/csv", work_directory=directory, sort="created_at")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["prompt"] for row in rows] == [f'Say "{number}", twice\nand more' for number in range(120)]
    answer = await accepting(api, TASKS, "application/x-ndjson", work_directory=directory, sort="created_at")
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    tasks = [json.loads(line) for line in answer.content.splitlines()]
    assert [task["task_id"] for task in tasks] == [row["task_id"] for row in rows]
    assert tasks[0].keys() >= TASK


# Bulk


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete", "priority"])
async def test_many_tasks_are_steered_at_once(api, directory, verb):
    tasks = [await api.claimed(directory) for _ in range(3)]
    for task in tasks[:2]:
        await api.tell(task, "fail", error_message="broken")
    fields = {"priority": "high"} if verb == "priority" else {}
    path = f"{TASKS}/{verb}"
    ids = [task["task_id"] for task in tasks] + ["01900000-0000-7000-8000-000000000000"]
    dry = of_success(await api.post(path, {"ids": ids, "dry_run": True, **fields}))
    assert {await api.status(task) for task in tasks} == {"failed", "working"}
    wet = of_success(await api.post(path, {"ids": ids, **fields}))
    assert wet.keys() >= {"matched", "changed", "skipped"}
    assert dry == wet
    assert (wet["matched"], wet["changed"]) == (4, 2)
    assert {it["task_id"]: it["code"] for it in wet["skipped"]} == {
        ids[2]: "INVALID_STATE",
        ids[3]: "TASK_NOT_FOUND",
    }


async def test_a_filter_that_leaves_nothing_out_needs_a_word_more(api, directory):
    path = f"{TASKS}/cancel"
    task = await api.create(directory)
    assert (await api.post(path, {})).status == 400
    assert (await api.post(path, {"all": True})).status == 400
    (await api.post(path, {"filter": {}})).refused(422, "FILTER_TOO_WIDE")
    assert await api.status(task) == "waiting"
    assert of_success(await api.post(path, {"filter": {"work_directory": directory}}))["changed"] == 1
    assert await api.status(task) == "cancelled"
    assert of_success(await api.post(path, {"filter": {}, "all": True, "dry_run": True}))["matched"] >= 1


# Events


async def test_the_feed_begins_where_it_is_told_and_goes_on_live(api, directory):
    first = await api.create(directory)
    history = await api.history(first)
    path = f"/api/v1/events?work_directory={directory}"
    async with listening(api, f"{path}&after={history[0]['seq'] - 1}") as events:
        kind, data = await events.next()
        assert (kind, data["task_id"]) == ("task.created", first["task_id"])
        assert data.keys() == EVENT
        assert_times(data)
        second = await api.create(directory)
        kind, data = await events.next()
        assert data["task_id"] == second["task_id"]
    async with listening(api, path, **{"Last-Event-ID": str(history[0]["seq"])}) as events:
        assert (await events.next())[1]["task_id"] == second["task_id"]


async def test_the_feed_comes_in_pages_too(api, directory):
    task = await api.claimed(directory)
    path = "/api/v1/events"
    page = of_success(await accepting(api, path, "application/json", work_directory=directory, limit=1))
    assert page.keys() >= {"events", "next_after"}
    assert [event["type"] for event in page["events"]] == ["task.created"]
    rest = of_success(
        await accepting(api, path, "application/json", work_directory=directory, after=page["next_after"])
    )
    assert [event["type"] for event in rest["events"]] == ["task.claimed"]
    only = await accepting(api, path, "application/json", task_id=task["task_id"], types="task.claimed")
    assert [event["type"] for event in of_success(only)["events"]] == ["task.claimed"]


async def test_one_task_has_a_feed(api, directory):
    task = await api.claimed(directory)
    async with listening(api, f"{TASKS}/{task['task_id']}/events") as events:
        assert (await events.next())[0] == "task.created"
        assert (await events.next())[0] == "task.claimed"
        await api.tell(task, "heartbeat", progress={"percent": 50, "message": "half"})
        kind, data = await events.next()
        assert (kind, data["details"]) == ("task.progress", {"percent": 50, "message": "half"})
        await api.tell(task, "complete")
        assert (await events.next())[0] == "task.completed"
    (await api.get(f"{TASKS}/none/events")).refused(404, "TASK_NOT_FOUND")


async def test_logs_are_kept_line_by_line(api, directory):
    task = await api.claimed(directory)
    path = f"{TASKS}/{task['task_id']}/logs"
    of_success(await api.tell(task, "logs", lines=["one", "two"]))
    lines = of_success(await api.get(path))["lines"]
    assert [line["line"] for line in lines] == ["one", "two"]
    (await api.post(path, {"lease_token": "wrong", "lines": ["three"]})).refused(409, "LEASE_LOST")
    async with listening(api, f"{path}?follow=true") as events:
        assert [(await events.next())[1]["line"] for _ in range(2)] == ["one", "two"]
        await api.tell(task, "logs", lines=["three"])
        assert (await events.next())[1]["line"] == "three"


async def test_a_task_is_shown_with_what_is_asked_for(api, directory):
    task = await api.claimed(directory)
    await api.tell(task, "logs", lines=["one"])
    shown = of_success(await api.get(f"{TASKS}/{task['task_id']}", include="history,logs"))
    assert [line["type"] for line in shown["history"]] == ["task.created", "task.claimed"]
    assert [line["line"] for line in shown["logs"]] == ["one"]


async def test_a_task_that_has_not_changed_is_not_sent_again(api, directory):
    task = await api.create(directory)
    path = f"{TASKS}/{task['task_id']}"
    etag = (await api.get(path)).headers["ETag"]
    assert etag == '"1"'
    same = await api.call("GET", path, headers={"If-None-Match": etag})
    assert (same.status, same.content, same.headers["ETag"]) == (304, b"", etag)
    await api.call("PATCH", path, json={"tags": ["new"]})
    assert (await api.call("GET", path, headers={"If-None-Match": etag})).status == 200


# Workers


async def test_workers_are_listed_with_what_they_do(api, directory):
    await api.create(directory)
    task = await api.next(directory, worker_id=f"ann {directory}")
    workers = of_success(await api.get("/api/v1/workers"))["workers"]
    (ann,) = [worker for worker in workers if worker["worker_id"] == f"ann {directory}"]
    assert ann.keys() >= {"worker_id", "work_directories", "working", "last_seen_at", "connection"}
    assert (ann["work_directories"], ann["working"]) == ([directory], [task["task_id"]])
    assert ann["connection"] in ("poll", "none")
    assert TIME.fullmatch(ann["last_seen_at"])
    async with api.stream(directory, worker_id=f"bob {directory}"):

        async def bob():
            workers = of_success(await api.get("/api/v1/workers"))["workers"]
            return [it["connection"] for it in workers if it["worker_id"] == f"bob {directory}"] == ["stream"]

        await until(bob)


# System


async def test_statistics_of_a_directory(api, directory):
    for status in ("completed", "completed", "failed"):
        await api.tell(await api.claimed(directory, priority="high"), "complete", status=status)
    await api.create(directory)
    told = of_success(await api.get("/api/v1/statistics", work_directory=directory, bucket="minute"))
    assert told.keys() >= {
        *("from", "to", "total", "by_status", "by_priority", "processing_seconds", "waiting_seconds"),
        *("error_rate", "throughput_per_second", "series"),
    }
    assert (told["total"], told["by_priority"]) == (4, {"low": 0, "medium": 1, "high": 3})
    assert told["by_status"] == {"waiting": 1, "working": 0, "completed": 2, "failed": 1, "cancelled": 0}
    assert told["error_rate"] == pytest.approx(1 / 3, abs=0.001)
    for name in ("processing_seconds", "waiting_seconds"):
        assert told[name].keys() >= SECONDS
        assert 0 <= told[name]["p50"] <= told[name]["p99"] <= told[name]["max"] * 1.05 + 0.001
    assert sum(point["created"] for point in told["series"]) == 4
    assert sum(point["completed"] for point in told["series"]) == 2
    assert sum(point["failed"] for point in told["series"]) == 1
    assert all(point.keys() >= {"at", "created", "completed", "failed", "cancelled"} for point in told["series"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("bucket=week", "bucket"),
        ("from=never", "from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("work_directory=x", "work_directory"),
    ],
)
async def test_statistics_of_nonsense_are_refused(api, query, field):
    assert field in (await api.get(f"/api/v1/statistics?{query}")).faults()


async def test_health_names_every_component(api):
    health = (await api.get("/health")).json
    assert health["status"] == "healthy"
    assert health["components"].keys() >= {"database", "dispatcher", "disk", "event_loop", "backups"}
    assert health["components"]["database"].keys() >= {"healthy", "response_time_ms", "last_checked"}
    assert all(component["healthy"] for component in health["components"].values())
    assert health["metrics"].keys() >= {"memory_usage", "cpu_usage", "active_connections", "queue_size"}


async def test_metrics_are_told_to_prometheus(api, directory):
    await api.tell(await api.claimed(directory), "complete")
    answer = await api.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.content.decode()
    for name in ("task_created_total", "task_completed_total", "task_failed_total", "response_time_seconds_bucket"):
        assert f"\n{name}" in text
    assert "\nactive_tasks" in text


@pytest.fixture
async def alone(server) -> AsyncIterator[Api]:
    """A server whose settings may be changed."""
    async with connected(server) as caller:
        yield caller


async def test_settings_are_told_changed_and_rolled_back(alone):
    api = alone
    before = of_success(await api.get("/api/v1/config"))
    setting = before["settings"]["task.max_task_retries"]
    assert setting.keys() >= {"value", "source", "default", "reloadable"}
    assert (setting["value"], setting["default"], setting["reloadable"]) == (3, 3, True)
    body = {"changes": {"task.max_task_retries": 7}, "reason": "try harder"}
    after = of_success(await api.call("PATCH", "/api/v1/config", json=body))
    assert after["version"] == before["version"] + 1
    assert (await api.create("/w"))["max_retries"] == 7
    history = of_success(await api.get("/api/v1/config/history"))
    assert "try harder" in json.dumps(history)
    of_success(await api.post("/api/v1/config/rollback", {"version": before["version"]}))
    assert (await api.create("/w"))["max_retries"] == 3
    wrong = {"task.max_task_retries": -1, "task.nothing": 1, "server.port": 9}
    refused = await api.call("PATCH", "/api/v1/config", json={"changes": wrong})
    assert len(refused.faults()) == 3


async def test_limits_are_told(api):
    limits = of_success(await api.get("/api/v1/limits"))["limits"]
    assert (limits["max_body_bytes"], limits["prompt_characters"]) == (16 * 2**20, 10_000)


async def test_the_contract_describes_itself(shared):
    async with ClientSession() as session, session.get(f"{shared.url}/openapi.json") as response:
        document = await response.json()
        assert document["openapi"].startswith("3.1")
        assert "/api/v1/tasks/{task_id}" in document["paths"] or "/api/v1/tasks/{id}" in document["paths"]
        async with session.get(f"{shared.url}/docs") as page:
            assert page.status == 200
            assert page.content_type == "text/html"
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]


# HTTP


async def test_head_is_get_without_its_body(api, directory):
    task = await api.create(directory)
    path = f"{TASKS}/{task['task_id']}"
    head, got = await api.call("HEAD", path), await api.call("GET", path)
    assert (head.status, head.content) == (200, b"")
    assert head.headers["ETag"] == got.headers["ETag"]


async def test_options_tells_what_is_allowed(api):
    answer = await api.call("OPTIONS", TASKS)
    assert answer.status in (200, 204)
    assert {"GET", "POST", "HEAD", "OPTIONS"} <= {method.strip() for method in answer.headers["Allow"].split(",")}


async def test_long_answers_are_compressed_on_request_only(api, directory):
    for _ in range(5):
        await api.create(directory, prompt="x" * 1000)
    path = f"{api.url}{TASKS}?work_directory={directory}"
    async with ClientSession(auto_decompress=False) as session:
        async with session.get(path, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            small = await response.read()
        async with session.get(path, headers={"Accept-Encoding": "identity"}) as response:
            assert "Content-Encoding" not in response.headers
            assert len(await response.read()) > len(small)


async def test_an_answer_in_another_form_is_not_to_be_had(api, directory):
    (await accepting(api, f"{TASKS}", "image/png")).refused(406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/nothing", "/api/v2/tasks", "/api/v1/tasks/x/y/z"])
async def test_what_is_not_there_is_not_found_in_the_envelope(api, path):
    (await api.get(path)).refused(404, "NOT_FOUND")
