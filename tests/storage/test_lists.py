"""Every list says what looking at each task would say, and no list looks at each task."""

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.errors import NoRoom
from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Delete, Edit
from dispatcher.ports import Change
from dispatcher.record import EventFilter, Filter, Record, Sort, Spot
from dispatcher.task import Status, Task
from storage.rows import TASKS
from storage.sqlite import chores, lists, matching, queries, search, sections, sources, store, traces
from storage.sqlite import journal as sqlite
from storage.sqlite import record as storage_record
from storage.sqlite.hop import hop
from storage.sqlite.store import open_store
from tests.dispatcher.test_board import Desk
from tests.dispatcher.world import database
from tests.web.conftest import until

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
        "created_at": lambda task: task.arrival,
        "updated_at": lambda task: (task.updated_at, task.arrival),
        "priority": lambda task: (-task.priority.rank, task.arrival),
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
                own = {name: getattr(before, name) for name in sqlite.FIXED - set(sqlite.EDITABLE)}
                after = evolve(form or before, **own, version=before.version + 1)
                sqlite.commit(db, [Change(before, after, None, gone=form is None)])
                known[place] = after if form else evolve(after, version=0)
    return db


@contextmanager
def bounds(**values: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (lists, sections, sources):
            for name, value in values.items():
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        yield


def walk(db: sqlite3.Connection, only: Filter, sort: Sort, limit: int, offset: int = 0) -> list[Task]:
    found: list[Task] = []
    after: Spot | None = None
    while True:
        page = lists.page(db, only, sort, limit, offset=offset, after=after, counted=False)
        found += page.tasks
        if page.end is None:
            return found
        assert page.end != after
        after, offset = page.end, page.ahead


@settings(max_examples=200, deadline=None)
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
    expected = in_order([task for task in every if matches(task, only)], sort)
    with bounds(SIZED_MAX=common, COMMON=common, CHUNK=2, CHUNK_MAX=4, PROMPTS_AT_ONCE=3, WINDOW=3):
        page = lists.page(db, only, sort, limit, offset=offset)
        assert list(page.tasks) == expected[offset : offset + limit]
        assert (page.total, page.total_is_exact) == (len(expected), True)
        assert (page.end is None) == (len(expected) <= offset + limit)
        assert walk(db, only, sort, limit) == expected
        with bounds(SEARCH_SECONDS=0):
            assert walk(db, only, sort, limit, offset) == expected[offset:]
    few = {"SIZED_MAX": common, "SIZED_FIRST": 1, "SIZED_TOGETHER_MAX": 6, "PAGE_BYTES_MAX": 60}
    with bounds(COUNT_SECONDS=0, COUNTED_MIN=2, WINDOW=2, SEARCHED_PROMPTS_MAX=3, PROMPTS_AT_ONCE=2, **few):
        assert walk(db, only, sort, limit) == expected
        page = lists.page(db, only, sort, limit, offset=offset)
        assert page.total <= len(expected)
        assert page.total == len(expected) or not page.total_is_exact
    db.close()


def test_a_page_of_large_tasks_is_cut_short() -> None:
    desk = Desk()
    made = [desk.create(prompt="x" * 400) for _ in range(5)]
    with bounds(PAGE_BYTES_MAX=700):
        page = lists.page(desk.db, Filter(), "-created_at", 100)
        assert (list(page.tasks), page.total) == ([made[4], made[3]], 5)
        assert list(lists.page(desk.db, Filter(), "-created_at", 100, after=page.end).tasks) == [made[2], made[1]]


def test_a_search_that_finds_little_is_cut_short_and_goes_on() -> None:
    """Two letters have no index; no more prompts are read for one page than is bearable."""
    desk = Desk()
    made = [desk.create(prompt="no" if number else "yes") for number in range(10)]
    with bounds(SEARCHED_PROMPTS_MAX=4, COUNTED_MIN=4, COUNT_SECONDS=0, PROMPTS_AT_ONCE=4):
        first = lists.page(desk.db, Filter(text="ye"), "-created_at", 5)
        assert (first.tasks, first.total, first.total_is_exact) == ((), 0, False)
        assert first.end is not None
    assert list(lists.page(desk.db, Filter(text="ye"), "-created_at", 5, after=first.end).tasks) == [made[0]]


def test_every_page_of_a_search_is_whole_however_deep_it_lies() -> None:
    """What lies before it is not what is looked through for it."""
    desk = Desk()
    made = [desk.create(prompt="yes") for _ in range(20)][::-1]
    with bounds(SEARCHED_PROMPTS_MAX=4, COUNTED_MIN=4, COUNT_SECONDS=0, PROMPTS_AT_ONCE=4):
        for offset in range(20):
            page = lists.page(desk.db, Filter(text="ye"), "-created_at", 3, offset=offset)
            assert list(page.tasks) == made[offset : offset + 3]
            assert (page.end is None) == (offset >= 17)


def test_what_lies_before_a_page_is_searched_for_no_longer_than_is_bearable() -> None:
    """The next page goes on with it."""
    desk = Desk()
    made = [desk.create(prompt="yes" if number % 4 else "no") for number in range(20)][::-1]
    held = [task for task in made if task.prompt == "yes"]
    with bounds(SEARCH_SECONDS=0, COUNT_SECONDS=0, COUNTED_MIN=2, PROMPTS_AT_ONCE=2):
        first = lists.page(desk.db, Filter(text="ye"), "-created_at", 3, offset=10)
        assert (first.tasks, first.ahead) == ((), 10 - 2)
        assert first.end is not None
        assert walk(desk.db, Filter(text="ye"), "-created_at", 3, offset=10) == held[10:]


MANY = 60_000
COUNTED = {
    "text": Filter(text="find me"),
    "two letters": Filter(text="me"),
    "worker and directory": Filter(worker_ids=("ann",), work_directories=("/a",)),
    "all of some tags": Filter(tags=("x", "y")),
    "one of some tags": Filter(tags=("x", "y"), tag_mode="any"),
    "tag and status": Filter(tags=("x",), statuses=(Status.WAITING,)),
    "time": Filter(created_after=0),
}


@pytest.fixture(scope="module")
def crowd() -> Iterator[sqlite3.Connection]:
    """Many tasks that differ in nothing."""
    desk = Desk()
    names = ", ".join(sqlite.TASKS.columns)
    values = sqlite.TASKS.row(
        evolve(desk.create(tags=("x", "y")), prompt="find me", work_directory="/a", worker_id="ann")
    )
    own = {"arrival": "n", "task_id": "'task-' || n", "created_at": "n"}
    picked = ", ".join(own.get(name, "?") for name in sqlite.TASKS.columns)
    given = [value for name, value in zip(sqlite.TASKS.columns, values, strict=True) if name not in own]
    numbers = f"with recursive many (n) as (select 2 union all select n + 1 from many where n <= {MANY})"
    desk.db.execute(f"insert into tasks ({names}) {numbers} select {picked} from many", given)
    desk.db.execute(
        "insert into task_tags select tag.value, arrival from tasks, json_each(tags) as tag where arrival > 1"
    )
    desk.db.execute("delete from tasks where arrival = 1")
    desk.db.execute("delete from task_tags where arrival = 1")
    yield desk.db
    desk.db.close()


@pytest.mark.parametrize("only", COUNTED.values(), ids=list(COUNTED))
def test_a_total_is_exact_if_there_is_time_to_count(crowd: sqlite3.Connection, only: Filter) -> None:
    """However many there are; if not, it is said that there are more."""
    with bounds(COUNT_SECONDS=30):
        page = lists.page(crowd, only, "-created_at", 1)
        assert (page.total, page.total_is_exact) == (MANY, True)
    with bounds(COUNT_SECONDS=0):
        page = lists.page(crowd, only, "-created_at", 1)
        assert sections.COUNTED_MIN <= page.total < MANY
        assert not page.total_is_exact


def test_the_sources_of_a_filter_are_told_apart_within_one_budget(
    crowd: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are; and no further than until one is known to be small."""
    counted = [0]
    size = sources._size

    def counting(*asked: Any) -> int:
        found = size(*asked)
        counted[0] += found
        return found

    monkeypatch.setattr(sources, "_size", counting)
    many = Filter(tags=("x", "y"), statuses=(Status.WAITING,), worker_ids=("ann",))
    with bounds(SIZED_TOGETHER_MAX=50_000):
        lists.page(crowd, many, "-created_at", 1)
    assert 4 * sources.SIZED_FIRST < counted[0] <= 50_000
    counted[0] = 0
    page = lists.page(crowd, evolve(many, tags=("x", "y", "nobody's")), "-created_at", 1)
    assert (page.tasks, counted[0]) == ((), 4 * sources.SIZED_FIRST)


def test_pages_stay_in_step_while_tasks_come_and_go() -> None:
    desk = Desk()
    made = [desk.create() for _ in range(6)]
    first = lists.page(desk.db, Filter(), "-created_at", 2)
    desk.create()
    for task in (made[4], made[2]):  # where the next page would have begun, and one behind
        desk.say(Edit(task_id=task.task_id, tags=("late",)))
        desk.say(_cancel(task))
        desk.say(Delete(task_id=task.task_id))
    assert list(lists.page(desk.db, Filter(), "-created_at", 5, after=first.end).tasks) == [made[3], made[1], made[0]]


def _cancel(task: Task) -> Cancel:
    return Cancel(task_id=task.task_id)


# No list reads tasks that are not on the page.

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


@pytest.mark.parametrize("common", [1, 100_000])
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("only", FILTERS.values(), ids=list(FILTERS))
def test_tasks_are_looked_up_and_never_all_gone_through(only: Filter, sort: Sort, common: int) -> None:
    """Only the narrow index that the list is sorted by is ever walked along, and tasks are read by their arrival."""
    desk = Desk()
    for number in range(4):
        desk.create(
            prompt="Fix it", work_directory="/a", tags=("x",), priority=Priority.HIGH if number else Priority.LOW
        )
    said: list[str] = []
    desk.db.set_trace_callback(said.append)
    with bounds(SIZED_MAX=common, COMMON=common):
        lists.page(desk.db, only, sort, 2, after=Spot(1, 2))
        lists.page(desk.db, only, sort, 2, offset=1)
    desk.db.set_trace_callback(None)
    asked = [sql for sql in said if sql.startswith(("select", "\n"))]
    assert asked
    for sql in asked:
        plan = [row[3] for row in desk.db.execute(f"explain query plan {sql}")]
        distinct = any("DISTINCT" in line for line in plan)  # of some tags; those found are gone through
        for line in plan:
            if (distinct and line == "SCAN s") or re.match(r"SCAN s VIRTUAL TABLE INDEX \d+:M", line):  # asks for words
                continue
            walked = re.match(r"SCAN (tasks|s|t|g|task_tags)\b", line)
            assert not walked or re.search("COVERING INDEX tasks_by_(arrival|update)$", line), (sql, plan)
            read = re.match(r"SEARCH (tasks|s|t|g) USING (?!COVERING|PRIMARY KEY)", line)
            assert not read or "INTEGER PRIMARY KEY (rowid" in line, (sql, plan)


# The index of the prompts


async def test_prompts_are_indexed_behind_the_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that the last owner of the file has left."""
    monkeypatch.setattr(chores, "LATER_SECONDS", 3600)
    desk = Desk()
    async with open_store(tmp_path / "tasks.db") as opened:
        await opened.commit([Change(None, desk.create(prompt="find me"), None)])
    monkeypatch.setattr(chores, "LATER_SECONDS", 0)
    async with open_store(tmp_path / "tasks.db") as opened:

        async def indexed() -> int:
            return await opened.record._read(search.indexed)

        await until(lambda: _is(indexed, 1))
        await opened.commit([Change(None, desk.create(prompt="me too"), None)])
        await until(lambda: _is(indexed, 2))
        found = await opened.record._read(
            lambda db: db.execute(
                "select rowid from prompts where prompts match ?", (search.wanted("find me"),)
            ).fetchall()
        )
        assert found == [(1,)]


@pytest.mark.parametrize("noticed", [False, True])
async def test_once_there_is_room_again_the_prompts_are_indexed_without_a_further_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, noticed: bool
) -> None:
    """Whether the commits noticed that there was none, or only the index did."""
    monkeypatch.setattr(chores, "LATER_SECONDS", 0.2)
    monkeypatch.setattr(chores, "AGAIN_SECONDS", 0.01)

    def limit(db: sqlite3.Connection, pages: int | None) -> None:
        pages = pages or db.execute("pragma page_count").fetchone()[0]
        db.execute(f"pragma max_page_count = {pages}").fetchone()

    desk = Desk()
    made = [desk.create(prompt=f"{number} " + hashlib.sha256(bytes(number)).hexdigest() * 20) for number in range(100)]
    async with open_store(tmp_path / "tasks.db") as opened:
        await opened.commit([Change(None, task, None) for task in made])
        await hop(opened._writer, limit, None)
        if noticed:
            with pytest.raises(NoRoom):
                await opened.commit([Change(None, desk.create(prompt="x" * 50_000), None)])
        else:
            await until(lambda: "prompts could not be indexed" in caplog.text)
        assert opened.short_of_room == noticed
        await hop(opened._writer, limit, 2**30)
        await until(lambda: _is(lambda: opened.record._read(search.indexed), len(made)))
        assert caplog.text.count("could not be indexed") <= 1


async def _is(ask: Any, wanted: int) -> bool:
    return bool(await ask() == wanted)


def test_the_index_forgets_what_is_deleted_and_learns_what_is_edited() -> None:
    desk = Desk()
    one, other = desk.create(prompt="an old prompt"), desk.create(prompt="an old prompt")
    search.index_some(desk.db, is_first=True)
    desk.say(Edit(task_id=one.task_id, prompt="a NEW one"))
    desk.say(_cancel(other))
    desk.say(Delete(task_id=other.task_id))
    found = "select rowid from prompts where prompts match ?"
    assert desk.db.execute(found, (search.wanted("old"),)).fetchall() == []
    assert desk.db.execute(found, (search.wanted("new one"),)).fetchall() == [(1,)]


def test_the_index_is_merged_in_small_steps() -> None:
    """Each step is one short transaction; in the end few pieces are left, or every search would look into many."""
    desk = Desk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SLICE", 1)
        for number in range(60):
            desk.create(prompt=f"prompt number {number}")
        steps = 0
        while search.index_some(desk.db, is_first=not steps).more:
            steps += 1
    assert steps >= 60
    assert search.indexed(desk.db) == 60
    assert desk.db.execute("select count(distinct segid) from prompts_idx").fetchone()[0] < 32


# Readers


async def test_a_read_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    """And its reader is free for others; so it is when nobody waits for it any more."""
    for_ever = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    async with open_store(tmp_path / "tasks.db", timeout_seconds=0.2) as opened:
        for _ in range(2 * store.READERS):
            with pytest.raises(TimeoutError):
                await opened.record._read(lambda db: db.execute(for_ever).fetchone())
    async with open_store(tmp_path / "tasks.db") as opened:
        for _ in range(2 * store.READERS):
            reading = asyncio.create_task(opened.record._read(lambda db: db.execute(for_ever).fetchone()))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert await asyncio.wait_for(opened.record.waiting(None), 5) == 0


async def test_waiting_for_a_reader_counts_as_time_that_a_read_takes(tmp_path: Path) -> None:
    """However many wait before, nobody waits longer than the timeout; and afterwards the readers are free."""
    for_ever = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    loop = asyncio.get_running_loop()

    async def lasts(opened: store.SqliteStore) -> float:
        began = loop.time()
        with pytest.raises(TimeoutError):
            await opened.record._read_long(lambda db: db.execute(for_ever).fetchone())
        return loop.time() - began

    async with open_store(tmp_path / "tasks.db", timeout_seconds=0.5) as opened:
        lasted = await asyncio.gather(*(lasts(opened) for _ in range(5 * store.READERS)))
        assert 0.5 <= min(lasted) <= max(lasted) < 1
        assert await opened.record.directories() == []


LONG: dict[str, tuple[Any, str, Callable[[Record], Awaitable[object]]]] = {
    "page": (lists, "page", lambda record: record.page(Filter(), "created_at", 1)),
    "matching": (matching, "matching", lambda record: record.matching(Filter(), 1, 2)),
    "statistics": (storage_record, "statistics", lambda record: record.statistics(None, 0, 60_000, 60_000)),
    "events": (queries, "events", lambda record: record.events(0, 1, EventFilter())),
    "history": (queries, "entries_of", lambda record: record.history("a", 1)),
    "directories": (queries, "directories", lambda record: record.directories()),
    "log": (traces, "log", lambda record: record.log("a", 0, 1)),
    "sightings": (traces, "sightings", lambda record: record.sightings(0)),
}


@pytest.mark.parametrize(("module", "name", "ask"), LONG.values(), ids=list(LONG))
async def test_what_may_take_long_leaves_a_reader_for_the_rest(
    module: Any,
    name: str,
    ask: Callable[[Record], Awaitable[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it together, lists beside anything else."""
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*_: object, **__: object) -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)

    monkeypatch.setattr(lists, "page", slow)
    monkeypatch.setattr(module, name, slow)
    async with open_store(tmp_path / "tasks.db") as opened:
        first = opened.record.page(Filter(), "created_at", 1)
        waiting = [asyncio.ensure_future(it) for it in (first, *(ask(opened.record) for _ in range(store.READERS)))]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(opened.record.task("a"), 5) is None
        assert await asyncio.wait_for(opened.record.oldest_waiting(), 5) is None
        gate.set()
        await asyncio.gather(*waiting)
