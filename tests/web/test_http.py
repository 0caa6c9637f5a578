"""What HTTP asks of every resource: HEAD, OPTIONS, Accept, compression, caching, and refusals in the envelope."""

import gzip
import json
import zlib

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, raw, text_of, wire

PAGES = ["/health/live", "/openapi.json", "/docs", TASKS, "/api/v1/work-directories"]
METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"}


def lasting(headers):
    """Those that do not differ from one answer to the next."""
    return {name: value for name, value in headers.items() if name.lower() not in ("date", "x-request-id")}


async def large(api, directory):
    """A task whose answer is larger than 1 KiB."""
    return await api.create(directory, prompt="Look at it again. " * 100)


@pytest.mark.parametrize("path", [*PAGES, f"{TASKS}/nobody", "/docs/docs.js", f"{TASKS}?limit=0"])
async def test_head_is_get_without_the_body(api, path):
    got, head = [await api.call(method, path, skip_auto_headers=["Accept-Encoding"]) for method in ("GET", "HEAD")]
    assert (head.status, head.content) == (got.status, b"")
    assert lasting(head.headers) == lasting(got.headers)


async def test_head_claims_nothing_and_opens_no_stream(api, directory):
    task = await api.create(directory)
    for path in (f"{TASKS}/next", f"{TASKS}/stream"):
        answer = await api.call("HEAD", f"{path}?work_path={directory}")
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, OPTIONS"
    assert await api.status(task) == "waiting"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (TASKS, "GET, HEAD, OPTIONS, POST"),
        (f"{TASKS}/next", "GET, OPTIONS"),
        (f"{TASKS}/claim", "OPTIONS, POST"),
        (f"{TASKS}/nobody", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        (f"{TASKS}/nobody/complete", "OPTIONS, POST"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_tells_the_methods_and_all_others_are_refused(api, path, allowed):
    told = await api.call("OPTIONS", path)
    assert (told.status, told.content, told.headers["Allow"]) == (204, b"", allowed)
    assert told.headers["X-Request-Id"]
    for method in sorted(METHODS - set(allowed.split(", "))):
        answer = await api.call(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, allowed), method
        if method != "HEAD":
            assert answer.refused(405, "METHOD_NOT_ALLOWED") == {"allowed": allowed.split(", ")}


async def test_a_word_of_the_address_is_never_taken_for_a_task(api):
    for path in ("next", "claim", "batch", "stream"):
        (await api.call("DELETE", f"{TASKS}/{path}")).refused(405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "//api/v1/tasks",
        "/api//v1/tasks",
        "/api/v1/tasks/",
        "/docs/",
        "/docs/x",
        "/openapi.json/",
        "/%zz",
        "/%ff",
        "/.%00",
        "/health/%6cive/",
        "/docs/..%2fapp.py",
        "/docs/%2e%2e/app.py",
        "/docs/swagger-ui/LICENSE",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PROPFIND"])
async def test_what_is_not_there_is_not_found_in_the_envelope(shared, method, path):
    answer = await raw(shared, text_of(method, path))
    answer.refused(404, "NOT_FOUND")
    assert answer.headers["X-Request-Id"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_large_answer_is_compressed_on_request(shared, api, directory, coding):
    task = await large(api, directory)
    path = f"{TASKS}/{task['task_id']}"
    plain = await raw(shared, text_of("GET", path))
    packed = await raw(shared, text_of("GET", path, Accept_Encoding=coding))
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == coding
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    unpacked = gzip.decompress(packed.content) if coding == "gzip" else zlib.decompress(packed.content)
    assert json.loads(unpacked)["data"] == plain.json["data"] == task
    assert len(packed.content) < len(plain.content) / 2
    assert packed.headers["ETag"] == plain.headers["ETag"]  # it names the version of the task, not the bytes


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("GZIP", "gzip"),
        ("deflate;q=0.9, gzip;q=0.5", "deflate"),
        ("*", "gzip"),
        ("gzip;q=0, *;q=0.5", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0.0, deflate;q=0", None),
        ("identity", None),
        ("br, zstd", None),
        ("", None),
        ("*;q=0", None),
        ("x-gzip-not", None),
    ],
)
async def test_the_coding_is_what_the_caller_takes(shared, accepted, coding):
    answer = await raw(shared, text_of("GET", "/openapi.json", Accept_Encoding=accepted))
    assert answer.headers.get("Content-Encoding") == coding


async def test_a_small_answer_is_never_compressed(shared, api, directory):
    answer = await raw(shared, text_of("GET", "/health/live", Accept_Encoding="gzip"))
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


async def test_a_large_refusal_is_compressed_too(shared):
    content = {f"field{number}": 1 for number in range(60)}
    answer = await raw(shared, text_of("POST", TASKS, content, Accept_Encoding="gzip"))
    assert (answer.status, answer.headers["Content-Encoding"]) == (400, "gzip")
    assert len(json.loads(gzip.decompress(answer.content))["error"]["details"]["errors"]) == 50


async def test_a_claim_is_compressed_and_still_known_to_be_delivered(shared, api, directory):
    task = await large(api, directory)
    answer = await raw(shared, text_of("GET", f"{TASKS}/next?work_path={directory}", Accept_Encoding="gzip"))
    claimed = json.loads(gzip.decompress(answer.content))["data"]
    assert (claimed["task_id"], claimed["attempt"]) == (task["task_id"], 1)
    assert await api.life(task) == ["created", "claimed"]
    assert (await api.tell(claimed, "complete")).status == 200


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/*",
        "text/html, application/json;q=0.1",
        "text/html, */*;q=0.1",
        "text/html;q=0, */*",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "",
    ],
)
async def test_who_takes_json_gets_it(api, accept):
    assert (await api.call("GET", TASKS, headers={"Accept": accept})).status == 200


@pytest.mark.parametrize(
    "accept", ["text/html", "text/*", "application/xml, image/png", "application/json;q=0, */*", "json"]
)
async def test_who_takes_nothing_that_there_is_is_told_before_anything_happens(api, directory, accept):
    body = json.dumps({"work_directory": directory, "prompt": "x"})
    headers = {"Accept": accept, "Content-Type": "application/json"}
    answer = await api.call("POST", TASKS, data=body, headers=headers)
    assert answer.refused(406, "NOT_ACCEPTABLE") == {"offered": ["application/json"]}
    assert (await api.get(TASKS, work_directory=directory)).data["total"] == 0


async def test_a_stream_of_events_is_not_json(api, directory):
    path = f"{TASKS}/stream?work_path={directory}"
    answer = await api.call("GET", path, headers={"Accept": "application/json"})
    assert answer.refused(406, "NOT_ACCEPTABLE") == {"offered": ["text/event-stream"]}
    async with api.session.get(api.url + path, headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 200
        assert "Content-Encoding" not in response.headers


async def test_no_answer_of_the_contract_is_kept_by_caches(api, directory):
    """But for a single task, which is asked for again with its ETag."""
    task = await api.create(directory)
    assert (await api.get(f"{TASKS}/{task['task_id']}")).headers["Cache-Control"] == "no-cache"
    for method, path in (("GET", TASKS), ("GET", "/nowhere"), ("PUT", TASKS)):
        assert (await api.call(method, path)).headers["Cache-Control"] == "no-store"


@pytest.fixture
def keyed(tmp_path):
    """A server with a key."""
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": "secret"}).start()
    yield server
    assert server.terminate() == 0


async def test_the_description_is_open_and_nothing_beside_it(keyed):
    for path in ("/openapi.json", "/docs", "/docs/docs.js", "/docs/swagger-ui.css"):
        assert (await raw(keyed, text_of("GET", path))).status == 200
    (await raw(keyed, text_of("GET", "/docs/../api/v1/tasks"))).refused(404, "NOT_FOUND")
    for path in ("/docsx", "/openapi.jsonx", "/", TASKS, f"{TASKS}/next?work_path=/a"):
        answer = await raw(keyed, text_of("GET", path))
        answer.refused(401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_what_there_is_can_be_asked_without_a_key(keyed):
    async with wire(keyed) as connection:
        await connection.send(text_of("OPTIONS", TASKS))
        status, headers = await connection.head()
        assert (status, headers["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        await connection.send(text_of("HEAD", TASKS))
        assert (await connection.head())[0] == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "foo"},
        {"Content-Type": "text/plain"},
    ],
)
async def test_a_body_in_another_form_is_refused(api, directory, headers):
    body = json.dumps({"work_directory": directory, "prompt": "x"}).encode()
    (await api.call("POST", TASKS, data=body, headers=headers)).refused(415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_long_body_is_read_as_well_as_a_short_one(api, directory):
    """It is taken apart elsewhere, so that nobody waits for that; what is wrong with it is told as ever."""
    tasks = [{"work_directory": directory, "prompt": "x" * 500}] * 500
    assert len((await api.post(f"{TASKS}/batch", {"tasks": tasks})).data["tasks"]) == 500
    wrong = await api.post(f"{TASKS}/batch", {"tasks": [*tasks, {"work_directory": 5, "prompt": ""}]})
    errors = wrong.refused(400, "VALIDATION_ERROR")["errors"]
    assert [error["field"] for error in errors] == ["tasks[500].work_directory", "tasks[500].prompt"]
