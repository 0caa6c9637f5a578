"""Makes attrs classes of parsed JSON, after the rules in their annotations.

Nothing is coerced, nothing unknown is let through, and every fault is named with its path. cattrs writes the reading
function of each class; the hooks here say what a type accepts. A class may close fields to the outside with the
metadata `{"internal": True}`, and may check fields against each other in a method `faults(self) ->
Iterable[tuple[str, str]]`, which is asked once each field is right by itself. A field whose name Python keeps for
itself bears an underscore: `from_` is `from` outside.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import IntEnum, StrEnum
from functools import cache
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs
import orjson
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from dispatcher.fields import Later, Listed, MaxBytes, Rule, Unset, Wire

Hook = Callable[[Any, Any], Any]  # (value, type) -> the type's own; raises ValueError(reason), of parts Invalid
Check = Callable[[Any], Any]

FAULTS_MAX = 50
_NAME_SHOWN = 100
_SCALAR = re.compile(r"true|false|-?(0|[1-9]\d{0,19})(\.\d{1,20})?", re.ASCII)
_NOT_UTF8 = re.compile("[\ud800-\udfff\ufffd]")  # what decoders leave in place of bad bytes
_KINDS = {NoneType: "null", bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
_KINDS |= {list: "a list", dict: "an object"}


@attrs.frozen
class Fault:
    """`field` is a path such as `tasks[3].tags[0]`, or `body` for the whole."""

    field: str
    reason: str


class Invalid(ValueError):
    """The values break the rules; `faults` are the first FAULTS_MAX breaches."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(islice(faults, FAULTS_MAX))
        super().__init__("; ".join(f"{fault.field}: {fault.reason}" for fault in self.faults))


class Text(str):
    """A value of any type where all is text: in a query, an environment variable, a command line."""

    __slots__ = ()


def within(outer: str, error: ValueError) -> Iterator[Fault]:
    """The faults of a part, with their paths as seen from the whole."""
    if not isinstance(error, Invalid):
        yield Fault(outer, str(error))
        return
    for fault in error.faults:
        dot = "" if not outer or fault.field.startswith("[") else "."
        yield Fault(f"{outer}{dot}{fault.field}", fault.reason)


def _wrong(expected: str, value: object) -> ValueError:
    if type(value) is Text:
        return ValueError(f"must be {expected}")
    return ValueError(f"must be {expected}, not {_KINDS.get(type(value), type(value).__name__)}")


# Values without parts.


def _scalar(expected: str, *kinds: type) -> Hook:
    def read(value: Any, _: Any) -> Any:
        if type(value) is Text and _SCALAR.fullmatch(value):
            value = orjson.loads(str(value))
        if type(value) not in kinds:
            raise _wrong(expected, value)
        if type(value) is float and not math.isfinite(value):  # TOML knows nan and inf
            raise ValueError("must be a finite number")
        return value

    return read


def _string(value: Any, _: Any) -> str:
    if type(value) is Text:
        if _NOT_UTF8.search(value):
            raise ValueError("must be valid UTF-8")
        return str(value)
    if type(value) is not str:
        raise _wrong("a string", value)
    return value


def _choice(choices: Mapping[str, Any]) -> Hook:
    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices[value]

    return read


@cache
def _enum(enum: type[StrEnum]) -> Hook:
    return _choice({member.value: member for member in enum})


def _json(value: Any, _: Any) -> Any:
    return _string(value, str) if type(value) is Text else value


def _json_object(value: Any, _: Any) -> Any:
    if type(value) is not dict:
        raise _wrong("an object", value)
    return value


# Values with parts, and values with rules.


def _optional(type_: Any) -> Hook:
    arms = get_args(type_)
    some, *others = (arm for arm in arms if arm not in (NoneType, Unset))
    if others:
        raise TypeError(f"cannot tell the arms of {type_} apart")
    hook = _converter.get_structure_hook(some)
    if NoneType not in arms:
        return lambda value, _: hook(value, some)
    return lambda value, _: None if value is None else hook(value, some)


def _tuple(type_: Any) -> Hook:
    item = get_args(type_)[0]
    hook = _converter.get_structure_hook(item)

    def faults(values: list[Any]) -> Iterator[Fault]:
        for index, value in enumerate(values):
            try:
                hook(value, item)
            except ValueError as error:
                yield from within(f"[{index}]", error)

    def read(value: Any, _: Any) -> Any:
        if type(value) is Text:
            value = [Text(part) for part in value.split(",")]
        if type(value) is not list:
            raise _wrong("a list", value)
        try:
            return tuple([hook(element, item) for element in value])
        except ValueError:
            raise Invalid(faults(value)) from None

    return read


def _annotated(type_: Any) -> Hook:
    base, *rules = get_args(type_)
    form = next((rule.form for rule in rules if isinstance(rule, Wire)), base)
    hook = _converter.get_structure_hook(form)
    checks = [_check(rule, base) for rule in rules if not isinstance(rule, Listed | Later)]
    # A list that is too long is refused before its items are looked at.
    early = [_check(rule, base) for rule in rules if isinstance(rule, MaxLen)]
    listed = next((rule for rule in rules if isinstance(rule, Listed)), None)

    def read(value: Any, _: Any) -> Any:
        is_text = listed and isinstance(value, str)
        if listed and is_text:
            value = [Text(part) for part in listed.split(value)] if type(value) is Text else [value]
        if type(value) is list:
            for check in early:
                check(value)
        try:
            made = hook(value, form)
        except Invalid as error:
            if is_text and len(value) == 1:  # it was not written as a list, so that no place in it is named
                raise ValueError(error.faults[0].reason) from None
            raise
        for check in checks:
            made = check(made)
        return made

    return read


