"""Whatever is sent, the answer names every fault, nothing is changed, and it is never a 500."""

import gzip
import io
import json
import re

import pytest

from tests.conftest import ServerProcess
from tests.web import bad_more, bad_values
from tests.web.bad_values import (
    IDS,
    KINDS,
    MEBIBYTE,
    NOT_JSON,
    QUERY_PATHS,
    RULES,
    TYPES,
    UNKNOWN,
    UNKNOWN_PARAMETERS,
)
from tests.web.conftest import TASKS, Api, footprint, raw, text_of, wire

BODIES = bad_values.BODIES | bad_more.BODIES
QUERIES = bad_values.QUERIES | bad_more.QUERIES
REQUIRED = bad_values.REQUIRED | bad_more.REQUIRED
OTHER = bad_values.OTHER | bad_more.OTHER
EXCLUSIVE = bad_values.EXCLUSIVE + bad_more.EXCLUSIVE
REPEATED = bad_values.REPEATED + bad_more.REPEATED

BODY_MAX = 16 * MEBIBYTE
FAULTS_MAX = 50
DIRECTORIES, CONFIG = "/api/v1/work-directories", "/api/v1/config"

CHUNKED = text_of("POST", TASKS, Transfer_Encoding="chunked")
UNFINISHED = [b"", b"POST /api/v1/ta", b"GET /health HTTP/1.1\r\nHost: localh"]
UNFINISHED += [CHUNKED, CHUNKED + b"1\r\n{\r\n", text_of("POST", TASKS, Content_Length="10") + b"{"]


class Bench:
    """A claimed task and a waiting one of a directory, and requests about them that would be right."""

    def __init__(self, api: Api, claimed: dict, directory: str) -> None:
        self.api, self.task = api, f"{TASKS}/{claimed['task_id']}"
        self.path_of_directory = f"path={directory}"
        many = {"ids": [claimed["task_id"]]}
        token, new = {"lease_token": claimed["lease_token"]}, {"work_directory": directory, "prompt": "Tidy up"}
        self.bodies = {
            "create": new,
            "batch": {"tasks": [new]},
            "claim": {"work_directory": directory},
            "heartbeat": token,
            "complete": token,
            "fail": {"error_message": "no", **token},
            "release": token,
            "logs": {"lines": ["a"], **token},
            **{endpoint: {} for endpoint in [*RULES, "edit", "cancel", "retry", "delete"]},
            **{f"{verb}_many": many for verb in ("cancel", "retry", "delete")},
            "priority_many": {**many, "priority": "low"},
            "config": {"changes": {"task.max_task_retries": 7}},
            "rollback": {"version": 0},
        }
        claiming = f"work_path={directory}"
        self.queries = {
            "next": (f"{TASKS}/next", claiming),
            "stream": (f"{TASKS}/stream", claiming),
            "show": (self.task, "until=terminal"),
            "history": (f"{self.task}/history", ""),
            "explain": (f"{self.task}/explain", ""),
            "logs": (f"{self.task}/logs", ""),
            "workers": ("/api/v1/workers", ""),
            "directories": (DIRECTORIES, ""),
            "list": (TASKS, ""),
            "events": ("/api/v1/events", ""),
            "task_events": (f"{self.task}/events", ""),
            "config": (CONFIG, ""),
            "config_history": (f"{CONFIG}/history", ""),
            "limits": ("/api/v1/limits", ""),
            "metrics": ("/metrics", ""),
            "openapi": ("/openapi.json", ""),
            "docs": ("/docs", ""),
            "statistics": ("/api/v1/statistics", ""),
            "health": ("/health", ""),
            "live": ("/health/live", ""),
            "ready": ("/health/ready", ""),
        }

    def path(self, endpoint: str) -> str:
        """With the query that it needs."""
        if endpoint in RULES:
            return f"{DIRECTORIES}{'' if endpoint == 'rules' else f'/{endpoint}'}?{self.path_of_directory}"
        if endpoint.endswith("_many"):
            return f"{TASKS}/{endpoint.removesuffix('_many')}"
        others = {"create": TASKS, "batch": f"{TASKS}/batch", "claim": f"{TASKS}/claim", "edit": self.task}
        others |= {"delete": self.task, "config": CONFIG, "rollback": f"{CONFIG}/rollback"}
        return others.get(endpoint, f"{self.task}/{endpoint}")

    def method(self, endpoint: str) -> str:
        return {"rules": "PATCH", "edit": "PATCH", "config": "PATCH", "delete": "DELETE"}.get(endpoint, "POST")

    async def send(self, endpoint: str, body: object, path: str | None = None, type_: str = "application/json"):
        """Bytes are sent as they are, anything else as JSON."""
        data, headers = body if isinstance(body, bytes) else json.dumps(body).encode(), {"Content-Type": type_}
        path = path or self.path(endpoint)
        return await self.api.call(self.method(endpoint), path, data=io.BytesIO(data), headers=headers)

    async def tell(self, endpoint: str, change=None, without: str | None = None):
        body = {name: value for name, value in self.bodies[endpoint].items() if name != without}
        return await self.send(endpoint, body | (change or {}))

    async def ask(self, endpoint: str, more: str):
        """`more` replaces the parameters that it names."""
        path, query = self.queries[endpoint]
        kept = [pair for pair in query.split("&") if pair and pair.split("=")[0] != more.split("=")[0]]
        return await self.api.call("GET", f"{path}?{'&'.join([*kept, more])}")


