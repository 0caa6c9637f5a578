"""What of the audit log is asked for, as SQL that all databases know."""

from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.audit import AuditFilter
from storage.rows import AUDIT

LAST = "select number, hash from audit order by number desc limit 1"


def page_of(
    only: AuditFilter, limit: int, after: int | None, before: int | None, mark: Callable[[int], str]
) -> tuple[str, Sequence[Any]]:
    """The statement and its values; `mark` stands for the value of that number."""
    values: list[Any] = []

    def marked(value: Any) -> str:
        values.append(value)
        return mark(len(values))

    terms = [
        f"{column} {sign} {marked(value)}"
        for column, sign, value in (
            ("number", ">", after),
            ("number", "<", before),
            ("who", "=", only.who),
            ("at", ">=", only.since),
            ("at", "<", only.until),
        )
        if value is not None
    ]
    for column, wanted in (("action", only.actions), ("outcome", only.outcomes)):
        if wanted:
            terms.append(f"{column} in ({', '.join(map(marked, wanted))})")
    where = f"where {' and '.join(terms)}" if terms else ""
    order = "number desc" if after is None else "number"
    return f"{AUDIT.select} {where} order by {order} limit {marked(limit)}", values
