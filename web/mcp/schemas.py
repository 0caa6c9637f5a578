"""JSON Schema for models, who pay for every word of it: what is asked and answered, without what they can do without.

The rules are those of web/schemas.py; a pattern, or how fields exclude each other, is told by the error instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from web.mcp.answers import NOTHING
from web.mcp.bodies import NamedTask
from web.schemas import REFERENCE, Schema, Schemas

ABOUT: Mapping[str, str] = {
    "work_directory": "Absolute path.",
    "prompt": "Must stand on its own: the worker sees nothing else.",
    "claim_next": "Claim another task at once.",
    "original_prompt": "The task's prompt, to be compared.",
    "q": "Text in the prompt.",
    "depends_on": "task_ids that must be completed first.",
    "retryable": "Overrules auto_retry.",
    "force": "Also while somebody works on it.",
    "cursor": "next_cursor of the page before.",
}
NULL = {"type": "null"}
ASKED = ("type", "enum", "format", "minimum", "maximum", "maxLength", "maxItems", "default", "additionalProperties")


@frozen
class _Brief:
    """`keywords`: those that are kept as they are. Nulls are none that need be said in a request."""

    components: Mapping[str, Schema]
    keywords: Sequence[str] = ()
    about: Mapping[str, str] = field(factory=dict)

    def of(self, schema: Mapping[str, Any]) -> Schema:
        if reference := schema.get("$ref"):
            return self.of(self.components[reference.removeprefix(REFERENCE)] | _default(schema))
        arms = [arm for arm in schema.get("anyOf", ()) if arm != NULL] if "type" not in schema else []
        if arms:
            brief = self.of(arms[0] | _default(schema))
            is_null_told = NULL in schema["anyOf"] and "default" not in self.keywords
            return brief | {"type": [brief["type"], "null"]} if is_null_told else brief
        brief = {key: schema[key] for key in ("type", *self.keywords) if schema.get(key) not in NOTHING}
        if properties := schema.get("properties"):
            brief["properties"] = {name: self._named(name, it) for name, it in properties.items()}
        if required := schema.get("required"):
            brief["required"] = required
        if schema.get("type") == "array":
            brief["items"] = self.of(schema["items"] or {"type": "object"})
        return brief

    def _named(self, name: str, schema: Schema) -> Schema:
        return self.of(schema) | ({"description": self.about[name]} if name in self.about else {})


def of_request(cls: Any, *, names_task: bool) -> Schema:
    schemas = Schemas()
    schema = schemas.request(cls, ("task_id",) if names_task else ())
    if names_task:
        named = schemas.request(NamedTask)
        schema["properties"] = named["properties"] | schema["properties"]
        schema["required"] = [*named["required"], *schema.get("required", ())]
    return _Brief(schemas.components, ASKED, ABOUT).of(schema)


def of_answer(cls: Any) -> Schema:
    schemas = Schemas()
    schema = schemas.answer(cls)
    return _Brief(schemas.components).of(schema)


def _default(schema: Mapping[str, Any]) -> Schema:
    return {"default": schema["default"]} if "default" in schema else {}
