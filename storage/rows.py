"""Tasks and history entries as rows, and back. A column bears the name of its field."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, get_type_hints

import orjson
from attrs import fields

from dispatcher.audit import AuditEntry
from dispatcher.configuration import ConfigVersion
from dispatcher.directory import Directory
from dispatcher.fields import Priority, to_json
from dispatcher.keys import Key
from dispatcher.ports import Entry
from dispatcher.task import Status, Task

Row = tuple[Any, ...]

RANKED = sorted(Priority, key=lambda priority: priority.rank)


def _or_null(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


Conversions = dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]

PRIORITY = (lambda priority: priority.rank, RANKED.__getitem__)
JSON = (to_json, orjson.loads)
JSON_OR_NULL = (_or_null(to_json), _or_null(orjson.loads))
BOOLEAN = (bool, bool)
STRINGS = (to_json, lambda text: tuple(orjson.loads(text)))


class Table:
    """How one class of values lies in one table. `convert`: to and from SQL, where they differ."""

    def __init__(self, name: str, cls: type, convert: Conversions) -> None:
        self._cls = cls
        self.columns = [field.name for field in fields(cls)]
        self.types = {name: type for name, type in get_type_hints(cls).items() if name in self.columns}
        self._values = attrgetter(*self.columns)
        self._write = [(self.columns.index(name), write) for name, (write, _) in convert.items()]
        self._read = [(self.columns.index(name), read) for name, (_, read) in convert.items()]
        self.names = ", ".join(f"{name}.{column}" for column in self.columns)
        self.select = f"select {self.names} from {name}"

    def row(self, value: Any) -> list[Any]:
        row = list(self._values(value))
        for place, write in self._write:
            row[place] = write(row[place])
        return row

    def value(self, row: Iterable[Any]) -> Any:
        values = list(row)
        for place, read in self._read:
            values[place] = read(values[place])
        return self._cls(**dict(zip(self.columns, values, strict=True)))


TASKS = Table(
    "tasks",
    Task,
    {
        "priority": PRIORITY,
        "status": (str, Status),
        "tags": STRINGS,
        "depends_on": STRINGS,
        "unmet": STRINGS,
        "has_dependants": BOOLEAN,
        "auto_retry": BOOLEAN,
        "ready": BOOLEAN,
        "progress": JSON_OR_NULL,
        "result": JSON_OR_NULL,
    },
)
HISTORY = Table(
    "history",
    Entry,
    {
        "priority": (_or_null(PRIORITY[0]), _or_null(PRIORITY[1])),
        "status": (_or_null(str), _or_null(Status)),
        "details": JSON,
    },
)
AUDIT = Table("audit", AuditEntry, {})
KEYS = Table("keys", Key, {"scopes": STRINGS, "work_directories": STRINGS})
CONFIG = Table("config_versions", ConfigVersion, {"changes": JSON, "runtime": JSON})
DIRECTORIES = Table("work_directories", Directory, {"paused": BOOLEAN, "draining": BOOLEAN})
