"""The description of the contract: whole, valid, true to the server, and readable in a browser."""

import ast
import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import attrs
import pytest
from annotated_types import Ge, Gt
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import web
from dispatcher import fields
from dispatcher.events import EVENT_TYPES
from tests.conftest import ServerProcess
from tests.web.conftest import raw, text_of
from tests.web.fuzzing import fuzz
from web.bodies import Nothing
from web.codec import Invalid, decode, encode
from web.docs import FILES
from web.example_answers import ANSWERS
from web.examples import REQUESTS
from web.openapi import describe, operation_id
from web.operations import EVENTS, JSON, OPERATIONS
from web.refusals import REFUSALS
from web.route import Route
from web.routes import ROUTES
from web.schemas import Schemas

WEB = Path(web.__file__).parent
DOCUMENT = json.loads(encode(describe(ROUTES, "1.2.3")))
OPERATIONS_TOLD = {
    (path, method): operation for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
}


def each(is_meant=lambda route: True):
    """The routes that a test is about."""
    meant = [route for route in ROUTES if is_meant(route)]
    return pytest.mark.parametrize("route", meant, ids=lambda route: f"{route.method} {route.path}")


ROUTE = each()


def validator(schema):
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def resolved(thing):
    """What a reference refers to."""
    while "$ref" in thing:
        found = DOCUMENT
        for name in thing["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        thing = found
    return thing


def told(route):
    return OPERATIONS_TOLD[route.path, route.method.lower()]


def test_the_document_is_openapi_3_1():
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == "1.2.3"


@ROUTE
def test_every_route_is_described(route):
    assert route.handler in OPERATIONS, "say what it is in web/operations.py"
    operation = told(route)
    assert operation["summary"]
    assert operation["description"].endswith((".", "?"))
    media = OPERATIONS[route.handler].media
    if JSON in media and route.path != "/openapi.json":
        assert route.says is not None, "a TypedDict says what the answer's data is"
        assert operation_id(route.handler) in ANSWERS, "an example belongs in web/example_answers.py"
    if route.method != "GET":
        assert operation_id(route.handler) in REQUESTS, "an example belongs in web/examples.py"


def test_no_two_operations_bear_one_name():
    names = [operation["operationId"] for operation in OPERATIONS_TOLD.values()]
    assert len(names) == len(set(names)) == len(ROUTES)


def test_nothing_is_described_that_is_not_there():
    handlers = {route.handler for route in ROUTES}
    assert set(OPERATIONS) <= handlers
    names = {operation_id(handler) for handler in handlers}
    assert set(REQUESTS) <= names
    assert set(ANSWERS) <= names


@ROUTE
def test_every_example_follows_its_schema(route):
    operation = told(route)
    contents = [operation.get("requestBody", {}).get("content", {})]
    contents += [resolved(response).get("content", {}) for response in operation["responses"].values()]
    seen = 0
    for content in contents:
        for media, described in content.items():
            if media != JSON:
                continue
            examples = [described["example"]] if "example" in described else []
            examples += [resolved(example)["value"] for example in described.get("examples", {}).values()]
            for example in examples:
                validator(described["schema"]).validate(example)
                seen += 1
    for parameter in operation["parameters"]:
        if "example" in parameter:
            validator(parameter["schema"]).validate(parameter["example"])
    assert seen > 3


def test_every_answer_in_json_has_an_example():
    assert {operation_id(route.handler) for route in ROUTES if route.says} == ANSWERS.keys()


@each(lambda route: route.says)
def test_every_example_of_an_answer_is_whole(route):
    """It shows every field that the answer always has, and none that it never has."""
    name = operation_id(route.handler)
    schemas = Schemas()
    schema = schemas.of(route.says)
    closed = {
        name: {**it, "additionalProperties": False} for name, it in schemas.components.items() if "enum" not in it
    }
    components = {"schemas": schemas.components | closed}
    Draft202012Validator({**schema, "components": components}).validate(ANSWERS[name])


def test_who_has_events_is_a_stream():
    assert all(bool(operation.events) == (EVENTS in operation.media) for operation in OPERATIONS.values())


@each(lambda route: OPERATIONS[route.handler].events)
def test_every_stream_shows_each_of_its_events(route):
    """A feed, which has a great many kinds of them, shows some."""
    described = told(route)
    example = described["responses"]["200"]["content"][EVENTS]["example"]
    shown = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in example.split("\n\n")[:-1]]
    for frame in shown:
        validator(described["x-events"][frame["event"]]).validate(json.loads(frame["data"]))
    assert {frame["event"] for frame in shown} | set(EVENT_TYPES) >= set(described["x-events"])


def test_the_list_shows_its_other_forms():
    content = OPERATIONS_TOLD["/api/v1/tasks", "get"]["responses"]["200"]["content"]
    (line,) = content["application/x-ndjson"]["example"].splitlines()
    task = {"$ref": "#/components/schemas/WholeTask"}
    validator(task).validate(json.loads(line))
    (row,) = csv.DictReader(io.StringIO(content["text/csv"]["example"]))
    assert list(row) == list(resolved(task)["properties"])
    assert all(content[media]["schema"]["description"] for media in ("application/x-ndjson", "text/csv"))


