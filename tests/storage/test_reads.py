"""Whatever else is read of the record is the same on every database."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from attrs import evolve

from dispatcher.configuration import ConfigVersion
from dispatcher.errors import Refusal
from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Claim, Complete, Create, Delete, Fail, Log, Regulate, Retry, Tick
from dispatcher.ports import Configured, Entry
from dispatcher.record import DirectoryCount, EventFilter, LogPage, Outcome, Place, Sighting
from dispatcher.task import Status, Task
from storage.postgres import traces as postgres_traces
from storage.rows import DIRECTORIES, HISTORY, TASKS
from storage.sqlite import journal as sqlite
from storage.sqlite import traces
from tests.dispatcher.test_board import Desk
from tests.storage.conftest import ReaderOf
from tests.storage.readers import OnPostgres, OnSqlite

WORKERS, PATHS = ("ann", "bob"), ("/a", "/b", "/c/d")
CONFIG = [
    ConfigVersion(version=number, at=10 * number, who="ann", reason=None, changes={"a.b": number}, runtime={"a.b": "x"})
    for number in (1, 2, 3)
]


class Village:
    """A server that has been through something."""

    def __init__(self, seed: int, steps: int) -> None:
        self.desk, self.rng, self.now = Desk(), random.Random(seed), 0
        self.ids: list[str] = []
        for _ in range(steps):
            self.now += self.rng.choice([0, 7, 900, 20_000, 60_000])
            self.desk.say(Tick(), self.now)
            with suppress(Refusal):
                self._act()

    @property
    def db(self) -> sqlite3.Connection:
        return self.desk.db

    @property
    def tasks(self) -> list[Task]:
        return list(map(TASKS.value, self.db.execute(f"{TASKS.select} order by arrival")))

    def _act(self) -> None:
        rng, path = self.rng, self.rng.choice(PATHS)
        if rng.random() < 0.4 or not self.ids:
            fields: dict[str, Any] = {"work_directory": path, "prompt": "Ä x", "priority": rng.choice(list(Priority))}
            fields |= {"auto_retry": rng.random() < 0.5, "tags": ("x",)}
            self.ids.append(self.desk.say(Create(**fields), self.now).task.task_id)
            return
        held = [it for it in self.desk.board.working.values()]
        task = rng.choice(held) if held and rng.random() < 0.7 else None
        task_id = task.task_id if task else rng.choice(self.ids)
        lines = tuple(f"line {number} ä" for number in range(rng.randrange(1, 4)))
        asked = [
            Claim(work_directories=(path,), worker_id=rng.choice(WORKERS), limit=rng.choice([1, 3])),
            Log(task_id=task_id, lines=lines),
            Complete(task_id=task_id, result=rng.choice([None, {"a": ["ä", 1]}, "x" * 30, ""])),
            Fail(task_id=task_id, error_message='"automatic":true', retryable=rng.random() < 0.5),
            Cancel(task_id=task_id, force=rng.random() < 0.5),
            Retry(task_id=task_id),
            Delete(task_id=task_id),
            Regulate(work_directory=path, max_working=rng.choice([5, None])),
        ]
        self.desk.say(rng.choice(asked[:5] if rng.random() < 0.8 else asked), self.now)


@pytest.fixture(scope="module", params=range(4))
def village(request: pytest.FixtureRequest) -> Iterator[Village]:
    made = Village(request.param, 150)
    sqlite.commit(made.db, [Configured(line_of_settings(900 + it.version), it) for it in CONFIG])
    yield made
    made.db.close()


def line_of_settings(seq: int) -> Entry:
    return Entry(
        seq=seq, type="config.changed", task_id=None, work_directory=None, priority=None, status=None, at=0, details={}
    )


def test_tasks_and_their_history_are_read_as_they_were_written(reader_of: ReaderOf, village: Village) -> None:
    reader, tasks = reader_of(village.db), village.tasks
    assert len({it.status for it in tasks}) >= 4
    for task in tasks:
        assert reader.task(task.task_id) == task
        rows = village.db.execute(f"{HISTORY.select} where task_id = ? order by seq", (task.task_id,))
        every = list(map(HISTORY.value, rows))
        assert reader.history(task.task_id, 100) == every
        assert reader.history(task.task_id, 2) == every[-2:]
    assert (reader.task("nobody"), reader.history("nobody", 3)) == (None, [])


def test_logs_are_read_by_attempt_and_in_pages(reader_of: ReaderOf, village: Village) -> None:
    reader, seen = reader_of(village.db), 0
    for task in village.tasks:
        whole = reader.log(task.task_id, 0, 1000)
        assert (whole.status, whole.attempt, whole.log_lines) == (task.status, task.attempt, task.log_lines)
        assert [line.number for line in whole.lines] == list(range(1, task.log_lines + 1))
        seen += len(whole.lines)
        assert reader.log(task.task_id, 1, 2).lines == whole.lines[1:3]
        for attempt in (1, 2):
            own = tuple(line for line in whole.lines if line.attempt == attempt)
            assert reader.log(task.task_id, 0, 1000, attempt) == evolve(whole, lines=own)
            assert reader.log(task.task_id, 1, 1, attempt).lines == tuple(it for it in own if it.number > 1)[:1]
    assert seen > 5
    assert reader.log("nobody", 0, 1) is None
    assert isinstance(whole, LogPage)


def test_results_are_read_as_far_as_there_is_room(reader_of: ReaderOf, village: Village) -> None:
    reader = reader_of(village.db)
    ids = ["nobody", *(it.task_id for it in village.tasks)]
    whole = reader.outcomes(ids, 10**9)
    assert whole == {it.task_id: Outcome(it.status, it.result, False) for it in village.tasks}
    sizes = dict(village.db.execute("select task_id, coalesce(length(cast(result as blob)), 0) from tasks").fetchall())
    most = room = sum(sizes.values()) - 1
    expected = {}
    for task_id in ids[:0:-1]:
        fits = sizes[task_id] <= room
        room -= sizes[task_id] if fits else 0
        expected[task_id] = whole[task_id] if fits else Outcome(whole[task_id].status, None, True)
    assert reader.outcomes(ids[:0:-1], most) == expected
    assert any(it.is_omitted for it in expected.values())


@pytest.mark.parametrize("aging_seconds", [0, 0.5, 60, 86_400])
def test_a_place_is_told_by_looking_at_every_ready_task(
    reader_of: ReaderOf, village: Village, aging_seconds: float
) -> None:
    """With ageing a priority counts as so many seconds; of those as urgent the older one comes first."""
    reader = reader_of(village.db)
    ready = [it for it in village.tasks if it.ready]
    assert ready
    for task in ready:
        others = [it for it in ready if it.work_directory == task.work_directory and it.priority is not task.priority]
        older = [it for it in ready if it.work_directory == task.work_directory and it.priority is task.priority]

        def urgency(it: Task) -> float:
            return it.created_at - it.priority.rank * aging_seconds * 1000

        more = [
            it
            for it in others
            if (
                (urgency(it), it.created_at) < (urgency(task), task.created_at)
                or (urgency(it) == urgency(task) and it.created_at <= task.created_at)
                if aging_seconds
                else it.priority.rank > task.priority.rank
            )
        ]
        expected = Place(more_urgent=len(more), older=sum(it.arrival < task.arrival for it in older))
        assert reader.place(task, aging_seconds) == expected


def test_directories_are_counted(reader_of: ReaderOf, village: Village) -> None:
    reader, tasks = reader_of(village.db), village.tasks
    found = reader.directories()
    rules = list(map(DIRECTORIES.value, village.db.execute(f"{DIRECTORIES.select} order by work_directory")))
    waiting = [it for it in tasks if it.status is Status.WAITING]
    assert [it.rules for it in found] == rules
    for one in found:
        path = one.rules.work_directory
        inside = [it for it in tasks if it.work_directory == path]
        assert one.tasks == {status: sum(it.status is status for it in inside) for status in Status}
        times = [it.created_at for it in waiting if it.work_directory == path]
        assert one.oldest_waiting_at == min(times, default=None)
        assert reader.directory(path) == one
        assert reader.waiting(path) == len(times)
    unknown: DirectoryCount = reader.directory("/nowhere")
    assert (sum(unknown.tasks.values()), unknown.oldest_waiting_at, reader.waiting("/nowhere")) == (0, None, 0)
    assert reader.waiting(None) == len(waiting)
    working = [it for it in tasks if it.status is Status.WORKING]
    assert reader.working() == len(working)
    held = {worker: {it.task_id for it in working if it.worker_id == worker} for worker in WORKERS}
    assert {worker: set(ids) for worker, ids in reader.held().items()} == {it: ids for it, ids in held.items() if ids}
    assert reader.oldest_waiting() == min((it.created_at for it in waiting), default=None)


def test_workers_are_seen_where_they_were(
    reader_of: ReaderOf, village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL as on SQLite, whose own tests say what that is; of the end of the history alone, too."""
    reader, other = reader_of(village.db), OnSqlite(village.db)
    every = other.sightings(-1)
    assert {it.worker_id for it in every} == set(WORKERS)
    half = every[len(every) // 2].at
    for after in (-1, 0, half, every[-1].at):
        assert _sorted(reader.sightings(after)) == _sorted(other.sightings(after))
    for module in (traces, postgres_traces):
        monkeypatch.setattr(module, "SIGHTINGS", module.SIGHTINGS.replace("10000", "20"))
    assert _sorted(reader.sightings(-1)) == _sorted(other.sightings(-1))
    assert other.sightings(-1) != every


def _sorted(found: list[Sighting]) -> list[Sighting]:
    assert found == sorted(found, key=lambda it: it.at)
    return sorted(found, key=lambda it: (it.at, it.worker_id, it.work_directory))


def test_versions_of_the_settings_are_read_newest_first(reader_of: ReaderOf, village: Village) -> None:
    reader = reader_of(village.db)
    assert reader.config_versions(2, 0) == (CONFIG[:0:-1], 3)
    assert reader.config_versions(2, 2) == (CONFIG[:1], 3)
    assert (reader.config_version(2), reader.config_version(9)) == (CONFIG[1], None)


def test_nothing_is_read_of_an_empty_record(reader_of: ReaderOf) -> None:
    reader = reader_of(Desk().db)
    assert (reader.directories(), reader.sightings(-1), reader.outcomes(["a"], 1)) == ([], [], {})
    assert (reader.last_arrival(), reader.waiting(None), reader.oldest_waiting()) == (0, 0, None)
    stretch = reader.events(0, 10, EventFilter())
    assert (stretch.entries, stretch.up_to, stretch.first, stretch.last) == ((), 0, 1, 0)


def test_a_place_is_told_by_the_time_of_creation_whatever_the_arrivals(on_pg: OnPostgres) -> None:
    """Several servers create tasks at once."""
    made = {"task_id": "", "work_directory": "/w", "prompt": "x", "max_retries": 0, "timeout_seconds": 1.0}
    made |= {"available_at": 0, "updated_at": 0, "ready": True}
    tasks = [
        Task(arrival=1, created_at=5000, priority=Priority.HIGH, **made),
        Task(arrival=2, created_at=1000, priority=Priority.MEDIUM, **made),
        Task(arrival=3, created_at=9000, priority=Priority.HIGH, **made),
        Task(arrival=4, created_at=500, priority=Priority.MEDIUM, **made),
    ]
    on_pg.put([evolve(it, task_id=f"task-{it.arrival}") for it in tasks])
    assert on_pg.place(tasks[1], 5) == Place(more_urgent=1, older=0)
    assert on_pg.place(tasks[0], 1) == Place(more_urgent=2, older=0)
