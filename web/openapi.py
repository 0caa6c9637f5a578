"""OpenAPI 3.1 of the whole contract, made of the route table and what stands in web/operations.py."""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

import attrs

from dispatcher.fields import KEY_NAME, TASK_ID
from web import envelopes
from web.access.addresses import PROBES
from web.access.door import is_open
from web.answers import REQUEST_ID
from web.bodies import Path
from web.envelopes import TEXT
from web.example_answers import ANSWERS
from web.example_texts import TEXTS
from web.examples import PARAMETERS, REQUESTS
from web.export import FORMS
from web.operations import EVENTS, JSON, TAGS, Link, Operation, told_of
from web.refusals import REFUSALS
from web.route import Handle, Route, by_path
from web.schemas import Schema, Schemas

_ALWAYS = (
    *("VALIDATION_ERROR", "MALFORMED_REQUEST", "FORBIDDEN", "NOT_ACCEPTABLE", "EXPECTATION_FAILED"),
    "INTERNAL_ERROR",
)
_COMMON = (REQUEST_ID, "Cache-Control", "Vary")
_RATE_LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_WITH_KEY = ("UNAUTHORIZED", "DATABASE_ERROR", "UNAVAILABLE", "TIMEOUT")
_WITH_BODY = ("MALFORMED_JSON", "BODY_TIMEOUT", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
_SENTENCE = re.compile(r"(.*?)[.;:?](\s|$)", re.DOTALL)
_PATTERNS = {"task_id": TASK_ID.pattern, "name": KEY_NAME.pattern}
_VARIABLE = re.compile(r"\{(\w+)\}")

DESCRIPTION = """A durable task queue for coding agents and those who run them.

Times are RFC 3339 in UTC, durations are numbers of seconds. Every answer in JSON comes in one envelope; a refusal says
in `error.code` why, and a `VALIDATION_ERROR` names every fault. Nothing is coerced, and what is not known is refused.
`X-Request-Id` comes back if it is sane, else there is a new one. Answers over 1 KiB are compressed if `Accept-Encoding`
allows it. Where callers are limited in how often they may come, every answer tells how it stands with them in
`RateLimit-Remaining`. Wherever there is a GET that changes nothing there is a HEAD; OPTIONS tells what there is."""

_COUNT = {**TEXT, "pattern": "^[0-9]+$"}
HEADERS: Mapping[str, Schema] = {
    REQUEST_ID: {"description": "Names the request in the log.", "required": True, "schema": TEXT},
    "ETag": {"description": "The task's version, for If-Match.", "schema": {**TEXT, "pattern": '^"[1-9][0-9]*"$'}},
    "Location": {"description": "Where the task is to be had.", "schema": TEXT},
    "Idempotent-Replayed": {"description": "It had been made before.", "schema": {"const": "true"}},
    "Allow": {"description": "The methods that may be used here.", "schema": TEXT},
    "Retry-After": {"description": "After so many seconds.", "schema": _COUNT},
    "RateLimit-Limit": {"description": "Requests that the caller's bucket holds when full.", "schema": _COUNT},
    "RateLimit-Remaining": {"description": "Requests that are left in it now.", "schema": _COUNT},
    "RateLimit-Reset": {"description": "After so many seconds it is full again.", "schema": _COUNT},
    "WWW-Authenticate": {"description": "How to say who one is.", "schema": TEXT},
    "Cache-Control": {"description": "What may be kept.", "schema": {"enum": ["no-store", "no-cache"]}},
    "Vary": {"description": "Accept where it chooses the form, Accept-Encoding over 1 KiB.", "schema": TEXT},
}
_TEXTS: Mapping[str, str] = {
    EVENTS: "Server-sent events; what `data` holds, in JSON, is in `x-events` by the name of the event.",
    **{media: inspect.getdoc(form) or "" for media, form in FORMS.items()},
}
_HEADER_PARAMETERS: Mapping[str, tuple[str, Schema]] = {
    "Idempotency-Key": (
        "Said again with the same key within 24 hours it is done once; another body is refused.",
        {**TEXT, "pattern": "^[ -~]+$", "minLength": 1, "maxLength": 255},
    ),
    "If-Match": ("Only if this is the task's ETag.", {**TEXT, "pattern": r'^(\*|"[1-9][0-9]{0,17}")$'}),
    "If-None-Match": ("Only if the task has another ETag; else 304.", TEXT),
    "Last-Event-ID": (
        "The id of the last event that came through; it counts more than `after`.",
        {**TEXT, "pattern": "^([0-9]{0,18}|[0-8][0-9]{18})$"},
    ),
}


def describe(routes: Iterable[Route], version: str) -> Schema:
    """The document."""
    schemas = Schemas()
    paths: dict[str, Schema] = defaultdict(dict)
    names = _names(routes := tuple(routes))
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, names, schemas)
    failures = {f"Refused_{name}": envelopes.refused(name, REFUSALS[name], schemas) for name in REFUSALS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Task Orchestrator",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted((schemas.components | failures | envelopes.both()).items())),
            "responses": _refusals(paths),
            "headers": HEADERS,
            "examples": {name: {"value": envelopes.failure(name, refusal)} for name, refusal in REFUSALS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def operation_id(handler: Handle) -> str:
    """`tasks_create`, or only `explain` where module and function bear the same name."""
    module, name = handler.__module__.rpartition(".")[2], handler.__name__.strip("_")
    return name if name == module else f"{module}_{name}"


def _names(routes: Sequence[Route]) -> dict[Route, str]:
    """The operation ids; a handler's second route adds its method."""
    names: dict[Route, str] = {}
    for route in routes:
        name = operation_id(route.handler)
        names[route] = f"{name}_{route.method.lower()}" if name in names.values() else name
    return names


def _operation(route: Route, names: Mapping[Route, str], schemas: Schemas) -> Schema:
    told = told_of(route.handler)
    about = inspect.cleandoc(route.handler.__doc__ or "").replace("\n", " ")
    first = _SENTENCE.match(about)
    is_public = is_open(route.method, route.path)
    described: Schema = {
        "operationId": names[route],
        "summary": first[1] if first else about,
        "description": about,
        "tags": [told.tag],
        "parameters": list(_parameters(route, told, schemas)),
        "responses": _responses(route, told, schemas, is_public),
    }
    if is_public:
        described["security"] = []
    if not route.is_read:
        described["requestBody"] = _request_body(route, schemas)
    if told.events:
        described["x-events"] = {name: schemas.of(data) for name, data in told.events.items()}
    return described


def _parameters(route: Route, told: Operation, schemas: Schemas) -> Iterable[Schema]:
    for name in _VARIABLE.findall(route.path):
        schema = {"type": "string", "pattern": f"^{_PATTERNS[name]}$"}
        example = {"example": PARAMETERS[name]} if name in PARAMETERS else {}
        yield {"name": name, "in": "path", "required": True, "schema": schema, **example}
    if route.about is by_path:
        yield from _query(schemas.request(Path), schemas)
    if route.is_read:
        yield from _query(schemas.request(route.asks, _VARIABLE.findall(route.path)), schemas)
    for name in told.takes:
        about, schema = _HEADER_PARAMETERS[name]
        yield {"name": name, "in": "header", "description": about, "schema": schema}


def _query(asked: Schema, schemas: Schemas) -> Iterable[Schema]:
    for name, rules in asked["properties"].items():
        schema = schemas.parameter(rules)
        about = {"description": schema.pop("description")} if "description" in schema else {}
        form = {"style": "form", "explode": False} if schema.get("type") == "array" else {}
        needed = name in asked.get("required", ())
        example = {"example": PARAMETERS[name]} if name in PARAMETERS else {}
        if form and example:
            example = {"example": [PARAMETERS[name]]}
        yield {"name": name, "in": "query", "required": needed, **about, "schema": schema, **form, **example}


def _request_body(route: Route, schemas: Schemas) -> Schema:
    known = {*_VARIABLE.findall(route.path), *(["work_directory"] if route.about is by_path else [])}
    closed = schemas.request(route.asks, known)
    is_needed = "required" in closed or "oneOf" in closed
    is_whole = known.isdisjoint(field.name for field in attrs.fields(route.asks) if not field.metadata.get("internal"))
    schema = schemas.of(route.asks) if is_whole else closed
    name = operation_id(route.handler)
    example = {"example": REQUESTS[name]} if name in REQUESTS else {}
    return {"required": is_needed, "content": {JSON: {"schema": schema, **example}}}


def _responses(route: Route, told: Operation, schemas: Schemas, is_public: bool) -> Schema:
    statuses = (*told.statuses, *((503,) if told.bare and route.says else ()))
    responses = {str(status): _success(status, route, told, schemas) for status in statuses}
    refusals: dict[int, list[str]] = defaultdict(list)
    common = (*_ALWAYS, *(() if is_public else _WITH_KEY), *(() if route.is_read else _WITH_BODY))
    often = () if route.path in PROBES else ("RATE_LIMITED",)
    for name in (*common, *often, *told.refuses):
        refusals[REFUSALS[name].status].append(name)
    return responses | {
        str(status): {"$ref": f"#/components/responses/{_together(names)}"}
        for status, names in sorted(refusals.items())
    }


def _together(names: Iterable[str]) -> str:
    """The name of the response that several refusals of one status share."""
    return "Refused_" + "_or_".join(names)


def _success(status: int, route: Route, told: Operation, schemas: Schemas) -> Schema:
    limits = () if route.path in PROBES else _RATE_LIMITS
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in (*_COMMON, *limits, *told.gives)}
    if status in (204, 304):
        return {"description": HTTPStatus(status).phrase, "headers": headers}
    content: Schema = {}
    for media in told.media:
        if media != JSON:
            content[media] = _text(media, operation_id(route.handler))
            continue
        says = told.unwell if status == 503 and told.unwell else route.says
        data = schemas.of(says) if says else {"type": "object"}
        if not told.bare:
            data = {"allOf": [{"$ref": "#/components/schemas/Success"}, {"properties": {"data": data}}]}
        content[media] = {"schema": data}
        if (name := operation_id(route.handler)) in ANSWERS:
            answer = ANSWERS[name]
            content[media]["example"] = answer if told.bare else envelopes.success(answer)
    links = {operation_id(link.to): _link(link) for link in told.links} if status < 400 else {}
    described = {"description": HTTPStatus(status).phrase, "headers": headers, "content": content}
    return described | ({"links": links} if links else {})


def _text(media: str, name: str) -> Schema:
    about = _TEXTS.get(media)
    example = TEXTS.get(name, {}).get(media)
    return {
        "schema": {"type": "string", **({"description": about} if about else {})},
        **({"example": example} if example else {}),
    }


def _link(link: Link) -> Schema:
    def expression(pointer: str) -> str:
        return f"$response.body#{pointer}" if pointer.startswith("/") else pointer

    parameters = {name: expression(pointer) for name, pointer in {**link.path, **link.query}.items()}
    body = {name: expression(pointer) for name, pointer in link.body.items()}
    described: Schema = {"operationId": operation_id(link.to)}
    return described | ({"parameters": parameters} if parameters else {}) | ({"requestBody": body} if body else {})


def _refusals(paths: Mapping[str, Schema]) -> dict[str, Schema]:
    """Those that the operations refer to."""
    used = {
        response["$ref"].rpartition("/Refused_")[2]
        for operations in paths.values()
        for operation in operations.values()
        for response in operation["responses"].values()
        if "$ref" in response
    }
    return {f"Refused_{names}": envelopes.refusal(names.split("_or_")) for names in sorted(used)}
