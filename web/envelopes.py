"""The envelope around every answer, and what each refusal looks like in it, as the description tells them."""

from collections.abc import Sequence

from web.answers import REQUEST_ID
from web.examples import NOW
from web.operations import JSON
from web.refusals import REFUSALS, Refusal
from web.schemas import Schema, Schemas

TEXT = {"type": "string"}


def refusal(names: Sequence[str]) -> Schema:
    """One status, and the codes that may come with it."""
    described = [REFUSALS[name] for name in names]
    headers = {header for it in described for header in it.headers}
    references = [{"$ref": f"#/components/schemas/Refused_{name}"} for name in names]
    return {
        "description": " ".join(
            f"`{it.code or name}`: {it.meaning}." for name, it in zip(names, described, strict=True)
        ),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in (REQUEST_ID, *sorted(headers))},
        "content": {
            JSON: {
                "schema": references[0] if len(references) == 1 else {"anyOf": references},
                "examples": {name: {"$ref": f"#/components/examples/{name}"} for name in names},
            }
        },
    }


def refused(name: str, refusal: Refusal, schemas: Schemas) -> Schema:
    code, details = refusal.code or name, schemas.of(refusal.details)
    error = {"properties": {"code": {"const": code}, "details": details}}
    failure = {"$ref": "#/components/schemas/Failure"}
    return {"description": refusal.meaning + ".", "allOf": [failure, {"properties": {"error": error}}]}


def failure(name: str, refusal: Refusal) -> Schema:
    error = {"code": refusal.code or name, "message": refusal.meaning, "details": refusal.example}
    return {"success": False, "data": None, "error": error, "timestamp": NOW}


def success(data: object) -> Schema:
    return {"success": True, "data": data, "error": None, "timestamp": NOW}


def both() -> dict[str, Schema]:
    moment = {"type": "string", "format": "date-time"}
    names = ["success", "data", "error", "timestamp"]
    error = {
        "type": "object",
        "properties": {"code": TEXT, "message": TEXT, "details": {"type": "object"}},
        "required": ["code", "message", "details"],
    }

    def envelope(about: str, success: bool, **properties: Schema) -> Schema:
        fields = {"success": {"const": success}, **properties, "timestamp": moment}
        return {"type": "object", "description": about, "properties": fields, "required": names}

    return {
        "Success": envelope("What was asked for.", True, data={}, error={"type": "null"}),
        "Failure": envelope("Why not.", False, data={"type": "null"}, error=error),
    }
