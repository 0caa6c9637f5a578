"""What stands in the audit log, cut down to what may stand there."""

import re
from collections.abc import Mapping
from typing import Any

from dispatcher.fields import to_json

TEXT_MAX = 512  # characters of a text, longer ones are cut
VALUES_MAX = 100  # of a list or mapping
DEPTH_MAX = 4
DETAILS_MAX = 16 * 1024  # characters in all; beyond, only the names of the details are kept

# Control characters, what reorders or breaks lines, lone surrogates: nothing of these in a log.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text[:TEXT_MAX])


def clean_or_none(text: str | None) -> str | None:
    return None if text is None else clean(text)


def written(details: Mapping[str, object]) -> str:
    """As JSON, cut down to what may be kept."""
    text = to_json(_cut(details))
    return text if len(text) <= DETAILS_MAX else to_json({"too_long": sorted(map(clean, details))[:VALUES_MAX]})


def _cut(value: Any, depth: int = DEPTH_MAX) -> Any:
    match value:
        case None | bool() | float():
            return value
        case int():
            return value if abs(value) < 2**63 else str(value)[:TEXT_MAX]
        case dict() if depth:
            return {clean(str(name)): _cut(it, depth - 1) for name, it in list(value.items())[:VALUES_MAX]}
        case list() | tuple() if depth:
            return [_cut(it, depth - 1) for it in value[:VALUES_MAX]]
        case _:
            return clean(str(value))
