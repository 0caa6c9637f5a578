"""JSON Schema of what the wire carries: attrs classes for what is asked, TypedDicts for what is answered.

A schema says the same as web/strict.py enforces, as far as JSON Schema can; the rest is in the descriptions. Requests
are closed, answers are open: fields may be added to them.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints
from typing import is_typeddict as is_answer

import attrs
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from dispatcher import fields
from dispatcher.audit import HEAD, head_of
from dispatcher.events import EVENT_TYPES, event_type
from dispatcher.fields import Later, Listed, MaxBytes, Rule, Unset, Wire
from dispatcher.messages import Create, Draft
from web.access.network_settings import cors_origin
from web.access.networks import network
from web.access.rate_settings import ENDPOINT_RATE, endpoint_rate
from web.bodies import Batch, ChangeSettings, ClaimBody, Many
from web.settings import LEVELS, SETTINGS, level, webhook_url

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/"
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
_SEGMENT = rf"(\.|\.?[^./{_CONTROL}][^/{_CONTROL}]*|\.\.[^/{_CONTROL}]+)?"
_DRIVE_SEGMENT = rf"(\.|\.?[^./\\{_CONTROL}][^/\\{_CONTROL}]*|\.\.[^/\\{_CONTROL}]+)?"
_DAY = r"(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_DIRECTORY = rf"/{_SEGMENT}(/{_SEGMENT})*|[A-Za-z]:[/\\]{_DRIVE_SEGMENT}([/\\]{_DRIVE_SEGMENT})*"
_RULES: Mapping[Any, Schema] = {
    fields.work_directory: {"pattern": f"^({_DIRECTORY})$"},
    fields.directory_pattern: {"pattern": rf"^({_DIRECTORY}|\*[^{_CONTROL}]*)$"},
    fields.text: {"description": "Without NUL characters.", "pattern": r"^[^\u0000]*$"},
    fields.not_blank: {"pattern": r"[^\s\u001c-\u001f\u0085]"},
    fields.task_id: {"pattern": f"^{fields.TASK_ID.pattern}$"},
    fields.key_name: {
        "pattern": rf"^(?!({'|'.join(fields.KEY_NAMES_TAKEN)}|[0-9]+(\.[0-9]+){{3}})$){fields.KEY_NAME.pattern}$"
    },
    fields.task_id_or_ref: {"pattern": rf"^({fields.TASK_ID.pattern}|ref:[^\u0000]+)$"},
    fields.distinct: {"uniqueItems": True},
    event_type: {"enum": list(EVENT_TYPES)},
    level: {"enum": [*LEVELS, *map(str.upper, LEVELS)], "description": "How much is logged."},
    network: {"pattern": "^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$"},
    cors_origin: {"pattern": r"^(\*|https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$"},
    endpoint_rate: {"pattern": f"^{ENDPOINT_RATE.pattern}$"},
    webhook_url: {"pattern": "^https?://[A-Za-z0-9.-]+"},
    head_of: {"pattern": f"^{HEAD.pattern}$"},
    fields.instant: {"format": "date-time", "pattern": f"^{_DAY}T{_TIME}$"},
}
_NO_COMMA = {"pattern": "^[^,]+$"}
_NO_SECOND_PATH = {"pattern": r"^(?!.*,(/|[A-Za-z]:[/\\]))"}  # as fields.by_path parts them
_SCALARS: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    object: {},
    Any: {},
}


class Schemas:
    """Collects the components that the schemas refer to, each under the name of its class, with that of its module if
    another class of this name came first."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._classes: dict[str, type] = {}

    def of(self, type_: Any) -> Schema:
        """The schema of a value; classes are referred to."""
        if type_ in _SCALARS:
            return dict(_SCALARS[type_])
        origin, args = get_origin(type_), get_args(type_)
        if origin is Annotated:
            return self._ruled(args[0], args[1:])
        if origin in (NotRequired, Required):
            return self.of(args[0])
        if origin in (Union, UnionType):
            return self._union(args)
        if origin is Literal:
            return {"enum": list(args)}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(args[1])}
        if isinstance(origin, type) and issubclass(origin, Collection):
            return {"type": "array", "items": self.of(args[0])}
        if isinstance(type_, type) and issubclass(type_, Enum):
            return self._component(type_, type_.__name__)
        if is_answer(type_):
            return self._component(type_, type_.__name__)
        if attrs.has(type_):
            return self._component(type_, f"{type_.__name__}Request")
        raise TypeError(f"no JSON Schema is known for {type_}")

    def request(self, cls: Any, known: Iterable[str] = ()) -> Schema:
        """Of the class itself, without the fields that the server fills."""
        closed = set(known)
        properties: dict[str, Schema] = {}
        required: list[str] = []
        for field in attrs.fields(attrs.resolve_types(cls, include_extras=True)):
            if field.name in closed or field.metadata.get("internal"):
                continue
            name = field.name.removesuffix("_")  # `from_` is `from` outside
            properties[name] = self._with_default(self.of(field.type), field.default)
            if field.default is attrs.NOTHING:
                required.append(name)
        needs = {"required": required} if required else {}
        closed_object = {"type": "object", "properties": properties, **needs, "additionalProperties": False}
        return {**closed_object, **self._crossed(cls), **_about(cls)}

    def _crossed(self, cls: Any) -> Schema:
        """What is said of fields that depend on each other."""
        if issubclass(cls, Create):
            given = {name: {"not": {"type": "null"}} for name in ("run_at", "delay_seconds")}
            return {"not": {"required": list(given), "properties": given}}
        if issubclass(cls, ClaimBody):
            names = ("work_directory", "work_directories")
            alone = [
                (name, other, kind) for name, other, kind in zip(names, names[::-1], ("string", "array"), strict=True)
            ]
            return {
                "oneOf": [
                    {"required": [name], "properties": {name: {"type": kind}, other: {"type": "null"}}}
                    for name, other, kind in alone
                ]
            }
        if issubclass(cls, Batch):
            each = {"properties": {"tasks": {"items": self.of(Draft)}}}
            return {"anyOf": [each, {"required": ["atomic"], "properties": {"atomic": {"const": False}}}]}
        if issubclass(cls, Many):
            named = {"ids": {"type": "array"}, "filter": {"type": "null"}, "all": {"const": False}}
            found = {"filter": {"type": "object"}, "ids": {"type": "null"}}
            return {
                "oneOf": [{"required": ["ids"], "properties": named}, {"required": ["filter"], "properties": found}]
            }
        if issubclass(cls, ChangeSettings):
            values = {it.key: self._union((it.field.type, NoneType)) for it in SETTINGS.values() if it.reloadable}
            closed = {"minProperties": 1, "properties": values, "additionalProperties": False}
            return {"allOf": [{"properties": {"changes": closed}}]}
        return {}

    def parameter(self, schema: Schema) -> Schema:
        """As part of a query, where null cannot be said, a list is parted by commas and so has at least one item."""
        while arms := [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]:
            schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **arms[0]}
        if schema.get("type") == "array":
            items = schema["items"]
            if "$ref" not in items:
                is_path = items.get("pattern") == _RULES[fields.work_directory]["pattern"]
                items = _both(items, _NO_SECOND_PATH if is_path else _NO_COMMA)
            schema = {**schema, "items": items, "minItems": 1}
        return {key: value for key, value in schema.items() if key != "default" or value not in (None, [])}

    def _component(self, cls: Any, name: str) -> Schema:
        if self._classes.setdefault(name, cls) is not cls:
            name = cls.__module__.rpartition(".")[2].title() + name
            self._classes[name] = cls
        if name not in self.components:
            self.components[name] = {}  # it may refer to itself
            self.components[name] = self._class(cls)
        return {"$ref": REFERENCE + name}

    def _class(self, cls: Any) -> Schema:
        if issubclass(cls, Enum):
            return {"type": "string", "enum": [member.value for member in cls]}
        return self.answer(cls) if is_answer(cls) else self.request(cls)

    def answer(self, cls: Any) -> Schema:
        hints = get_type_hints(cls, include_extras=True)
        properties = {name: self._moment(name, self.of(hint)) for name, hint in hints.items()}
        required = sorted(cls.__required_keys__, key=list(hints).index)
        needs = {"required": required} if required else {}
        return {"type": "object", "properties": properties, **needs, **_about(cls)}

    def _moment(self, name: str, schema: Schema) -> Schema:
        """In answers every time has the same form, and a name that says so."""
        if not (
            name.endswith(("_at", "_until", "_since")) or name in ("at", "timestamp", "last_checked", "from", "to")
        ):
            return schema
        if schema.get("type") == "string":
            return {**schema, "format": "date-time"}
        if "anyOf" in schema:
            return {**schema, "anyOf": [self._moment(name, arm) for arm in schema["anyOf"]]}
        return schema

    def _union(self, arms: Sequence[Any]) -> Schema:
        schemas = [self.of(arm) for arm in arms if arm is not Unset]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def _ruled(self, base: Any, rules: Sequence[Any]) -> Schema:
        form = next((rule.form for rule in rules if isinstance(rule, Wire | Later)), base)
        schema = self.of(form)
        is_list = schema.get("type") == "array"
        for rule in rules:
            schema = _both(schema, _rule(rule, is_list))
        if any(isinstance(rule, Listed) for rule in rules):
            schema = {"anyOf": [schema, schema["items"]]}
        return schema

    def _with_default(self, schema: Schema, default: Any) -> Schema:
        if default is attrs.NOTHING or isinstance(default, Unset):
            return schema
        value = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
        if value is None and not _takes_null(schema):
            return schema
        if isinstance(value, Enum):
            value = value.value
        return {**schema, "default": list(value) if isinstance(value, tuple) else value}


