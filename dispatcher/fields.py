"""The types of the fields that cross the wire, each with its rules.

A type is `Annotated[base, rule, ...]`. Bounds are those of annotated_types, with lengths in characters or items;
`MaxBytes`, `Rule` and `Wire` say the rest. Whoever decodes a message applies the rules in order. A check raises
ValueError with a reason that completes "the field ...", and the first line of its docstring describes the rule.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal

import orjson
from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from attrs import frozen

TASK_ID = re.compile("[A-Za-z0-9_-]{1,100}")
KEY_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._@:+-]{0,99}")

KEY_NAMES_TAKEN = ("api_key", "anonymous")  # the key that is a setting, and who has none

_IPV4 = re.compile(r"[0-9]+(\.[0-9]+){3}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NEXT_PATH = re.compile(r",(?=/|[A-Za-z]:[\\/])")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = 253_402_300_800_000
_MILLISECOND = timedelta(milliseconds=1)


REF = "ref:"
METADATA_BYTES_MAX = 64 * 1024


class Unset(Enum):
    """The type of UNSET, the value of a field that was not given, where null means something else."""

    UNSET = "unset"


UNSET = Unset.UNSET


@frozen
class Rule:
    """`check` returns the value in its normal form, or raises ValueError(reason)."""

    check: Callable[[Any], Any]


@frozen
class Wire:
    """On the wire the value is a `form`; `read` makes the domain's value of it, or raises ValueError(reason)."""

    form: type
    read: Callable[[Any], Any]


@frozen
class Listed:
    """Of a tuple: one value may stand for a list of one, and `split` finds the items of a list written as text."""

    split: Callable[[str], Sequence[str]]


@frozen
class Later:
    """Whoever handles the value reads it as a `form`, and finds what is wrong with it."""

    form: Any


@frozen
class MaxBytes:
    """A string's length in UTF-8, any other value's as compact JSON."""

    limit: int


