"""The limits that the server tells are those that it keeps: so much is taken, one more is refused."""

import json
from datetime import datetime, timedelta
from io import BytesIO

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, raw, text_of
from web.bodies import Batch, EventsQuery
from web.codec import Invalid, structure
from web.filters import ListQuery, TaskFilter
from web.limits import most

CONFIG, CLAIM, NOBODY = "/api/v1/config", f"{TASKS}/claim", f"{TASKS}/nobody"


def create(size_to_fields):
    return lambda size: ("POST", TASKS, {"work_directory": "/w", "prompt": "x", **size_to_fields(size)})


def tell(verb, size_to_fields):
    """About a task that there is not, so nothing comes of it."""
    return lambda size: ("POST", f"{NOBODY}/{verb}", {"lease_token": "t", **size_to_fields(size)})


def claim(size_to_fields):
    return lambda size: ("POST", CLAIM, {"work_directory": "/none", **size_to_fields(size)})


def get(path, query):
    return lambda size: ("GET", f"{path}?{query}{size}", None)


def batch(size):
    return "POST", f"{TASKS}/batch", {"tasks": [{"work_directory": "/w", "prompt": ""}] * size}


def regulate(size):
    return "PATCH", "/api/v1/work-directories?path=/ruled", {"max_working": size}


def change(size):
    value = "x" * (size - len('{"task.x":""}'))
    return "PATCH", CONFIG, {"changes": {"task.x": value}}


def range_of_minutes(size):
    to = datetime(2026, 1, 1) + timedelta(minutes=size)
    return "GET", f"/api/v1/statistics?bucket=minute&from=2026-01-01T00:00:00Z&to={to.isoformat()}Z", None


def in_json(size):
    return {"a": "x" * (size - len('{"a":""}'))}


REFUSED = {  # the field at fault, and a request of a size
    "work_directory_characters": ("work_directory", create(lambda size: {"work_directory": "/" + "x" * (size - 1)})),
    "prompt_characters": ("prompt", create(lambda size: {"prompt": "é" * size})),
    "tags_per_task": ("tags", create(lambda size: {"tags": [str(number) for number in range(size)]})),
    "tag_characters": ("tags[0]", create(lambda size: {"tags": ["x" * size]})),
    "dependencies_per_task": ("depends_on", create(lambda size: {"depends_on": [str(it) for it in range(size)]})),
    "metadata_bytes": ("metadata", create(lambda size: {"metadata": in_json(size)})),
    "max_retries": ("max_retries", create(lambda size: {"max_retries": size})),
    "timeout_seconds": ("timeout_seconds", create(lambda size: {"timeout_seconds": size})),
    "delay_seconds": ("delay_seconds", create(lambda size: {"delay_seconds": size})),
    "retry_delay_seconds": ("retry_delay_seconds", create(lambda size: {"retry_delay_seconds": size})),
    "result_bytes": ("result", tell("complete", lambda size: {"result": in_json(size)})),
    "error_message_bytes": ("error_message", tell("fail", lambda size: {"error_message": "x" * size})),
    "reason_characters": ("reason", tell("release", lambda size: {"reason": "x" * size})),
    "lease_token_characters": ("lease_token", tell("heartbeat", lambda size: {"lease_token": "x" * size})),
    "lease_seconds": ("lease_seconds", tell("heartbeat", lambda size: {"lease_seconds": size})),
    "progress_message_characters": (
        "progress.message",
        tell("heartbeat", lambda size: {"progress": {"message": "x" * size}}),
    ),
    "worker_id_characters": ("worker_id", claim(lambda size: {"worker_id": "x" * size})),
    "claim_id_characters": ("claim_id", claim(lambda size: {"claim_id": "x" * size})),
    "tasks_per_claim": ("limit", claim(lambda size: {"limit": size})),
    "work_directories_per_claim": (
        "work_directories",
        lambda size: ("POST", CLAIM, {"work_directories": [f"/none/{number}" for number in range(size)]}),
    ),
    "items_per_page": ("limit", get(TASKS, "limit=")),
    "wait_seconds": ("wait_seconds", get(NOBODY, "until=terminal&wait_seconds=")),
    "max_working": ("max_working", regulate),
    "log_lines_per_request": ("lines", tell("logs", lambda size: {"lines": ["x"] * size})),
    "log_line_bytes": ("lines[0]", tell("logs", lambda size: {"lines": ["x" * size]})),
    "log_lines_per_page": ("limit", get(f"{NOBODY}/logs", "limit=")),
    "statistics_buckets": ("bucket", range_of_minutes),
}
ELSEWHERE = {
    *("ref_characters", "tasks_per_batch", "stream_capacity", "settings_changes_bytes"),  # a 400 either way
    *("max_body_bytes", "idempotency_key_characters", "faults_per_answer", "max_concurrent_tasks"),
    *("idempotency_hours", "doubled_retry_delay_seconds", "messages_waiting", "places_of_waiting_claims"),
    *("request_timeout_seconds", "database_timeout_seconds", "dependency_results_bytes"),
    *("values_per_filter", "search_characters", "cursor_characters", "events_per_page", "ids_per_request"),
    *("request_line_bytes", "log_lines_per_task", "skipped_tasks_named", "changes_of_settings_waiting"),
    *("streams_of_a_kind", "log_bytes_per_task", "offset_of_a_search"),
    *("requests_per_second", "requests_at_once", "rate_limit_buckets_of_a_kind"),
}


