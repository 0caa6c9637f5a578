"""The shape of every answer: status, headers, names, types and times, as the wire contract words them."""

import json
import re
from datetime import datetime, timedelta

import pytest

from tests.web.conftest import TASKS, raw, text_of, wire

ON_EVERY_RECORD = True

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TASK = {
    *("task_id", "work_directory", "prompt", "priority", "tags", "status", "worker_id", "attempt", "version"),
    *("lease_expires_at", "deadline_at", "progress", "created_at", "updated_at", "available_at", "started_at"),
    *("completed_at", "result", "error_message", "retry_count", "max_retries", "auto_retry", "retry_delay_seconds"),
    *("timeout_seconds", "expires_at", "metadata", "created_by"),
    *("depends_on", "on_dependency_failure", "blocked_by"),
}
CLAIMED = {
    *("task_id", "prompt", "work_directory", "priority", "tags", "metadata", "attempt", "lease_token"),
    *("lease_expires_at", "deadline_at", "retry_count", "previous_error", "dependencies"),
}
DIRECTORY = {
    *("work_directory", "waiting", "working", "completed", "failed", "cancelled", "oldest_waiting_seconds"),
    *("paused", "paused_reason", "paused_until", "draining", "max_working", "waiting_workers"),
}
DIRECTORIES = "/api/v1/work-directories"