def work_directory(path: str) -> str:
    """An absolute POSIX or Windows path in normal form: `/a/./b//` is `/a/b`, `c:/app/` is `C:\\app`."""
    if _CONTROL.search(path):
        raise ValueError("must not contain control characters")
    if path.startswith("/"):
        root, separator, rest = "/", "/", path
    elif _DRIVE.match(path):
        root, separator, rest = path[0].upper() + ":\\", "\\", path[3:].replace("/", "\\")
    else:
        raise ValueError(r"must be an absolute path such as /srv/app or C:\app")
    parts = [part for part in rest.split(separator) if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("must not contain '..'")
    return root + separator.join(parts)


def directory_pattern(pattern: str) -> str:
    """A work directory in which `*` stands for any characters, slashes too, and `?` for one; it may begin with `*`."""
    if not pattern.startswith("*"):
        return work_directory(pattern)
    if _CONTROL.search(pattern):
        raise ValueError("must not contain control characters")
    return pattern


def key_name(name: str) -> str:
    """1 to 100 letters, digits and `. _ @ : + -`, a letter or digit first; not `api_key`, `anonymous` or an address."""
    if not KEY_NAME.fullmatch(name):
        raise ValueError("must be 1 to 100 letters, digits and . _ @ : + -, the first one a letter or digit")
    if name in KEY_NAMES_TAKEN or _IPV4.fullmatch(name):
        raise ValueError(f"must not be {name}, which means another caller")
    return name


def text(value: str) -> str:
    """Any characters but NUL, which PostgreSQL cannot store and SQLite's JSON functions cut at."""
    if "\0" in value:
        raise ValueError("must not contain NUL characters")
    return value


def not_blank(value: str) -> str:
    """Something besides white space."""
    if not value or value.isspace():
        raise ValueError("must not be blank")
    return value


def task_id(value: str) -> str:
    """The id of a task, as its creation was answered with."""
    if not TASK_ID.fullmatch(value):
        raise ValueError("must be a task_id")
    return value


def task_id_or_ref(value: str) -> str:
    """The id of a task, or `ref:NAME` for another one of the same batch."""
    return value if value.startswith(REF) and len(value) > len(REF) else task_id(value)


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """No value twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"must not contain {str(value)!r} twice")
        seen.add(value)
    return values


def instant(value: str) -> int:
    """An RFC 3339 time with an offset, in the years 1970 to 9999.

    Returns milliseconds since the epoch; finer digits are cut.
    """
    if not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-01-01T00:00:00Z")
    try:
        ms = (datetime.fromisoformat(value.upper()) - _EPOCH) // _MILLISECOND
    except ValueError as error:
        raise ValueError(f"must be a time that exists: {error}") from None
    if not 0 <= ms < _YEAR_10000:
        raise ValueError("must be between the years 1970 and 9999")
    return ms


def by_comma(text: str) -> list[str]:
    return text.split(",")


def by_path(text: str) -> list[str]:
    """A comma parts two paths only where the second one begins."""
    return _NEXT_PATH.split(text)


def to_json(value: object) -> str:
    return orjson.dumps(value).decode()


class Priority(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """0 to 2: the higher, the more urgent."""
        return _RANKS[self.value]


_RANKS = {priority.value: rank for rank, priority in enumerate(Priority)}

WorkDirectory = Annotated[str, MaxLen(512), Rule(work_directory)]
DirectoryPattern = Annotated[str, MinLen(1), MaxLen(512), Rule(directory_pattern)]
KeyName = Annotated[str, Rule(key_name)]
Prompt = Annotated[str, MaxLen(10_000), Rule(not_blank), Rule(text)]
Tag = Annotated[str, MinLen(1), MaxLen(100), Rule(text)]
Tags = Annotated[tuple[Tag, ...], MaxLen(50), Rule(distinct)]
TaskId = Annotated[str, Rule(task_id)]
DependsOn = Annotated[tuple[TaskId, ...], MaxLen(100), Rule(distinct)]
Ref = Annotated[str, MinLen(1), MaxLen(100), Rule(text)]
DependsOnInBatch = Annotated[tuple[Annotated[str, MaxLen(104), Rule(task_id_or_ref)], ...], MaxLen(100), Rule(distinct)]
OnDependencyFailure = Literal["wait", "cancel", "run"]
WorkerId = Annotated[str, MinLen(1), MaxLen(100), Rule(text)]
LogLine = Annotated[str, MaxBytes(8 * 1024), Rule(text)]
LogLines = Annotated[tuple[LogLine, ...], MinLen(1), MaxLen(1000)]
LeaseToken = Annotated[str, MinLen(1), MaxLen(200), Rule(text)]
ClaimId = Annotated[str, MinLen(1), MaxLen(200), Rule(text)]
ErrorMessage = Annotated[str, MaxBytes(16 * 1024), Rule(text)]
Reason = Annotated[str, MaxLen(500), Rule(text)]
ProgressMessage = Annotated[str, MaxLen(500), Rule(text)]

# Free JSON is opaque to the domain, hence `object`.
Json = Annotated[object, MaxBytes(1024 * 1024)]
JsonObject = Annotated[Mapping[str, object], MaxBytes(METADATA_BYTES_MAX)]

# Durations in seconds may have a fraction.
Seconds = Annotated[float, Gt(0), Le(31_536_000)]
LeaseSeconds = Annotated[float, Gt(0), Le(86_400)]
DelaySeconds = Annotated[float, Ge(0), Le(31_536_000)]
RetryDelaySeconds = Annotated[float, Ge(0), Le(3_600)]
WaitSeconds = Annotated[float, Ge(0), Le(60)]
Instant = Annotated[int, Wire(str, instant)]

MaxWorking = Annotated[int, Ge(1), Le(100_000)]
MaxRetries = Annotated[int, Ge(0), Le(100)]
Percent = Annotated[float, Ge(0), Le(100)]
ClaimLimit = Annotated[int, Ge(1), Le(100)]
PageLimit = Annotated[int, Ge(1), Le(1_000)]
Offset = Annotated[int, Ge(0), Le(2**63 - 1)]
