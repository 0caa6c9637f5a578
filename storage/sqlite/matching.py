"""Which tasks a filter means, a stretch of them at a time."""

import sqlite3
from collections.abc import Iterable
from typing import Any

from dispatcher.fields import to_json
from dispatcher.matching import stands_in
from dispatcher.record import Filter

LAST_ARRIVAL = "select arrival from last_numbers"
WITH_ALL_TAGS = """not exists (
    select 1 from json_each(?) as wanted where wanted.value not in (select value from json_each(tasks.tags)))"""
WITH_ANY_TAG = "exists (select 1 from json_each(?) as wanted join json_each(tasks.tags) as tag using (value))"


def last_arrival(db: sqlite3.Connection) -> int:
    (arrival,) = db.execute(LAST_ARRIVAL).fetchone()
    return int(arrival)


def matching(db: sqlite3.Connection, only: Filter, first: int, last: int) -> list[str]:
    """The ids of the tasks whose arrival is one of `first` to `last`, in that order."""
    terms = [("arrival between ? and ?", (first, last)), *_terms(only)]
    where = " and ".join(term for term, _ in terms)
    rows = db.execute(
        f"select task_id, {'null' if only.text is None else 'prompt'} from tasks where {where} order by arrival",
        [value for _, values in terms for value in values],
    )
    return [task_id for task_id, prompt in rows if only.text is None or stands_in(only.text, prompt)]


def _terms(only: Filter) -> Iterable[tuple[str, tuple[Any, ...]]]:
    """Conditions that must all hold, each with its values."""
    priorities = [priority.rank for priority in only.priorities]
    lists = (
        ("status", only.statuses),
        ("work_directory", only.work_directories),
        ("priority", priorities),
        ("worker_id", only.worker_ids),
    )
    for column, wanted in lists:
        if wanted:
            yield f"{column} in (select value from json_each(?))", (to_json(wanted),)
    if only.tags:
        yield WITH_ALL_TAGS if only.tag_mode == "all" else WITH_ANY_TAG, (to_json(only.tags),)
    if only.created_after is not None:
        yield "created_at > ?", (only.created_after,)
    if only.created_before is not None:
        yield "created_at < ?", (only.created_before,)
