"""JSON Schema for models, who pay for every word of it: what is asked and answered, without what they can do without.

The rules are those of web/schemas.py; a pattern, or how fields exclude each other, is told by the error instead.
"""

from collections.abc import Mapping
from typing import Any

from web.mcp.bodies import NamedTask
from web.schemas import REFERENCE, Schema, Schemas

ABOUT: Mapping[str, str] = {
    "work_directory": "Absolute path.",
    "worker_id": "Your own name, always the same, so that you get back what you already hold.",
    "prompt": "Must stand on its own: the worker sees nothing else.",
    "claim_next": "Claim another task at once.",
    "original_prompt": "The task's prompt, to be compared.",
    "q": "Text in the prompt.",
    "depends_on": "task_ids that must be completed first.",
    "ref": "A name; others of the batch may depend on ref:NAME.",
    "idempotency_key": "The same again gets the same task.",
    "retryable": "Overrules auto_retry.",
    "force": "Also while somebody works on it.",
    "cursor": "next_cursor of the page before.",
}
KEPT = ("type", "enum", "format", "minimum", "maximum", "maxLength", "maxItems")


def of_request(cls: Any, *, names_task: bool) -> Schema:
    schemas = Schemas()
    schema = schemas.request(cls, ("task_id",) if names_task else ())
    if names_task:
        named = schemas.request(NamedTask)
        schema["properties"] = named["properties"] | schema["properties"]
        schema["required"] = [*named["required"], *schema.get("required", ())]
    return _brief(schema, schemas.components)


def of_answer(cls: Any) -> Schema:
    schemas = Schemas()
    return _brief(schemas.answer(cls), schemas.components)


def _brief(schema: Mapping[str, Any], components: Mapping[str, Schema]) -> Schema:
    if reference := schema.get("$ref"):
        return _brief(components[reference.removeprefix(REFERENCE)], components)
    if arms := [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]:
        return _brief(arms[0], components) | _default(schema)
    brief = {key: schema[key] for key in KEPT if key in schema} | _default(schema)
    if properties := schema.get("properties"):
        brief["properties"] = {name: _named(name, it, components) for name, it in properties.items()}
        brief |= {key: schema[key] for key in ("required", "additionalProperties") if key in schema}
    if items := schema.get("items"):
        brief["items"] = _brief(items, components)
    return brief


def _named(name: str, schema: Schema, components: Mapping[str, Schema]) -> Schema:
    about = {"description": ABOUT[name]} if name in ABOUT else {}
    return _brief(schema, components) | about


def _default(schema: Mapping[str, Any]) -> Schema:
    return {"default": schema["default"]} if schema.get("default") not in (None, [], {}, False, 0) else {}