async def limits(api):
    return (await api.get("/api/v1/limits")).data["limits"]


async def send(api, method, path, body):
    if body is None:
        return await api.call(method, path)
    headers = {"Content-Type": "application/json"}
    return await api.call(method, path, data=BytesIO(json.dumps(body).encode()), headers=headers)


def first_fault(answer):
    return answer.refused(400, "VALIDATION_ERROR")["field"]


async def test_every_limit_is_a_number_that_somebody_has_tried(api):
    told = await limits(api)
    assert told.keys() == REFUSED.keys() | ELSEWHERE
    assert all(type(limit) in (int, float) for limit in told.values())


@pytest.mark.parametrize("name", REFUSED)
async def test_so_much_is_taken_and_one_more_is_refused(api, name):
    """Taken may mean that there is no such task, but never that the request is bad."""
    field, request = REFUSED[name]
    limit = (await limits(api))[name]
    taken = await send(api, *request(limit))
    assert taken.status != 400, taken.content
    assert (await send(api, *request(limit + 1))).faults() == [field]


async def test_batches_streams_and_changes_of_settings_have_theirs(api):
    told = await limits(api)
    size = told["tasks_per_batch"]
    assert first_fault(await send(api, *batch(size))) == "tasks[0].prompt"
    assert first_fault(await send(api, *batch(size + 1))) == "tasks"
    refs = [{"work_directory": "/w", "prompt": "", "ref": "x" * (told["ref_characters"] + more)} for more in (0, 1)]
    answer = await api.post(f"{TASKS}/batch", {"tasks": refs})
    faults = answer.refused(400, "VALIDATION_ERROR")["errors"]
    assert sorted(it["field"] for it in faults) == ["tasks[0].prompt", "tasks[1].prompt", "tasks[1].ref"]
    query = {"work_path": "/w", "mode": "nothing"}
    assert (await api.get(f"{TASKS}/stream", capacity=told["stream_capacity"], **query)).faults() == ["mode"]
    more = await api.get(f"{TASKS}/stream", capacity=told["stream_capacity"] + 1, **query)
    assert sorted(more.faults()) == ["capacity", "mode"]
    assert (await send(api, *change(told["settings_changes_bytes"]))).faults() == ["changes.task.x"]
    assert (await send(api, *change(told["settings_changes_bytes"] + 1))).faults() == ["changes"]


