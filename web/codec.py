"""JSON bodies and query strings to attrs classes, and back to JSON. What a class accepts is told in web/strict.py."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import attrs
import orjson
from multidict import MultiMapping

from web.strict import Fault, Hook, Invalid, Text, reader, within

__all__ = ["Fault", "Invalid", "Malformed", "Text", "decode", "decode_query", "encode", "rfc3339", "structure"]

T = TypeVar("T", bound=attrs.AttrsInstance)

_LONG_INTEGER = b"0" * 19  # the shortest that may not fit into 64 bits
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_reader: Callable[[Any, tuple[str, ...]], Hook] = reader


class Malformed(ValueError):
    """The body is not JSON."""


def decode(body: bytes | bytearray, into: type[T], **known: object) -> T:
    """Read a JSON object. The caller gives the `known` fields, so they are refused from the body.

    An empty body counts as `{}` if no field is required. Raises Malformed or Invalid.
    """
    if not body and not _required(into) - known.keys():
        return _read({}, into, known)
    return _read(_parse(body), into, known)


def decode_query(query: MultiMapping[str], into: type[T], **known: object) -> T:
    """Read query parameters; a list is comma-separated, and nothing may be given twice. Raises Invalid."""
    # A name that is not UTF-8 is unknown like any other, but must not spoil the answer that says so.
    given = [(name.encode(errors="replace").decode(), Text(value)) for name, value in query.items()]
    times = Counter(name for name, _ in given)
    repeated = [Fault(name, "must be given only once") for name in times if times[name] > 1]
    return _read(dict(given), into, known, repeated)


def structure(value: object, into: type[T], **known: object) -> T:
    """Read a value as JSON or TOML parse it, where `Text` may stand for any scalar or list; the `known` fields are
    given as for decode. Raises Invalid."""
    return _read(value, into, known)


def encode(value: object) -> bytes:
    """Plain values, `StrEnum`s too, as compact JSON."""
    return orjson.dumps(value)


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as `2026-01-01T00:00:00.000Z`."""
    seconds, ms = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{ms:03}Z"


@lru_cache(maxsize=512)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def _parse(body: bytes | bytearray) -> object:
    try:
        value = orjson.loads(body)
        if _LONG_INTEGER in body.translate(_DIGITS_TO_ZERO):
            # orjson makes floats of integers beyond 64 bits; json keeps them, so that the rules can refuse them.
            value = json.loads(body, parse_int=lambda digits: int(digits[:40]))
    except ValueError as error:
        raise Malformed(str(error)) from None
    except RecursionError:
        raise Malformed("nested too deep") from None
    return value


def _required(cls: type[T]) -> set[str]:
    return {field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING}


def _read(value: object, into: type[T], known: dict[str, object], faults: Iterable[Fault] = ()) -> T:
    """Make an `into` of `value`, in which the caller has found `faults` already."""
    found = list(faults)
    if known and isinstance(value, dict):
        found += [Fault(name, "unknown field") for name in known if name in value]
        value = {**value, **known}
    try:
        made: T = _reader(into, tuple(known))(value, into)
    except ValueError as error:
        found += [Fault(fault.field or "body", fault.reason) for fault in within("", error)]
    if found:
        raise Invalid(found)
    return made