@cache
def reader(cls: Any, known: tuple[str, ...] = ()) -> Hook:
    """The hook that makes a `cls` of a dict, in which the `known` fields are taken as they are."""
    fields = attrs.fields(attrs.resolve_types(cls))
    closed: dict[str, Any] = {field.name: override(omit=True) for field in fields if field.metadata.get("internal")}
    closed |= {name: override(struct_hook=lambda value, _: value) for name in known}
    names = [outside(field.name) for field in fields if field.name not in closed]
    closed |= {field.name: override(rename=outside(field.name)) for field in fields if field.name.endswith("_")}
    build = make_dict_structure_fn(cls, _converter, **closed)
    cross_check = getattr(cls, "faults", lambda _: ())

    def read(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _wrong("an object", value)
        try:
            made = build(value, cls)
        except ClassValidationError as error:
            raise Invalid(_faults(error, names)) from None
        if faults := [Fault(*fault) for fault in cross_check(made)]:
            raise Invalid(faults)
        return made

    return read


def outside(name: str) -> str:
    """What a field is called on the wire."""
    return name.removesuffix("_")


def _faults(error: ClassValidationError, names: list[str]) -> Iterator[Fault]:
    """What cattrs collected while it read the fields `names`; anything but a fault is raised again."""
    named, others = error.group_exceptions()
    for cause, note in named:
        name = outside(note.name)
        if isinstance(cause, KeyError) and cause.args == (name,):
            yield Fault(name, "is required")
        elif isinstance(cause, ValueError):
            yield from within(name, cause)
        else:
            raise cause
    for cause in others:
        if not isinstance(cause, ForbiddenExtraKeysError):
            raise cause
        for name in sorted(islice(cause.extra_fields, FAULTS_MAX)):
            near = get_close_matches(name[:_NAME_SHOWN], names, n=1)
            yield Fault(name[:_NAME_SHOWN], "unknown field" + (f", did you mean {near[0]!r}?" if near else ""))


# The rules.


def _check(rule: object, base: Any) -> Check:
    unit = " items" if get_origin(base) is tuple else " characters"
    match rule:
        case Rule(check=check) | Wire(read=check):
            return check
        case Ge(ge=limit):
            return _bound("at least", operator.ge, limit)
        case Gt(gt=limit):
            return _bound("greater than", operator.gt, limit)
        case Le(le=limit):
            return _bound("at most", operator.le, limit)
        case Lt(lt=limit):
            return _bound("less than", operator.lt, limit)
        case MinLen(min_length=limit):
            return _bound("at least", operator.ge, limit, unit, len)
        case MaxLen(max_length=limit):
            return _bound("at most", operator.le, limit, unit, len)
        case MaxBytes(limit=limit):
            return _bound("at most", operator.le, limit, " bytes", _text_size if base is str else _json_size)
    raise TypeError(f"nobody applies the rule {rule!r}")


def _bound(
    words: str, holds: Callable[[Any, Any], bool], limit: Any, unit: str = "", measure: Check | None = None
) -> Check:
    def check(value: Any) -> Any:
        size = measure(value) if measure else value
        if not holds(size, limit):
            raise ValueError(f"must be {words} {limit}{unit}, is {size}")
        return value

    return check


def _text_size(value: str) -> int:
    return len(value.encode())


def _json_size(value: object) -> int:
    """Bytes of compact JSON; what could not be written into an answer is refused."""
    try:
        # orjson writes 254 levels, and an answer puts up to eight of its own around a value.
        return len(orjson.dumps([[[[[[[[value]]]]]]]])) - 16
    except TypeError:
        raise ValueError("must not contain integers beyond 64 bits, nor be nested 246 levels deep") from None


def _unreadable(type_: Any) -> Hook:
    raise TypeError(f"cannot read a {type_}")


def _of(*origins: Any) -> Callable[[Any], bool]:
    return lambda type_: get_origin(type_) in origins


_converter = Converter(detailed_validation=True, forbid_extra_keys=True)
_converter.register_structure_hook(str, _string)
_converter.register_structure_hook(bool, _scalar("true or false", bool))
_converter.register_structure_hook(int, _scalar("an integer", int))
_converter.register_structure_hook(float, _scalar("a number", int, float))
_converter.register_structure_hook(StrEnum, lambda value, enum: _enum(enum)(value, enum))
# cattrs asks the last registered first, and so never comes to its own, lenient hooks.
for _lenient in (bytes, IntEnum, Path):
    _converter.register_structure_hook(_lenient, lambda _, type_: _unreadable(type_))
_converter.register_structure_hook_factory(lambda _: True, _unreadable)
_converter.register_structure_hook_func(lambda type_: type_ is object, _json)
_converter.register_structure_hook_func(lambda type_: type_ == Mapping[str, object], _json_object)
_converter.register_structure_hook_factory(_of(Literal), lambda type_: _choice({w: w for w in get_args(type_)}))
_converter.register_structure_hook_factory(_of(Union, UnionType), _optional)
_converter.register_structure_hook_factory(_of(tuple), _tuple)
_converter.register_structure_hook_factory(_of(Annotated), _annotated)
_converter.register_structure_hook_factory(attrs.has, lambda cls: reader(cls))