def test_a_route_without_a_description_is_an_error():
    async def handler(service, asked, request): ...

    with pytest.raises(KeyError):
        describe([Route("GET", "/new", handler, Nothing)], "1")


@each(lambda route: route.method != "GET")
def test_every_example_of_a_request_can_be_read(route):
    known = {name: "x" for name in ("task_id", "work_directory", "name") if name in attrs.fields_dict(route.asks)}
    closed = {name for name in known if attrs.fields_dict(route.asks)[name].metadata.get("internal")}
    closed |= {name for name in known if "{" + name + "}" in route.path or route.about.__name__ == "by_path"}
    decode(encode(REQUESTS[operation_id(route.handler)]), route.asks, **{name: "x" for name in closed})


def failures():
    """Each status and code that stands in the source of web/."""
    for path in WEB.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Failure":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                    yield status.value, code.value


def test_every_refusal_is_described_and_none_besides():
    listed = {(refusal.status, refusal.code or name) for name, refusal in REFUSALS.items()}
    unread = {(404, "NOT_FOUND"), (400, "MALFORMED_REQUEST")}  # by the names of aiohttp's own errors
    assert set(failures()) | unread == listed


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_has_an_example(name):
    example = DOCUMENT["components"]["examples"][name]["value"]
    validator({"$ref": f"#/components/schemas/Refused_{name}"}).validate(example)
    assert example["error"]["code"] == (REFUSALS[name].code or name)
    assert all(header in DOCUMENT["components"]["headers"] for header in REFUSALS[name].headers)


def test_every_link_leads_somewhere():
    """To an operation that takes those parameters and fields."""
    by_name = {operation["operationId"]: operation for operation in OPERATIONS_TOLD.values()}
    links = [
        link
        for operation in OPERATIONS_TOLD.values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(links) > 30
    for link in links:
        target = by_name[link["operationId"]]
        assert link.get("parameters", {}).keys() <= {parameter["name"] for parameter in target["parameters"]}
        if body := link.get("requestBody"):
            schema = resolved(target["requestBody"]["content"][JSON]["schema"])
            assert body.keys() <= schema["properties"].keys()


def test_only_the_open_paths_need_no_key():
    open_ = {at for at, operation in OPERATIONS_TOLD.items() if operation.get("security") == []}
    reads = ("/health", "/health/live", "/health/ready", "/openapi.json", "/docs")
    assert open_ == {*((path, "get") for path in reads), ("/api/v1/session", "post")}
    assert DOCUMENT["security"] == [{"bearer": []}, {"apiKey": []}]


def test_requests_are_closed_and_answers_are_open():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if name.endswith("Request"):
            assert schema["additionalProperties"] is False, name
        else:
            assert "additionalProperties" not in schema, name


def test_what_the_server_fills_is_not_asked_for():
    create = DOCUMENT["components"]["schemas"]["CreateRequest"]
    assert {"created_by", "idempotency_key", "request_digest"}.isdisjoint(create["properties"])
    assert create["required"] == ["work_directory", "prompt"]
    fail = DOCUMENT["components"]["schemas"]["FailRequest"]
    assert "task_id" not in fail["properties"]


def test_many_tasks_are_named_by_their_ids():
    """Although they are read later, a piece at a time."""
    for name in ("ManyRequest", "ManyOfPriorityRequest"):
        ids, _ = DOCUMENT["components"]["schemas"][name]["properties"]["ids"]["anyOf"]
        assert (ids["items"]["type"], ids["items"]["pattern"]) == ("string", "^[A-Za-z0-9_-]{1,100}$")
        assert (ids["minItems"], ids["maxItems"], ids["uniqueItems"]) == (1, 100_000, True)


@attrs.frozen(kw_only=True)
class Sample:
    """One of each kind of rule."""

    path: fields.WorkDirectory = "/"
    prompt: fields.Prompt = "x"
    tags: fields.Tags = ()
    id: fields.TaskId = "x"
    priority: fields.Priority = fields.Priority.LOW
    at: fields.Instant | None = None
    percent: fields.Percent | None = None
    seconds: fields.Seconds = 1
    limit: fields.ClaimLimit = 1
    flag: bool = False
    choice: fields.OnDependencyFailure = "wait"


SCHEMAS = Schemas()
SAMPLE = {**SCHEMAS.request(Sample), "components": {"schemas": SCHEMAS.components}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("path", path)
            for path in ("a", "", "/a/../b", "/..", "c:a", "C:\\a\\..", "C:/../a", "/a\nb", "/\x85", "/a" * 300)
        ),
        *(("prompt", text) for text in ("", " ", "\t\n", "\x1f", "a\0", "a" * 10_001)),
        *(("tags", tags) for tags in ("a", ["a", "a"], [""], ["a" * 101], ["\0"], ["x"] * 51, [1], None)),
        *(("id", text) for text in ("", "a b", "é", "a" * 101, "ref:x")),
        *(("priority", value) for value in ("", "LOW", 1, None)),
        *(
            ("at", text)
            for text in ("2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "1969-01-01T00:00:00Z", 5)
        ),
        *(("percent", value) for value in (-0.1, 100.1, "1", True)),
        *(("seconds", value) for value in (0, -1, 31_536_001, None)),
        *(("limit", value) for value in (0, 101, 1.5, "1", None)),
        *(("flag", value) for value in (0, "true", None)),
        ("choice", "never"),
        ("unknown", 1),
    ],
)
def test_what_does_not_follow_the_schema_is_refused(name, value):
    assert list(Draft202012Validator(SAMPLE).iter_errors({name: value}))
    with pytest.raises(Invalid):
        decode(encode({name: value}), Sample)


