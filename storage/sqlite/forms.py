"""How the tables of a record lie in a file of SQLite, against how they are moved."""

from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from storage.contents import TABLES, Key, Row
from storage.texts import fold

Convert = Callable[[Row], Row]


def as_it_is(row: Row) -> Row:
    return row


@frozen
class Form:
    """`key`: what its rows are ordered by. `columns`: those that bear another name. `written`: those that are columns
    of the table itself; none, if it follows from another. `convert`: a row as it is moved."""

    source: str
    key: tuple[str, ...]
    written: tuple[str, ...]
    columns: dict[str, str] = field(factory=dict)
    convert: Convert = as_it_is
    written_of: Convert = as_it_is

    def select(self, table: str, after: Key | None) -> str:
        key, marks = ", ".join(self.key), ", ".join("?" * len(self.key))
        columns = ", ".join(self.columns.get(name, name) for name in TABLES[table])
        behind = f"where ({key}) > ({marks})" if after else ""
        return f"select {key}, {columns} from {self.source} {behind} order by {key}"


def _form(table: str, *key: str, written: tuple[str, ...] | None = None, **given: Any) -> Form:
    names = TABLES[table] if written is None else written
    places = [TABLES[table].index(name) for name in names]
    narrow = len(names) < len(TABLES[table])
    pick = (lambda row: tuple(row[place] for place in places)) if narrow else as_it_is
    return Form(given.pop("source", table), key, names, written_of=pick, **given)


def _with_booleans(table: str, *names: str) -> Callable[[Row], list[Any]]:
    places = [TABLES[table].index(name) for name in names]

    def convert(row: Row) -> list[Any]:
        values = list(row)
        for place in places:
            values[place] = bool(values[place])
        return values

    return convert


_task = _with_booleans("tasks", "auto_retry", "ready", "has_dependants")
_directory = _with_booleans("work_directories", "paused", "draining")
_PROMPT = TABLES["tasks"].index("prompt")


def _with_folded(row: Row) -> Row:
    values = _task(row)
    prompt = values[_PROMPT]
    folded = fold(prompt)
    values[-1] = None if folded == prompt else folded
    return tuple(values)


OF_ITS_TASK = {"work_directory": "coalesce(tasks.work_directory, '')"}

FORMS = {
    "config_versions": _form("config_versions", "version"),
    "keys": _form("keys", "digest"),
    "audit": _form("audit", "number"),
    "work_directories": _form("work_directories", "work_directory", convert=lambda row: tuple(_directory(row))),
    "tasks": _form("tasks", "arrival", written=TABLES["tasks"][:-1], columns={"folded": "null"}, convert=_with_folded),
    "idempotency_keys": _form(
        "idempotency_keys",
        "idempotency_key",
        source="(select * from tasks where idempotency_key is not null)",
        columns={"key": "idempotency_key"},
        written=(),
    ),
    "ready_tags": _form("ready_tags", "work_directory", "tag", "priority", "arrival"),
    "task_tags": _form(
        "task_tags",
        "tag",
        "arrival",
        source="task_tags left join tasks using (arrival)",
        columns=OF_ITS_TASK,
        written=("tag", "arrival"),
    ),
    "dependencies": _form(
        "dependencies",
        "parent_id",
        "arrival",
        source="dependencies left join tasks using (arrival)",
        columns=OF_ITS_TASK,
        written=("parent_id", "arrival"),
    ),
    "history": _form("history", "seq", columns={"work_directory": "coalesce(work_directory, '')"}),
    "task_logs": _form(
        "task_logs",
        "arrival",
        "number",
        source="task_logs left join tasks using (arrival)",
        columns=OF_ITS_TASK | {"attempt": "task_logs.attempt"},
        written=("arrival", "number", "attempt", "at", "line"),
    ),
    "logs_left": _form("logs_left", "arrival", columns={"work_directory": "''"}, written=("arrival",)),
    "rollups": _form("rollups", "work_directory", "span", "at"),
    "additions": _form("additions", "number"),
    "webhook": _form("webhook", "seq"),
    "last_numbers": _form("last_numbers", "only_row"),
}


def _insert(table: str) -> str | None:
    if table == "last_numbers":
        return "update last_numbers set arrival = ?, seq = ?"
    if table == "webhook":
        return "insert into webhook values (1, ?)"
    names = FORMS[table].written
    marks = ["nullif(?, '')" if (table, name) == ("history", "work_directory") else "?" for name in names]
    return f"insert into {table} ({', '.join(names)}) values ({', '.join(marks)})" if names else None


INSERTS = {table: _insert(table) for table in TABLES}
