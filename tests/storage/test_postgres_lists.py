"""Lists on PostgreSQL, where several servers create tasks at once: who came first was not always created first."""

import re
from collections.abc import Iterator

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.fields import Priority
from dispatcher.record import Filter, Sort, Spot
from dispatcher.task import Status, Task
from storage.postgres import lists
from storage.postgres.sections import RANK
from storage.rows import TASKS
from tests.postgres import Cluster
from tests.storage.pg_rows import COUNT_TASKS
from tests.storage.readers import OnPostgres, on_postgres
from tests.storage.test_lists import FILTERS, SORTS, bounds, filters, lists_are_right, tasks

MANY = 20_000
OWN = {"arrival": "n", "task_id": "'task-' || n", "created_at": "n"}
CROWD = f"""
    create temporary table one as select * from tasks;
    insert into tasks ({", ".join(TASKS.columns)})
    select {", ".join(OWN.get(name, name) for name in TASKS.columns)} from one, generate_series(2, {MANY}) as n;
    insert into task_tags select '/a', tag, n from generate_series(2, {MANY}) as n, unnest(array['x', 'y']) as tag"""
COUNTED = {
    "text": Filter(text="Find me"),
    "worker and directory": Filter(worker_ids=("ann",), work_directories=("/a",)),
    "all of some tags": Filter(tags=("x", "y")),
    "one of some tags": Filter(tags=("x", "y"), tag_mode="any"),
    "tag and status": Filter(tags=("x",), statuses=(Status.WAITING,)),
    "time": Filter(created_after=0),
}


@settings(max_examples=60, deadline=None)
@given(
    born=st.lists(st.tuples(tasks, st.integers(0, 6)), max_size=12),
    only=filters,
    sort=st.sampled_from(SORTS),
    limit=st.integers(1, 5),
    offset=st.integers(0, 8),
    common=st.sampled_from([2, 100_000]),
)
def test_lists_by_age_are_sorted_by_the_time_of_creation(
    on_pg: OnPostgres,
    born: list[tuple[Task, int]],
    only: Filter,
    sort: Sort,
    limit: int,
    offset: int,
    common: int,
) -> None:
    """Whatever the arrivals are: they settle ties."""
    known = [evolve(it, arrival=n, task_id=f"task-{n}", created_at=at) for n, (it, at) in enumerate(born, start=1)]
    on_pg.put(known)
    lists_are_right(on_pg, known, only, sort, limit, offset, common)


@pytest.fixture(scope="module")
def crowd(cluster: Cluster) -> Iterator[OnPostgres]:
    """Many tasks that differ in nothing."""
    with on_postgres(cluster) as reader:
        task = Task(
            arrival=1,
            task_id="",
            created_at=1,
            work_directory="/a",
            prompt="find me",
            tags=("x", "y"),
            max_retries=0,
            timeout_seconds=1,
            available_at=0,
            updated_at=0,
            worker_id="ann",
        )
        reader.put([task])
        reader.run(CROWD)
        reader.run(COUNT_TASKS)
        reader.run("analyze")
        yield reader


@pytest.mark.parametrize("only", COUNTED.values(), ids=list(COUNTED))
def test_a_total_is_exact_if_there_is_time_to_count(crowd: OnPostgres, only: Filter) -> None:
    """However many there are; if not, it is said that there are more."""
    with bounds(COUNT_SECONDS=30):
        page = crowd.page(only, "-created_at", 1)
        assert (page.total, page.total_is_exact) == (MANY, True)
    with bounds(COUNT_SECONDS=0):
        page = crowd.page(only, "-created_at", 1)
        assert (page.total, page.total_is_exact) == (lists.COUNTED_MIN, False)


@pytest.mark.parametrize("sort", SORTS)
def test_any_page_of_many_is_the_right_one(crowd: OnPostgres, sort: Sort) -> None:
    """From the end, if that is nearer; whether all have been counted or not."""
    for only in (Filter(), Filter(statuses=(Status.WAITING,)), Filter(tags=("x",), worker_ids=("ann",))):
        for seconds in (30, 0):
            for offset in (3, MANY // 3, MANY - 2, MANY + 5):
                with bounds(COUNT_SECONDS=seconds):
                    page = crowd.page(only, sort, 2, offset=offset)
                places = [place for place in (offset + 1, offset + 2) if place <= MANY]
                falls = sort.startswith("-")
                assert [it.arrival for it in page.tasks] == [MANY + 1 - it if falls else it for it in places]
                assert (page.end is None) == (offset + 2 >= MANY)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("only", FILTERS.values(), ids=list(FILTERS))
def test_a_page_goes_along_an_index_and_not_through_all_tasks(crowd: OnPostgres, only: Filter, sort: Sort) -> None:
    """Nor does it sort them; wherever it begins."""
    spot = Spot(MANY // 2 + ("priority" in sort) * Priority.MEDIUM.rank * RANK, MANY // 2)
    asked = crowd.overheard(
        lambda db: lists.page(db, only, sort, 2, after=spot, counted=False),
        lambda db: lists.page(db, only, sort, 2, offset=10, counted=False),
    )
    read = [it for it in asked if " tasks " in it.query]
    assert read
    for it in read:
        for step in crowd.plan(it.query, it.args):
            whole = re.search(r"(Seq Scan on tasks|Bitmap Heap Scan on tasks|Sort) .*rows=(\d+)", step)
            assert not whole or int(whole[2]) < MANY // 2, (step, it.query)
