"""The history on PostgreSQL, when it is long."""

import re
from collections.abc import Iterator

import pytest

from dispatcher.record import EventFilter
from storage.postgres import queries
from tests.postgres import Cluster
from tests.storage.readers import OnPostgres, on_postgres
from tests.storage.test_events import TYPES

MANY = 40_000
LINES = f"""
    insert into history
    select n, 'task.created', 'task-' || n / 3, '/d' || n % 40, 1, 'waiting', null, 1, n, '{{}}', null
    from generate_series(1, {MANY}) as n;
    update last_numbers set seq = {MANY}"""


@pytest.fixture(scope="module")
def long(cluster: Cluster) -> Iterator[OnPostgres]:
    with on_postgres(cluster) as reader:
        reader.run(LINES)
        reader.run("analyze")
        yield reader


@pytest.mark.parametrize(
    "only",
    [
        EventFilter(),
        EventFilter(types=TYPES),
        EventFilter(work_directories=("/d1", "/d2")),
        EventFilter(task_id="task-5000"),
    ],
    ids=str,
)
def test_no_stretch_sorts_or_reads_more_than_it_gives(long: OnPostgres, only: EventFilter) -> None:
    asked = long.overheard(lambda db: queries.events(db, MANY // 4, 100, only))
    read = [it for it in asked if " history" in it.query]
    assert len(read) == 2
    for it in read:
        for step in long.plan(it.query, it.args):
            whole = re.search(r"(Scan on history|Sort) .*rows=(\d+)", step)
            assert not whole or int(whole[2]) < 1000, (step, it.query)
