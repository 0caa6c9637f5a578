"""Lists on SQLite: what they look at, the index of the prompts, and the readers."""

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dispatcher.errors import NoRoom
from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Delete, Edit
from dispatcher.ports import Change
from dispatcher.record import EventFilter, Filter, Record, Sort, Spot
from dispatcher.task import Status
from storage.sqlite import chores, lists, matching, queries, search, sections, sources, store, traces
from storage.sqlite import journal as sqlite
from storage.sqlite import record as storage_record
from storage.sqlite.hop import hop
from storage.sqlite.store import open_store
from tests.dispatcher.test_board import Desk
from tests.storage.test_lists import FILTERS, SORTS, bounds
from tests.web.conftest import until

ON_ENCRYPTED_FILES = True

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


# No list reads tasks that are not on the page.


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
    desk.say(Cancel(task_id=other.task_id))
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