async def test_idempotency_keys_and_lists_of_faults_have_theirs(api):
    told = await limits(api)
    body = {"work_directory": "/w", "prompt": "x"}
    for more, status in ((0, 201), (1, 400)):
        key = "k" * (told["idempotency_key_characters"] + more)
        assert (await api.call("POST", TASKS, json=body, headers={"Idempotency-Key": key})).status == status
    assert (
        len((await send(api, "POST", TASKS, {str(it): 1 for it in range(200)})).faults()) == told["faults_per_answer"]
    )


async def test_filters_have_theirs(api):
    told = await limits(api)
    paths, q = [f"/{number}" for number in range(told["values_per_filter"])], "x" * told["search_characters"]
    assert structure({"work_directory": paths, "q": q}, TaskFilter).q == q
    with pytest.raises(Invalid) as refused:
        structure({"work_directory": [*paths, "/more"], "q": f"{q}x"}, TaskFilter)
    assert sorted(fault.field for fault in refused.value.faults) == ["q", "work_directory"]


async def test_pages_have_theirs(api):
    told = await limits(api)
    size, length = told["events_per_page"], told["cursor_characters"]
    assert structure({"limit": size}, EventsQuery).limit == size
    assert structure({"cursor": "x" * length}, ListQuery).cursor == "x" * length
    for cls, field, wrong in ((EventsQuery, "limit", size + 1), (ListQuery, "cursor", "x" * (length + 1))):
        with pytest.raises(Invalid) as refused:
            structure({field: wrong}, cls)
        assert [fault.field for fault in refused.value.faults] == [field]


async def test_ids_have_theirs(api):
    """No id may be given twice, so these are looked at, but nothing is done."""
    size = (await limits(api))["ids_per_request"]
    ids = [str(number) for number in range(size - 1)]
    assert (await api.post(f"{TASKS}/cancel", {"ids": [*ids, "0"]})).faults() == [f"ids[{size - 1}]"]
    assert (await api.post(f"{TASKS}/cancel", {"ids": [*ids, "0", "0"]})).faults() == ["ids"]


async def test_the_lines_of_a_request_have_theirs(api, shared):
    size = (await limits(api))["request_line_bytes"]
    for more, code in ((0, "TASK_NOT_FOUND"), (1, "MALFORMED_REQUEST")):
        target = f"{TASKS}/".ljust(size + more, "x")
        answer = await raw(shared, text_of("GET", target))
        assert answer.json["error"]["code"] == code
    assert (await raw(shared, text_of("GET", "/health/live", X_Long="x" * size))).status == 200
    answer = await raw(shared, text_of("GET", "/health/live", X_Long="x" * (size + 1)))
    answer.refused(400, "MALFORMED_REQUEST")


async def test_limits_are_told_as_configured(tmp_path):
    """Also those that have changed since the start."""
    environ = {"APP_SERVER_MAX_BODY_BYTES": "2048", "APP_SERVER_REQUEST_TIMEOUT_SECONDS": "7.5"}
    environ["APP_DATABASE_TIMEOUT_SECONDS"] = "5"
    server = ServerProcess(tmp_path, environ=environ).start()
    try:
        async with connected(server) as api:
            told = await limits(api)
            assert (told["max_body_bytes"], told["max_concurrent_tasks"]) == (2048, 0)
            assert (told["request_timeout_seconds"], told["database_timeout_seconds"]) == (7.5, 5)
            body = json.dumps({"work_directory": "/w", "prompt": "x"}).encode()
            assert (await api.post(TASKS, body.ljust(2048))).status == 201
            assert (await api.post(TASKS, body.ljust(2049))).refused(413, "PAYLOAD_TOO_LARGE") == {
                "max_body_bytes": 2048
            }
            await api.call("PATCH", CONFIG, json={"changes": {"task.max_concurrent_tasks": 9}})
            assert (await limits(api))["max_concurrent_tasks"] == 9
    finally:
        server.terminate()


def test_a_type_without_a_bound_is_a_mistake():
    """It would be told as something else."""
    with pytest.raises(TypeError):
        most(str)
    with pytest.raises(TypeError):
        most(Batch)