def _takes_null(schema: Schema) -> bool:
    return {"type": "null"} in schema.get("anyOf", ())


def _rule(rule: Any, is_list: bool) -> Schema:
    match rule:
        case Ge(ge=limit):
            return {"minimum": limit}
        case Gt(gt=limit):
            return {"exclusiveMinimum": limit}
        case Le(le=limit):
            return {"maximum": limit}
        case Lt(lt=limit):
            return {"exclusiveMaximum": limit}
        case MinLen(min_length=limit):
            return {"minItems" if is_list else "minLength": limit}
        case MaxLen(max_length=limit):
            return {"maxItems" if is_list else "maxLength": limit}
        case MaxBytes(limit=limit):
            return {"description": f"At most {limit} bytes, as UTF-8 or as compact JSON."}
        case Rule(check=check) | Wire(read=check):
            return {"description": inspect.cleandoc(check.__doc__ or "").split("\n")[0], **_RULES.get(check, {})}
        case Listed() | Later():
            return {}
    raise TypeError(f"no JSON Schema is known for the rule {rule!r}")


def _both(schema: Schema, other: Schema) -> Schema:
    """What satisfies both; two patterns cannot stand in one schema."""
    merged = {**schema, **other}
    if "pattern" in schema and "pattern" in other:
        merged["pattern"] = schema["pattern"]
        merged["allOf"] = [*schema.get("allOf", ()), {"pattern": other["pattern"]}]
    if schema.get("description") and other.get("description"):
        merged["description"] = f"{schema['description']} {other['description']}"
    return merged


def _about(cls: Any) -> Schema:
    text = cls.__dict__.get("__doc__") or ""
    return {"description": inspect.cleandoc(text)} if text and not text.startswith("dict(") else {}
