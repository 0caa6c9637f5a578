"""What a filter asks for, in SQL: conditions on a task `t`. Values are parameters."""

from collections.abc import Iterable
from typing import Any

from dispatcher.record import Filter
from storage.texts import fold

HAS_TAG = """exists (
    select 1 from task_tags as g where g.tag {}
    and g.work_directory = t.work_directory and g.arrival = t.arrival)"""
HOLDS_TEXT = "strpos(coalesce(t.folded, t.prompt), {}) > 0"


class Values(list[Any]):
    """The parameters of a statement."""

    def put(self, value: Any) -> str:
        """How the statement names it."""
        self.append(value)
        return f"${len(self)}"


def conditions(only: Filter, values: Values) -> str:
    """All but the text."""
    return " and ".join(_terms(only, values)) or "true"


def holds_text(only: Filter, values: Values) -> str:
    return "true" if only.text is None else HOLDS_TEXT.format(values.put(fold(only.text)))


def _terms(only: Filter, values: Values) -> Iterable[str]:
    lists = (
        ("t.status", only.statuses, "text[]"),
        ("t.work_directory", only.work_directories, "text[]"),
        ("t.priority", [priority.rank for priority in only.priorities], "smallint[]"),
        ("t.worker_id", only.worker_ids, "text[]"),
    )
    for column, wanted, type in lists:
        if len(wanted) == 1:
            yield f"{column} = {values.put(wanted[0])}"
        elif wanted:
            yield f"{column} = any({values.put(list(wanted))}::{type})"
    if only.tags and only.tag_mode == "any":
        yield HAS_TAG.format(f"= any({values.put(list(only.tags))}::text[])")
    elif only.tags:
        for tag in only.tags:
            yield HAS_TAG.format(f"= {values.put(tag)}")
    if only.created_after is not None:
        yield f"t.created_at > {values.put(only.created_after)}"
    if only.created_before is not None:
        yield f"t.created_at < {values.put(only.created_before)}"