@pytest.fixture
async def bench(shared: ServerProcess, api: Api, directory: str):
    """Whatever the test does with it leaves no trace in the record."""
    claimed = await api.claimed(directory)
    await api.create(directory)
    before = footprint(shared)
    yield Bench(api, claimed, directory)
    assert footprint(shared) == before


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A server with little patience."""
    server = ServerProcess(
        tmp_path_factory.mktemp("hasty"), environ={"APP_SERVER_REQUEST_TIMEOUT_SECONDS": "0.3"}
    ).start()
    yield server
    assert server.terminate() == 0


def all_of(table):
    return [(endpoint, field) for endpoint, fields in table.items() for field in fields]


@pytest.mark.parametrize(("endpoint", "field"), all_of(BODIES))
async def test_a_wrong_value_in_a_body_is_refused_and_named(bench, endpoint, field):
    kinds, wrong = BODIES[endpoint][field]
    root, *part = re.split(r"[.\[]", field)
    if not part:
        wrong = [*wrong, *(value for kind, value in KINDS.items() if kind not in kinds.split())]
    for value in wrong:
        answer = await bench.tell(endpoint, {root: value}, without=OTHER.get(root))
        assert answer.faults() in ([field], [one_alone(field, value)]), f"{value!r:.80}"


def one_alone(field, value):
    """A list of one may be written as that one; then no place in it is named."""
    if isinstance(value, dict):  # of a body, where a comma parts nothing
        value = str(inner).replace(",", "") if isinstance(inner := next(iter(value.values()), None), str) else inner
    return field.removesuffix("[0]") if isinstance(value, str) and "," not in value else field


@pytest.mark.parametrize(("endpoint", "field"), all_of(QUERIES))
async def test_a_wrong_value_in_a_query_is_refused_and_named(bench, endpoint, field):
    for value in QUERIES[endpoint][field]:
        faults = (await bench.ask(endpoint, f"{field.split('[')[0]}={value}")).faults()
        assert faults in ([field], [one_alone(field, value)]), value


@pytest.mark.parametrize(("endpoint", "field"), all_of(REQUIRED))
async def test_a_missing_field_is_named(bench, endpoint, field):
    assert (await bench.tell(endpoint, without=field)).faults() == [field]


@pytest.mark.parametrize("endpoint", BODIES)
async def test_an_unknown_field_is_named(bench, endpoint):
    for field in set(UNKNOWN) - set(BODIES[endpoint]):
        assert (await bench.tell(endpoint, {field: 1})).faults() == [field]


@pytest.mark.parametrize("endpoint", ["next", "stream"])
async def test_a_claim_needs_a_work_path(bench, endpoint):
    assert (await bench.api.get(f"{TASKS}/{endpoint}", tags="a")).faults() == ["work_path"]


@pytest.mark.parametrize("endpoint", QUERIES)
async def test_an_unknown_query_parameter_is_refused(bench, endpoint):
    for name in UNKNOWN_PARAMETERS:
        assert len((await bench.ask(endpoint, f"{name}=1")).faults()) == 1, name


@pytest.mark.parametrize("endpoint", BODIES)
async def test_a_request_with_a_body_takes_no_query(bench, endpoint):
    """But one about a work directory, which names it, and nothing else."""
    path = bench.path(endpoint)
    answer = await bench.send(endpoint, bench.bodies[endpoint], f"{path}{'&' if '?' in path else '?'}a=1&b=2&b=3")
    assert set(answer.faults()) == {"a", "b"}


@pytest.mark.parametrize("endpoint", RULES)
async def test_the_work_directory_is_named_once_and_rightly(bench, endpoint):
    path, _, query = bench.path(endpoint).partition("?")
    for wrong in ("", f"{query}&{query}", f"{query}&path=/other", *(f"path={value}" for value in QUERY_PATHS)):
        assert (await bench.send(endpoint, {}, f"{path}?{wrong}")).faults() == ["path"], wrong
    assert "path" in (await bench.send(endpoint, {}, f"{path}?Path=/a")).faults()
    assert (await bench.send(endpoint, {"work_directory": "/a"})).faults() == ["work_directory"]


async def test_a_drain_is_no_rule(bench):
    assert (await bench.tell("rules", {"draining": True})).faults() == ["draining"]


@pytest.mark.parametrize("endpoint", ["create", "batch"])
async def test_a_name_among_the_tasks_of_a_batch_means_nothing_elsewhere(bench, endpoint):
    """Nor does one that names nothing; a single task has no name."""
    if endpoint == "create":
        assert (await bench.tell("create", {"ref": "a"})).faults() == ["ref"]
        return
    new = bench.bodies["create"]
    for wrong in ("", "x" * 101, "a\0b", 5, [], {}):
        details = (await bench.tell("batch", {"tasks": [new, new | {"ref": wrong}]})).refused(400, "VALIDATION_ERROR")
        assert [error["field"] for error in details["errors"]] == ["tasks[1].ref"]


@pytest.mark.parametrize("field", all_of({"create": BODIES["create"]}))
async def test_a_wrong_value_in_a_task_of_a_batch_is_refused_and_named(bench, field):
    """As in a task by itself, but that others of the batch may be named."""
    _, field = field
    kinds, wrong = BODIES["create"][field]
    root, *part = re.split(r"[.\[]", field)
    if not part:
        wrong = [*wrong, *(value for kind, value in KINDS.items() if kind not in kinds.split())]
    new = bench.bodies["create"]
    for value in wrong:
        if value != ["ref:a"]:
            answer = await bench.tell("batch", {"tasks": [new, new | {root: value}]})
            details = answer.refused(400, "VALIDATION_ERROR")
            assert [error["field"] for error in details["errors"]] == [f"tasks[1].{field}"], f"{value!r:.80}"


@pytest.mark.parametrize(("endpoint", "pair"), REPEATED)
async def test_a_repeated_query_parameter_is_refused(bench, endpoint, pair):
    assert (await bench.ask(endpoint, pair)).faults() == [pair.split("=")[0]]


@pytest.mark.parametrize("endpoint", BODIES)
async def test_all_faults_of_a_body_are_listed(bench, endpoint):
    fields = {field for field in BODIES[endpoint] if field.isidentifier()} - {"result"}
    wrong = {field: "wrong" if "integer" in BODIES[endpoint][field][0] else 1 for field in fields}
    wrong |= {"colour": 1, "size": None}
    assert sorted((await bench.tell(endpoint, wrong)).faults()) == sorted(wrong)


async def test_all_faults_of_a_query_are_listed(bench):
    query = "work_path=a&work_path=a&worker_id=&wait_seconds=x&lease_seconds=0&tags=a,,%ff&colour=red"
    faults = (await bench.ask("next", query)).faults()
    assert set(faults) == {"work_path", "worker_id", "wait_seconds", "lease_seconds", "tags[1]", "tags[2]", "colour"}


async def test_the_list_of_faults_is_cut_at_50(bench):
    assert len((await bench.tell("create", {f"field {number}": 1 for number in range(60)})).faults()) == FAULTS_MAX
    assert len((await bench.tell("create", {"tags": [""] * 50, "priority": 5, "auto_retry": 5})).faults()) == FAULTS_MAX
    assert len((await bench.ask("list", "&".join(f"x{number}=1" for number in range(60)))).faults()) == FAULTS_MAX


@pytest.mark.parametrize(("endpoint", "change", "field"), EXCLUSIVE)
async def test_fields_that_exclude_each_other_are_refused(bench, endpoint, change, field):
    assert (await bench.tell(endpoint, change)).faults() == [field]


async def test_waiting_for_a_task_needs_a_word_until_when(bench):
    assert (await bench.api.get(bench.task, wait_seconds=1)).faults() == ["until"]


@pytest.mark.parametrize("endpoint", BODIES)
async def test_what_is_not_json_is_refused(bench, endpoint):
    for content in NOT_JSON:
        (await bench.send(endpoint, content)).refused(400, "MALFORMED_JSON")


@pytest.mark.parametrize("endpoint", BODIES)
async def test_a_body_must_be_an_object(bench, endpoint):
    for body in ([], 5, "x", None, True, [{}]):
        assert (await bench.send(endpoint, body)).faults() == ["body"]


SPOKEN = ["create", "batch", "heartbeat", "fail", "release", "logs", "priority_many", "rollback"]


@pytest.mark.parametrize("endpoint", SPOKEN)
async def test_no_body_is_refused_where_something_must_be_said(bench, endpoint):
    (await bench.api.post(bench.path(endpoint), b"")).refused(400, "MALFORMED_JSON")


@pytest.mark.parametrize("endpoint", BODIES)
async def test_another_content_type_is_refused(bench, endpoint):
    for type_ in TYPES:
        answer = await bench.send(endpoint, bench.bodies[endpoint], type_=type_)
        answer.refused(415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("endpoint", BODIES)
async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(bench, shared, endpoint):
    answer = await raw(shared, text_of(bench.method(endpoint), bench.path(endpoint), Content_Length=str(BODY_MAX + 1)))
    answer.refused(413, "PAYLOAD_TOO_LARGE")
    assert str(BODY_MAX) in answer.json["error"]["message"]


async def test_a_body_that_turns_out_too_large_is_refused_before_its_end(bench, shared):
    async with wire(shared) as connection:
        await connection.send(CHUNKED)
        await connection.send(b"%x\r\n%b\r\n" % (BODY_MAX + 1, b" " * (BODY_MAX + 1)))
        answer = await connection.answer()
    answer.refused(413, "PAYLOAD_TOO_LARGE")
    assert str(BODY_MAX) in answer.json["error"]["message"]


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(bench):
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    packed = gzip.compress(b" " * (BODY_MAX + 1))
    (await bench.api.call("POST", TASKS, data=packed, headers=headers)).refused(413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_body_that_cannot_be_unpacked_is_refused(bench, shared, coding):
    answer = await raw(shared, text_of("POST", TASKS, {"prompt": "not packed"}, Content_Encoding=coding))
    assert 400 <= answer.status < 500, answer
    assert answer.json["success"] is False


@pytest.mark.parametrize("sent", UNFINISHED)
async def test_an_unfinished_request_is_not_waited_for_any_longer_than_allowed(hasty, sent):
    async with wire(hasty) as connection:
        await connection.send(sent)
        if b"\r\n\r\n" in sent:
            (await connection.answer()).refused(408, "TIMEOUT")
        else:  # nobody knows yet what was asked
            assert await connection.reader.read() == b""


async def test_a_broken_chunk_is_refused(hasty):
    async with wire(hasty) as connection:
        await connection.send(CHUNKED + b"1\r\n{\r\n")
        await connection.send(b"rubbish\r\n")
        answer = await connection.answer()
    assert answer.status in (400, 408)
    assert answer.json["success"] is False


async def test_a_task_that_does_not_exist_is_not_found_whatever_it_is_called(bench):
    for task_id in IDS:
        task = f"{TASKS}/{task_id}"
        for path in (task, f"{task}?until=terminal&wait_seconds=1", f"{task}/history", f"{task}/explain"):
            (await bench.api.call("GET", path)).refused(404, "TASK_NOT_FOUND")
        for verb in ("heartbeat", "complete", "fail", "release"):
            (await bench.api.post(f"{task}/{verb}", bench.bodies[verb])).refused(404, "TASK_NOT_FOUND")


async def test_a_connection_lives_on_after_a_refusal(bench, shared):
    async with wire(shared) as connection:
        for _ in range(2):
            await connection.send(text_of("POST", TASKS, "not an object"))
            assert (await connection.answer()).faults() == ["body"]
            await connection.send(text_of("GET", "/health/live"))
            assert (await connection.answer()).status == 200
