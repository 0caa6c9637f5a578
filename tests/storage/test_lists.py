"""Every list says what looking at each task would say, whatever it is read from."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Delete, Edit
from dispatcher.ports import Change
from dispatcher.record import Filter, Sort, Spot
from dispatcher.task import Status, Task
from storage.changes import EDITABLE, FIXED
from storage.postgres import lists as postgres_lists
from storage.rows import TASKS
from storage.sqlite import journal as sqlite
from storage.sqlite import lists, search, sections, sources
from tests.dispatcher.test_board import Desk
from tests.dispatcher.world import database
from tests.storage.conftest import ReaderOf
from tests.storage.readers import Reader

SORTS = ("created_at", "-created_at", "updated_at", "-updated_at", "priority", "-priority")
DIRECTORIES, TAGS, WORKERS = ("/a", "/b", "/c"), ("x", "y", 'z"%'), ("ann", "bob")
TEXTS = ("", "Fix it", "fix IT now", "Straße 100%", 'a "quoted" \\ line\nand more', "ÉCOLE", "aaaaaa", "a_b", "🦊 abc")
ASKED = (
    "f",
    "IT",
    "fix",
    "STRASSE",
    "%",
    "_",
    '"',
    "\\",
    "\n",
    "école",
    "aaa",
    "x it",
    "quoted",
    "🦊",
    "nothing",
    "Fix it",
)

tasks = st.builds(
    Task,
    arrival=st.just(0),
    task_id=st.just(""),
    created_at=st.just(0),
    work_directory=st.sampled_from(DIRECTORIES),
    prompt=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3).map(" ".join),
    priority=st.sampled_from(Priority),
    tags=st.lists(st.sampled_from(TAGS), unique=True).map(tuple),
    max_retries=st.just(3),
    timeout_seconds=st.just(1.5),
    status=st.sampled_from([status for status in Status if status is not Status.WORKING]),
    ready=st.just(False),
    available_at=st.just(0),
    updated_at=st.integers(0, 5),
    worker_id=st.sampled_from([None, *WORKERS]),
)
ages = st.lists(st.tuples(tasks, st.integers(0, 3)), max_size=12)
becoming = st.lists(st.tuples(st.integers(0, 11), st.one_of(st.none(), tasks)), max_size=6)
filters = st.builds(
    Filter,
    statuses=st.lists(st.sampled_from(Status), unique=True, max_size=3).map(tuple),
    work_directories=st.lists(st.sampled_from(DIRECTORIES), unique=True, max_size=2).map(tuple),
    priorities=st.lists(st.sampled_from(Priority), unique=True, max_size=2).map(tuple),
    tags=st.lists(st.sampled_from(TAGS), unique=True, max_size=2).map(tuple),
    tag_mode=st.sampled_from(["all", "any"]),
    worker_ids=st.lists(st.sampled_from(WORKERS), unique=True, max_size=2).map(tuple),
    created_after=st.one_of(st.none(), st.integers(0, 15)),
    created_before=st.one_of(st.none(), st.integers(0, 15)),
    text=st.one_of(st.none(), st.sampled_from(ASKED)),
)
FILTERS = {
    "all": Filter(),
    "statuses": Filter(statuses=(Status.WAITING, Status.FAILED)),
    "priority": Filter(priorities=(Priority.HIGH,)),
    "directory": Filter(work_directories=("/a",)),
    "directories, status, priority": Filter(
        work_directories=("/a", "/b"), statuses=(Status.FAILED,), priorities=(Priority.LOW,)
    ),
    "worker": Filter(worker_ids=("ann",)),
    "worker, status": Filter(worker_ids=("ann", "bob"), statuses=(Status.FAILED,)),
    "tag": Filter(tags=("x",)),
    "tags, status": Filter(tags=("x", "y"), statuses=(Status.FAILED,)),
    "any tag": Filter(tags=("x", "y"), tag_mode="any"),
    "time": Filter(created_after=1, created_before=10),
    "text": Filter(text="fix it"),
    "text, status": Filter(text="fix it", statuses=(Status.WAITING,)),
    "short text": Filter(text="it"),
    "everything": Filter(
        statuses=(Status.WAITING,),
        work_directories=("/a",),
        priorities=(Priority.HIGH,),
        tags=("x",),
        worker_ids=("ann",),
        created_after=1,
        created_before=10,
        text="fix it",
    ),
}


def matches(task: Task, only: Filter) -> bool:
    borne = [tag in task.tags for tag in only.tags]
    return (
        (not only.statuses or task.status in only.statuses)
        and (not only.work_directories or task.work_directory in only.work_directories)
        and (not only.priorities or task.priority in only.priorities)
        and (not borne or (any(borne) if only.tag_mode == "any" else all(borne)))
        and (not only.worker_ids or task.worker_id in only.worker_ids)
        and (only.created_after is None or task.created_at > only.created_after)
        and (only.created_before is None or task.created_at < only.created_before)
        and (only.text is None or only.text.casefold() in task.prompt.casefold())
    )


def in_order(found: list[Task], sort: Sort) -> list[Task]:
    keys: dict[str, Any] = {
        "created_at": lambda task: (task.created_at, task.arrival),
        "updated_at": lambda task: (task.updated_at, task.arrival),
        "priority": lambda task: (-task.priority.rank, task.created_at, task.arrival),
    }
    return sorted(found, key=keys[sort.lstrip("-")], reverse=sort.startswith("-"))


def record(born: list[tuple[Task, int]], becoming: list[tuple[int, Task | None]], indexed: int) -> sqlite3.Connection:
    """Tasks that were created, and then changed or deleted, the prompts of some of them being indexed in between."""
    db, at = database(), 0
    known = []
    for arrival, (task, later) in enumerate(born, start=1):
        at += later
        known.append(evolve(task, arrival=arrival, task_id=f"task-{arrival}", created_at=at))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SLICE", max(1, indexed))
        sqlite.commit(db, [Change(None, task, None) for task in known])
        if indexed:
            search.index_some(db, is_first=True)
        for place, form in becoming:
            if place < len(known) and known[place].version:
                before = known[place]
                own = {name: getattr(before, name) for name in FIXED - set(EDITABLE)}
                after = evolve(form or before, **own, version=before.version + 1)
                sqlite.commit(db, [Change(before, after, None, gone=form is None)])
                known[place] = after if form else evolve(after, version=0)
    return db


@contextmanager
def bounds(**values: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (lists, sections, sources, postgres_lists):
            for name, value in values.items():
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        yield


def walk(reader: Reader, only: Filter, sort: Sort, limit: int, offset: int = 0, counted: bool = False) -> list[Task]:
    found: list[Task] = []
    after: Spot | None = None
    while True:
        page = reader.page(only, sort, limit, offset=offset, after=after, counted=counted)
        found += page.tasks
        if page.end is None:
            return found
        assert page.end != after
        after, offset = page.end, page.ahead


@settings(max_examples=100, deadline=None)
@given(
    born=ages,
    becoming=becoming,
    indexed=st.integers(0, 12),
    only=filters,
    sort=st.sampled_from(SORTS),
    limit=st.integers(1, 5),
    offset=st.integers(0, 8),
    common=st.sampled_from([2, 100_000]),
)
def test_a_list_says_what_looking_at_every_task_says(
    reader_of: ReaderOf,
    born: list[tuple[Task, int]],
    becoming: list[tuple[int, Task | None]],
    indexed: int,
    only: Filter,
    sort: Sort,
    limit: int,
    offset: int,
    common: int,
) -> None:
    """Whatever is common and rare; by offset and from page to page; and the total."""
    db = record(born, becoming, indexed)
    every = list(map(TASKS.value, db.execute(TASKS.select)))
    lists_are_right(reader_of(db), every, only, sort, limit, offset, common)
    db.close()


def lists_are_right(
    reader: Reader, every: list[Task], only: Filter, sort: Sort, limit: int, offset: int, common: int
) -> None:
    expected = in_order([task for task in every if matches(task, only)], sort)
    with bounds(SIZED_MAX=common, COMMON=common, FEW=common, CHUNK=2, CHUNK_MAX=4, PROMPTS_AT_ONCE=3, WINDOW=3):
        page = reader.page(only, sort, limit, offset=offset)
        assert list(page.tasks) == expected[offset : offset + limit]
        assert (page.total, page.total_is_exact) == (len(expected), True)
        assert (page.end is None) == (len(expected) <= offset + limit)
        assert walk(reader, only, sort, limit) == expected
        with bounds(SEARCH_SECONDS=0):
            assert walk(reader, only, sort, limit, offset, counted=True) == expected[offset:]
    few = {"SIZED_MAX": common, "SIZED_FIRST": 1, "SIZED_TOGETHER_MAX": 6, "PAGE_BYTES_MAX": 60}
    with bounds(COUNT_SECONDS=0, COUNTED_MIN=2, WINDOW=2, SEARCHED_PROMPTS_MAX=3, PROMPTS_AT_ONCE=2, **few):
        assert walk(reader, only, sort, limit) == expected
        page = reader.page(only, sort, limit, offset=offset)
        assert page.total <= len(expected)
        assert page.total == len(expected) or not page.total_is_exact


def test_a_page_of_large_tasks_is_cut_short(reader_of: ReaderOf) -> None:
    desk = Desk()
    made = [desk.create(prompt="x" * 400) for _ in range(5)]
    with bounds(PAGE_BYTES_MAX=700):
        page = reader_of(desk.db).page(Filter(), "-created_at", 100)
        assert (list(page.tasks), page.total) == ([made[4], made[3]], 5)
        assert list(reader_of(desk.db).page(Filter(), "-created_at", 100, after=page.end).tasks) == [made[2], made[1]]


def test_a_search_that_finds_little_is_cut_short_and_goes_on(reader_of: ReaderOf) -> None:
    """Two letters have no index; no more prompts are read for one page than is bearable."""
    desk = Desk()
    made = [desk.create(prompt="no" if number else "yes") for number in range(10)]
    with bounds(SEARCH_SECONDS=0, CHUNK=4, COUNTED_MIN=4, COUNT_SECONDS=0, PROMPTS_AT_ONCE=4):
        first = reader_of(desk.db).page(Filter(text="ye"), "-created_at", 5)
        assert (first.tasks, first.total_is_exact) == ((), bool(first.total))
        assert first.end is not None
    assert list(reader_of(desk.db).page(Filter(text="ye"), "-created_at", 5, after=first.end).tasks) == [made[0]]


def test_every_page_of_a_search_is_whole_however_deep_it_lies(reader_of: ReaderOf) -> None:
    """What lies before it is not what is looked through for it."""
    desk = Desk()
    made = [desk.create(prompt="yes") for _ in range(20)][::-1]
    with bounds(SEARCHED_PROMPTS_MAX=4, COUNTED_MIN=4, COUNT_SECONDS=0, PROMPTS_AT_ONCE=4):
        for offset in range(20):
            page = reader_of(desk.db).page(Filter(text="ye"), "-created_at", 3, offset=offset)
            assert list(page.tasks) == made[offset : offset + 3]
            assert (page.end is None) == (offset >= 17)


def test_what_lies_before_a_page_is_searched_for_no_longer_than_is_bearable(reader_of: ReaderOf) -> None:
    """The next page goes on with it."""
    desk = Desk()
    made = [desk.create(prompt="yes" if number % 4 else "no") for number in range(20)][::-1]
    held = [task for task in made if task.prompt == "yes"]
    with bounds(SEARCH_SECONDS=0, CHUNK=2, COUNT_SECONDS=0, COUNTED_MIN=2, PROMPTS_AT_ONCE=2):
        first = reader_of(desk.db).page(Filter(text="ye"), "-created_at", 3, offset=10)
        assert (first.tasks, first.ahead) == ((), 10 - 2)
        assert first.end is not None
        assert walk(reader_of(desk.db), Filter(text="ye"), "-created_at", 3, offset=10) == held[10:]


def test_pages_stay_in_step_while_tasks_come_and_go(reader_of: ReaderOf) -> None:
    desk = Desk()
    made = [desk.create() for _ in range(6)]
    first = reader_of(desk.db).page(Filter(), "-created_at", 2)
    desk.create()
    for task in (made[4], made[2]):  # where the next page would have begun, and one behind
        desk.say(Edit(task_id=task.task_id, tags=("late",)))
        desk.say(_cancel(task))
        desk.say(Delete(task_id=task.task_id))
    assert list(reader_of(desk.db).page(Filter(), "-created_at", 5, after=first.end).tasks) == [
        made[3],
        made[1],
        made[0],
    ]


def _cancel(task: Task) -> Cancel:
    return Cancel(task_id=task.task_id)
