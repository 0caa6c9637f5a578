"""Many rows in one statement: an array per column, which `unnest` takes apart again."""

from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args

from dispatcher.fields import Priority
from storage.rows import Row, Table

TYPES: Mapping[object, str] = {int: "bigint", float: "double precision", bool: "boolean", Priority: "smallint"}


def types(table: Table) -> dict[str, str]:
    """What the columns of a class of values hold; whatever is none of TYPES is text, or JSON as text."""
    return {column: TYPES.get(_without_none(type), "text") for column, type in table.types.items()}


def _without_none(type: Any) -> object:
    kinds = [kind for kind in get_args(type) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 else type


def unnest(types: Sequence[str], first: int = 1) -> str:
    """The parameters from `$first` on, an array of each type."""
    return f"unnest({', '.join(f'${place}::{type}[]' for place, type in enumerate(types, first))})"


def insert(table: str, columns: Mapping[str, str]) -> str:
    return f"insert into {table} ({', '.join(columns)}) select * from {unnest([*columns.values()])}"


def delete(table: str, keys: Mapping[str, str]) -> str:
    same = " and ".join(f"{table}.{name} = u.{name}" for name in keys)
    return f"delete from {table} using {unnest([*keys.values()])} as u ({', '.join(keys)}) where {same}"


def update(
    table: str,
    keys: Mapping[str, str],
    columns: Mapping[str, str],
    where: Mapping[str, str],
    unless: Mapping[str, str] | None = None,
) -> str:
    """The values of the keys, of the columns, and of what else must be so: `where` names columns under other names.
    Last, for each column in `unless`, whether it stays as it is."""
    flags = unless or {}
    names = [*keys, *(f"new_{name}" for name in columns), *(f"was_{name}" for name in where), *flags.values()]
    types = [*keys.values(), *columns.values(), *where.values(), *("boolean" for _ in flags)]
    news = {name: f"u.new_{name}" for name in columns}
    news |= {name: f"case when u.{flag} then {table}.{name} else u.new_{name} end" for name, flag in flags.items()}
    changes = ", ".join(f"{name} = {new}" for name, new in news.items())
    terms = [f"{table}.{name} = u.{name}" for name in keys] + [f"{table}.{name} = u.was_{name}" for name in where]
    return f"update {table} set {changes} from {unnest(types)} as u ({', '.join(names)}) where {' and '.join(terms)}"


def columns(rows: Iterable[Row], width: int) -> list[Sequence[Any]]:
    """The rows as arrays, one per column."""
    return list(zip(*rows, strict=True)) or [()] * width