def assert_times(value):
    """Every moment anywhere in an answer is in the one format."""
    if isinstance(value, list):
        for item in value:
            assert_times(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name.endswith("_at") or name in ("at", "timestamp", "last_checked"):
                assert item is None or TIME.fullmatch(item), (name, item)
            else:
                assert_times(item)


def of_success(answer, status=200):
    """The data of an answer that keeps to the envelope."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Request-Id"]
    assert answer.json.keys() == {"success", "data", "error", "timestamp"}
    assert (answer.json["success"], answer.json["error"]) == (True, None)
    assert_times(answer.json)
    return answer.json["data"]


def moment(text):
    return datetime.fromisoformat(text)


async def test_a_new_task_is_told_with_its_address(api, directory):
    answer = await api.post(TASKS, {"work_directory": directory, "prompt": "Tidy up"})
    task = of_success(answer, 201)
    assert task.keys() >= TASK
    assert answer.headers["Location"] == f"{TASKS}/{task['task_id']}"
    assert UUID7.fullmatch(task["task_id"])
    shown = of_success(await api.get(answer.headers["Location"]))
    assert shown == task


async def test_a_task_has_the_defaults_of_the_contract(api, directory):
    task = await api.create(directory)
    expected = {"priority": "medium", "tags": [], "status": "waiting", "attempt": 0, "retry_count": 0, "max_retries": 3}
    expected |= {"depends_on": [], "blocked_by": [], "on_dependency_failure": "wait"}
    expected |= {"auto_retry": False, "retry_delay_seconds": 10, "timeout_seconds": 3600, "metadata": {}, "version": 1}
    names = ("worker_id", "lease_expires_at", "deadline_at", "progress", "started_at", "completed_at", "expires_at")
    expected |= dict.fromkeys((*names, "result", "error_message", "created_by"))
    assert {name: task[name] for name in expected} == expected
    assert task["created_at"] == task["updated_at"] == task["available_at"]


async def test_a_claim_is_told_with_its_lease_and_never_cached(api, directory):
    await api.create(directory, tags=["a"], metadata={"b": 1}, priority="high")
    await api.create(directory)
    first = await api.get(f"{TASKS}/next", work_path=directory)
    second = await api.post(f"{TASKS}/claim", {"work_directory": directory})
    one, (other,) = of_success(first), of_success(second)["tasks"]
    for task in (one, other):
        assert task.keys() >= CLAIMED
        assert (task["attempt"], task["retry_count"], task["previous_error"], task["dependencies"]) == (1, 0, None, [])
        assert task["lease_token"]
    assert (one["tags"], one["metadata"], one["priority"]) == (["a"], {"b": 1}, "high")
    assert one["lease_token"] != other["lease_token"]
    assert [answer.headers["Cache-Control"] for answer in (first, second)] == ["no-store", "no-store"]


async def test_no_task_is_an_answer_too(api, directory):
    answers = [
        await api.get(f"{TASKS}/next", work_path=directory),
        await api.post(f"{TASKS}/claim", {"work_directory": directory}),
    ]
    assert [of_success(answer) for answer in answers] == [None, {"tasks": []}]
    assert [answer.headers["Cache-Control"] for answer in answers] == ["no-store", "no-store"]


async def test_the_lease_token_is_told_to_the_claimer_alone(api, directory):
    task = await api.claimed(directory)
    await api.tell(task, "heartbeat")
    for path in (
        f"{TASKS}/{task['task_id']}",
        f"{TASKS}/{task['task_id']}/history",
        f"{TASKS}?work_directory={directory}",
    ):
        content = (await api.call("GET", path)).content.decode()
        assert task["task_id"] in content
        assert task["lease_token"] not in content
        assert "lease_token" not in content


@pytest.mark.parametrize(
    ("verb", "body", "keys"),
    [
        ("heartbeat", {"progress": {"percent": 50.5, "message": "half"}}, {"lease_expires_at", "deadline_at"}),
        ("complete", {"result": 1}, {"task_id", "status", "completed_at", "next"}),
        ("fail", {"error_message": "no"}, {"task_id", "status"}),
        ("release", {}, {"task_id", "status"}),
    ],
)
async def test_a_report_is_answered_with_what_became_of_the_task(api, directory, verb, body, keys):
    task = await api.claimed(directory)
    told = of_success(await api.tell(task, verb, **body))
    assert told.keys() >= keys
    shown = await api.show(task)
    assert told.pop("next", None) is None
    assert told == {name: shown[name] for name in told}


async def test_the_history_is_told_line_by_line(api, directory):
    task = await api.claimed(directory)
    data = of_success(await api.get(f"{TASKS}/{task['task_id']}/history"))
    assert data.keys() >= {"task_id", "history"}
    assert data["task_id"] == task["task_id"]
    for line in data["history"]:
        assert line.keys() >= {"seq", "type", "status", "worker_id", "attempt", "at", "details"}
    assert [line["type"] for line in data["history"]] == ["task.created", "task.claimed"]


async def test_the_list_is_newest_first_and_comes_in_pages(api, directory):
    made = [(await api.create(directory))["task_id"] for _ in range(5)]
    await api.create(f"{directory}/other")
    pages = [
        of_success(await api.get(TASKS, work_directory=directory, limit=2, offset=offset)) for offset in (0, 2, 4, 6)
    ]
    assert [task["task_id"] for page in pages for task in page["tasks"]] == made[::-1]
    assert [(page["total"], page["page"], page["limit"], page["offset"]) for page in pages] == [
        (5, number, 2, offset) for number, offset in enumerate((0, 2, 4, 6), start=1)
    ]
    assert all(page.keys() >= {"next_cursor"} for page in pages)
    assert all(task.keys() >= TASK for page in pages for task in page["tasks"])
    everything = of_success(await api.get(TASKS))
    assert (everything["limit"], everything["offset"], everything["page"]) == (100, 0, 1)
    assert everything["total"] > 5


async def test_a_batch_is_told_task_by_task(api, directory):
    body = {"work_directory": directory, "prompt": "x"}
    told = of_success(await api.post(f"{TASKS}/batch", {"tasks": [body, body]}), 201)
    assert told["errors"] == []
    for index, task in enumerate(told["tasks"]):
        assert task.keys() >= {"index", "task_id", "status", "created_at"}
        assert (task["index"], task["status"]) == (index, "waiting")
        assert UUID7.fullmatch(task["task_id"])
    told = of_success(await api.post(f"{TASKS}/batch", {"tasks": [body, {}], "atomic": False}), 201)
    assert [task["index"] for task in told["tasks"]] == [0]
    (error,) = told["errors"]
    assert error.keys() >= {"index", "code", "message", "details"}
    assert (error["index"], error["code"]) == (1, "VALIDATION_ERROR")
    assert error["details"].keys() >= {"field", "reason", "errors"}


async def test_what_a_task_depended_on_is_told_with_its_claim(api, directory):
    parent = await api.claimed(directory)
    await api.tell(parent, "complete", result={"a": 1})
    await api.create(directory, depends_on=[parent["task_id"]])
    claimed = of_success(await api.get(f"{TASKS}/next", work_path=directory))
    assert claimed["dependencies"] == [{"task_id": parent["task_id"], "status": "completed", "result": {"a": 1}}]


async def test_an_explanation_names_each_reason(api, directory):
    parent = await api.create(directory)
    task = await api.create(directory, depends_on=[parent["task_id"]], delay_seconds=1000)
    told = of_success(await api.get(f"{TASKS}/{task['task_id']}/explain"))
    assert told.keys() >= {"status", "position", "blocked_by"}
    assert (told["status"], told["position"]) == ("waiting", None)
    assert [reason["kind"] for reason in told["blocked_by"]] == ["dependency", "run_at"]
    assert all(reason.keys() >= {"kind", "detail"} for reason in told["blocked_by"])
    assert of_success(await api.get(f"{TASKS}/{parent['task_id']}/explain"))["position"] == 1


async def test_a_work_directory_is_told_with_its_numbers_and_rules(api, shared, directory):
    await api.create(directory)
    until = "2999-01-01T00:00:00.000Z"
    answers = [
        await raw(shared, text_of("PATCH", f"{DIRECTORIES}?path={directory}", {"max_working": 3})),
        await raw(shared, text_of("POST", f"{DIRECTORIES}/pause?path={directory}", {"paused_until": until})),
        await raw(shared, text_of("POST", f"{DIRECTORIES}/drain?path={directory}")),
    ]
    told = [of_success(answer) for answer in answers]
    listed = of_success(await api.get(DIRECTORIES))
    assert listed.keys() >= {"work_directories"}
    (last,) = [found for found in listed["work_directories"] if found["work_directory"] == directory]
    for view in [*told, *listed["work_directories"]]:
        assert view.keys() >= DIRECTORY
        assert all(type(view[name]) is bool for name in ("paused", "draining"))
        assert all(type(view[name]) is int for name in ("waiting", "working", "waiting_workers"))
    expected = {"waiting": 1, "paused": True, "paused_until": until, "draining": True, "max_working": 3}
    assert {name: last[name] for name in expected} == expected


async def test_health_is_told_without_envelope(api, directory):
    await api.claimed(directory)
    answer = await api.get("/health")
    health = answer.json
    assert answer.status == 200
    assert health.keys() >= {"status", "timestamp", "version", "uptime", "uptime_seconds", "database", "active_tasks"}
    assert (health["status"], health["database"]) == ("healthy", "connected")
    assert re.fullmatch(r"\d+h\d{1,2}m", health["uptime"])
    assert health["active_tasks"] > 0
    assert health["components"]["database"].keys() >= {"healthy", "response_time_ms", "last_checked"}
    assert all(component["healthy"] is True for component in health["components"].values())
    assert health["metrics"].keys() >= {"memory_usage", "cpu_usage", "active_connections", "queue_size"}
    assert_times(health)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_a_server_that_runs_is_alive_and_ready(api, path):
    assert (await api.get(path)).status == 200


async def test_the_queue_size_counts_what_waits(api, directory):
    async def queue_size():
        return (await api.get("/health")).json["metrics"]["queue_size"]

    before = await queue_size()
    await api.create(directory)
    assert await queue_size() == before + 1
    await api.next(directory)
    assert await queue_size() == before


@pytest.mark.parametrize("path", ["/health", TASKS, f"{TASKS}/nobody", "/nowhere"])
async def test_a_sane_request_id_comes_back(api, path):
    for given in ("abc-1", "a" * 128, "b7ad6b7169203331:1/2=+."):
        answer = await api.call("GET", path, headers={"X-Request-Id": given})
        assert answer.headers.getall("X-Request-Id") == [given]


@pytest.mark.parametrize("given", [None, "", "a" * 129, "a b", "a\tb", "<script>", "\N{SNOWMAN}"])
async def test_without_a_sane_request_id_a_new_one_is_made(api, given):
    headers = {} if given is None else {"X-Request-Id": given}
    made = {(await api.call("GET", "/health", headers=headers)).headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3
    assert given not in made


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/v1", "/api/v1/tasks/", "/api/v1/tasks/x/nowhere", "//health", "/HEALTH"]
)
async def test_an_unknown_route_is_not_found(api, path):
    answer = await api.get(path)
    answer.refused(404, "NOT_FOUND")
    assert answer.headers["X-Request-Id"]


async def test_an_unknown_task_is_not_found(api):
    for path in (
        f"{TASKS}/nobody",
        f"{TASKS}/nobody/history",
        f"{TASKS}/nobody/explain",
        f"{TASKS}/nobody?until=terminal&wait_seconds=60",
    ):
        (await api.call("GET", path)).refused(404, "TASK_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", TASKS, "GET, POST"),
        ("POST", f"{TASKS}/next", "GET"),
        ("POST", f"{TASKS}/stream", "GET"),
        ("GET", f"{TASKS}/x/complete", "POST"),
        ("PUT", f"{TASKS}/x/heartbeat", "POST"),
        ("POST", f"{TASKS}/x/history", "GET"),
        ("POST", "/health", "GET"),
        ("PATCH", "/health/live", "GET"),
        ("POST", f"{TASKS}/x/explain", "GET"),
        ("PUT", DIRECTORIES, "GET, PATCH"),
        ("POST", DIRECTORIES, "GET, PATCH"),
        ("GET", f"{DIRECTORIES}/pause", "POST"),
        ("PATCH", f"{DIRECTORIES}/resume", "POST"),
        ("DELETE", f"{DIRECTORIES}/drain", "POST"),
    ],
)
async def test_another_method_is_answered_with_those_allowed(api, method, path, allowed):
    answer = await api.call(method, path)
    answer.refused(405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["Allow"].split(", ")) >= set(allowed.split(", "))


NOT_HTTP = [
    b"rubbish\r\n\r\n",
    b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nrubbish\r\n",
    bytes.fromhex("160301020001fc0303") + b"\0" * 100,
]


@pytest.mark.parametrize("request_", NOT_HTTP, ids=range(len(NOT_HTTP)))
async def test_what_is_not_http_is_refused_in_the_envelope(shared, request_):
    answer = await raw(shared, request_)
    assert 400 <= answer.status < 500
    assert answer.json["success"] is False
    assert_times(answer.json)


async def test_what_is_not_http_gets_a_request_id_too(shared):
    missing = [request for request in NOT_HTTP if "X-Request-Id" not in (await raw(shared, request)).headers]
    assert missing == []


async def test_who_asks_before_sending_the_body_is_told_to_go_on_or_not_to(shared, directory):
    body = json.dumps({"work_directory": directory, "prompt": "x"}).encode()
    async with wire(shared) as connection:
        await connection.send(text_of("POST", TASKS, Expect="100-continue", Content_Length=str(len(body))))
        assert await connection.head() == (100, {})
        await connection.send(body)
        assert (await connection.answer()).status == 201
        await connection.send(text_of("POST", TASKS, Expect="100-continue", Content_Length=str(2**24 + 1)))
        (await connection.answer()).refused(413, "PAYLOAD_TOO_LARGE")


async def test_an_expectation_nobody_knows_is_refused_in_the_envelope(shared):
    answer = await raw(shared, text_of("POST", TASKS, {}, Expect="wonders"))
    assert answer.status == 417
    assert answer.json["success"] is False


async def test_a_lease_without_a_length_lasts_as_long_as_the_attempt(api, directory):
    task = await api.claimed(directory, timeout_seconds=100)
    started = moment((await api.show(task))["started_at"])
    assert moment(task["lease_expires_at"]) == moment(task["deadline_at"]) == started + timedelta(seconds=100)


@pytest.mark.parametrize(("lease_seconds", "expected"), [(7.5, 7.5), (100, 100), (200, 100)])
async def test_a_lease_is_never_longer_than_the_attempt(api, directory, lease_seconds, expected):
    task = await api.claimed(directory, lease_seconds=lease_seconds, timeout_seconds=100)
    started = moment((await api.show(task))["started_at"])
    assert moment(task["lease_expires_at"]) == started + timedelta(seconds=expected)
    assert moment(task["deadline_at"]) == started + timedelta(seconds=100)