def test_a_rule_without_a_schema_is_an_error():
    for rule in (object(), Ge):
        with pytest.raises(TypeError, match="no JSON Schema"):
            Schemas().of(fields.Annotated[int, rule])
    with pytest.raises(TypeError, match="no JSON Schema"):
        Schemas().of(bytes)
    assert Schemas().of(fields.Annotated[float, Gt(0)]) == {"type": "number", "exclusiveMinimum": 0}


def test_a_change_of_settings_is_described_setting_by_setting():
    schema = validator({"$ref": "#/components/schemas/ChangeSettingsRequest"})
    for right in ({"task.max_task_retries": 5, "logging.level": "DEBUG"}, {"webhooks.events": None}):
        schema.validate({"changes": right})
    for wrong in (
        {},
        {"task.max_task_retries": "5"},
        {"task.colour": 1},
        {"server.port": 8081},
        {"logging.level": "x"},
    ):
        assert list(schema.iter_errors({"changes": wrong})), wrong


@pytest.mark.parametrize("path", ["/api/v1/tasks", "/api/v1/events"])
def test_a_comma_parts_paths_only_where_the_second_one_begins(path):
    parameters = OPERATIONS_TOLD[path, "get"]["parameters"]
    (schema,) = (it["schema"] for it in parameters if it["name"] == "work_directory")
    for item in ("/a,b", "/a,", "/,", "C:\\a,b"):
        validator(schema).validate([item])
    for item in ("/a,/b", "/a,C:\\b", "/a,b,/c"):
        assert list(validator(schema).iter_errors([item]))


async def test_the_server_tells_its_own_description(shared):
    answer = await raw(shared, text_of("GET", "/openapi.json"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    version = answer.json["info"]["version"]
    assert answer.json == json.loads(encode(describe(ROUTES, version)))


def test_the_command_line_prints_the_same_without_a_server():
    command = [sys.executable, "-m", "task_orchestrator", "openapi"]
    for option in ([], ["--json"]):
        printed = subprocess.run([*command, *option], capture_output=True, text=True, timeout=30, check=True).stdout
        assert json.loads(printed)["paths"] == DOCUMENT["paths"]
        assert (printed.count("\n") == 1) is bool(option)


def test_two_classes_of_one_name_are_two_components():
    first, other = TypedDict("Page", {"a": int}), TypedDict("Page", {"from": str})
    other.__module__ = "web.other"
    schemas = Schemas()
    assert [schemas.of(it)["$ref"].rpartition("/")[2] for it in (first, other, first, other)] == [
        *("Page", "OtherPage"),
        *("Page", "OtherPage"),
    ]
    assert schemas.components["OtherPage"]["properties"] == {"from": {"type": "string", "format": "date-time"}}


def test_what_is_vendored_is_what_it_is_said_to_be():
    folder = WEB / "static" / "swagger-ui"
    vendored = json.loads((folder / "VENDORED.json").read_text())
    assert (vendored["name"], vendored["version"], vendored["licence"]) == ("swagger-ui-dist", "5.35.0", "Apache-2.0")
    assert {path.name for path in folder.iterdir()} == {*vendored["sha256"], "VENDORED.json"}
    for name, digest in vendored["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


async def test_the_page_is_made_of_what_the_server_has(shared):
    """Nothing comes from elsewhere, and nothing stands inline: the policy would not let it."""
    page = await raw(shared, text_of("GET", "/docs"))
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    text = page.content.decode()
    assert "style=" not in text
    assert "<style" not in text
    assert all(f"docs/{name}" in text for name in FILES)
    for name, (_, kind) in FILES.items():
        answer = await raw(shared, text_of("GET", f"/docs/{name}"))
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.fixture
def keyed(tmp_path):
    """A server with a key."""
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": "secret"}).start()
    yield server
    assert server.terminate() == 0


@pytest.mark.timeout(180)
def test_the_server_does_what_its_description_says(keyed, tmp_path):
    """Also along the links from one operation to the next."""
    workspace = tmp_path / "fuzz"
    workspace.mkdir()
    ran = fuzz(keyed.url, "secret", workspace, "--generation-deterministic", "--max-examples", "12", seconds=150)
    assert ran.returncode == 0, ran.stdout
    assert '"level":"error"' not in keyed.log.read_text()
