"""Percentiles as good as promised; and whatever happens, the figures are those of the history, for any range."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from dispatcher.errors import Refusal
from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Claim, Complete, Create, Delete, Edit, Fail, Release, Retry, Tick
from dispatcher.statistics import HOUR, MINUTE, Spread
from storage.durations import Durations
from storage.sqlite import journal as sqlite
from storage.sqlite.rebuild import NEVER, rebuild
from storage.sqlite.rollups import ADDITIONS_MAX
from storage.sqlite.statistics import EVENT_ROWS, ROWS, statistics
from storage.summary import PERCENTILES
from tests.dispatcher.test_board import Desk
from tests.storage.conftest import ReaderOf
from tests.storage.counted import EVENTS, PRIORITIES, STATUSES, agree_with_the_history, counted, facts
from tests.storage.readers import Reader

DAY = 24 * HOUR
TOLERANCE = 0.025
DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda rng: rng.lognormvariate(9, 1.5),
    "exponential": lambda rng: rng.expovariate(1 / 30_000),
    "even": lambda rng: rng.uniform(0, 3_600_000),
    "short": lambda rng: rng.uniform(0, 40),
    "two peaks": lambda rng: rng.gauss(50, 5) if rng.random() < 0.9 else rng.gauss(900_000, 90_000),
    "long tail": lambda rng: 20 * rng.paretovariate(0.7),
    "one": lambda rng: 1234,
    "none": lambda rng: 0,
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_percentiles_are_right_to_within_a_fortieth(name: str) -> None:
    """However the durations are spread, and however many rows they are added up from."""
    rng, number = random.Random(name), 20_000
    values = [max(0, round(DISTRIBUTIONS[name](rng))) for _ in range(number)]
    total = Durations()
    for start in range(0, number, 1000):
        part = Durations()
        part.note(values[start : start + 1000])
        total.add_json(part.to_json())
    values.sort()
    assert (total.most, total.average()) == (values[-1], sum(values) / number)
    for name, found in total.percentiles(PERCENTILES).items():
        exact = values[round(PERCENTILES[name] * number) - 1]
        assert abs(found - exact) <= TOLERANCE * exact, (name, found, exact)


@pytest.mark.parametrize("ms", [0, 1, 2, 19, 20, 21, 22, 1000, 31_536_000_000, 10**13])
def test_a_single_duration_is_told_as_it_was(ms: int) -> None:
    only = Durations()
    only.note([ms])
    assert (only.average(), only.most) == (ms, ms)
    for found in only.percentiles(PERCENTILES).values():
        assert abs(found - ms) <= (TOLERANCE * ms if ms > 20 else 0)


class Town:
    """A server to which anything may happen, over several days and in several directories."""

    def __init__(self, seed: int, begin: int = 0) -> None:
        self.desk, self.rng, self.now = Desk(), random.Random(seed), begin
        self.tasks: list[str] = []

    @property
    def db(self) -> sqlite3.Connection:
        return self.desk.db

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self.now += self.rng.choice([0, 0, 7, 900, 20_000, MINUTE, HOUR // 2, HOUR, 5 * HOUR])
            self.desk.say(Tick(), self.now)
            with suppress(Refusal):
                self._act()

    def _act(self) -> None:
        rng, path = self.rng, self.rng.choice(["/a", "/b", "/c/d"])
        if rng.random() < 0.35 or not self.tasks:
            new = Create(work_directory=path, prompt="x", priority=rng.choice(list(Priority)), auto_retry=True)
            self.tasks.append(self.desk.say(new, self.now).task.task_id)
            return
        task_id = rng.choice(self.tasks[-6:])
        held, token = next(((it.task_id, it.lease_token) for it in self.desk.board.working.values()), (task_id, "none"))
        self.desk.say(
            rng.choice(
                [
                    Claim(work_directories=(path,), lease_seconds=rng.choice([None, 60]), limit=2),
                    Claim(work_directories=(path,), limit=3),
                    Complete(task_id=task_id),
                    Fail(task_id=task_id, error_message="no", retryable=rng.random() < 0.5),
                    Release(task_id=held, lease_token=token, delay_seconds=30),
                    Cancel(task_id=task_id, force=rng.random() < 0.5),
                    Retry(task_id=task_id),
                    Edit(task_id=task_id, priority=rng.choice(list(Priority))),
                    Delete(task_id=task_id),
                ]
            ),
            self.now,
        )


@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_the_rollups_are_those_of_the_history(seed: int) -> None:
    """And counting everything once more gives the very same rows."""
    town = Town(seed)
    town.live(150)
    agree_with_the_history(town.db)


@pytest.mark.parametrize("begin", [0, DAY - 1, 1_800_000_000_000])
@pytest.mark.parametrize("seed", range(6))
def test_statistics_of_any_range_are_those_of_the_history(reader_of: ReaderOf, seed: int, begin: int) -> None:
    town = Town(seed, begin)
    town.live(100)
    told, rng, reader = facts(town.db), town.rng, reader_of(town.db)
    for _ in range(25):
        start = max(0, rng.randint(begin // MINUTE - 60, town.now // MINUTE))
        end = start + rng.choice([1, 59, 60, 61, 24 * 60, rng.randint(1, 5000)])
        path = rng.choice([None, "/a", "/b", "/nowhere"])
        check(reader, told, path, start * MINUTE, end * MINUTE, rng.choice([MINUTE, HOUR, DAY]))


def check(reader: Reader, told: Any, path: str | None, start: int, end: int, bucket: int) -> None:
    found = reader.statistics(None if path is None else [path], start, end, bucket)
    inside = [(at, what, ms) for at, where, what, ms in told if start <= at < end and path in (None, where)]

    def times(name: str, since: int = start, until: int = end) -> int:
        return sum(1 for at, what, ms in inside if what == name and ms is None and since <= at < until)

    assert found.by_status == {name: times(f"now_{name}") for name in STATUSES}
    assert found.by_priority == {name: times(f"now_{name}") for name in PRIORITIES}
    assert found.events == {name: times(name) for name in EVENTS}
    edges = [start, *range(start - start % bucket + bucket, end, bucket)]
    assert [one.at for one in found.series] == edges
    happened = {at - at % bucket for at, *_ in inside}
    for one, until in zip(found.series, [*edges[1:], end], strict=True):
        if one.at - one.at % bucket in happened:
            assert one.events == {name: times(name, one.at, until) for name in EVENTS}
    assert found.events == {name: sum(one.events[name] for one in found.series) for name in EVENTS}
    check_spread(found.waiting, sorted(ms for _, what, ms in inside if what == "waiting"))
    check_spread(found.processing, sorted(ms for _, what, ms in inside if what == "processing"))


def check_spread(spread: Spread, values: list[int]) -> None:
    if not values:
        assert spread == Spread()
        return
    assert spread.max == values[-1] / 1000
    assert spread.avg == pytest.approx(sum(values) / len(values) / 1000, abs=1e-6)
    for name, part in PERCENTILES.items():
        exact = values[max(0, -int(-part * len(values) // 1) - 1)] / 1000
        assert getattr(spread, name) == pytest.approx(exact, rel=TOLERANCE, abs=1e-6)


def test_batches_are_added_up_before_they_become_many() -> None:
    town = Town(1)
    for _ in range(3 * ADDITIONS_MAX):
        town.live(1)
        (number,) = town.db.execute("select count(*) from additions").fetchone()
        assert number < ADDITIONS_MAX
    assert town.db.execute("select count(*) from rollups").fetchone() > (0,)


def test_what_the_history_no_longer_tells_is_kept() -> None:
    """Its front has been removed: only the whole minutes behind are counted once more."""
    town = Town(4)
    town.live(300)
    rebuild(town.db, lambda seq, last: None)
    before = counted(town.db)
    cut, at = town.db.execute("select seq, at from history order by seq limit 1 offset 200").fetchone()
    town.db.execute("delete from history where seq < ?", (cut,))
    since = at - at % MINUTE + MINUTE
    ruin = "update rollups set created = created + 1 where at >= ?"
    town.db.execute(ruin, (since,))
    assert rebuild(town.db, lambda seq, last: None) == since
    assert counted(town.db) == before
    town.db.execute("delete from history")
    assert rebuild(town.db, lambda seq, last: None) == NEVER
    assert counted(town.db) == before


def test_a_batch_that_is_not_written_counts_nothing() -> None:
    desk = Desk()
    desk.create()
    change = Desk().effects(Create(work_directory="/w", prompt="x")).changes[0]
    with pytest.raises(sqlite3.IntegrityError):
        sqlite.commit(desk.db, [change])
    agree_with_the_history(desk.db)


def test_a_range_is_read_by_its_key_and_the_history_never() -> None:
    desk = Desk()
    for query in (ROWS, EVENT_ROWS):
        plan = [row[-1] for row in desk.db.execute(f"explain query plan {query}", ('[""]', MINUTE, 0, HOUR))]
        assert plan == [
            "SEARCH rollups USING PRIMARY KEY (work_directory=? AND span=? AND at>? AND at<?)",
            "LIST SUBQUERY 1",
            "SCAN json_each VIRTUAL TABLE INDEX 1:",
        ]
    read: set[str] = set()
    desk.db.set_authorizer(lambda action, table, *_: read.add(table or "") or sqlite3.SQLITE_OK)
    statistics(desk.db, None, 0, DAY, HOUR)
    desk.db.set_authorizer(None)
    assert read & {"tasks", "history", "work_directories"} == set()
    assert read >= {"rollups", "additions"}


def test_the_middle_of_a_long_range_is_read_by_the_hour() -> None:
    """Thirty days with something in every minute: no more rows than hours, and minutes at the edges."""
    desk = Desk()
    columns = [row[1] for row in desk.db.execute("pragma table_info(rollups)")][3:-2]
    put = f"insert into rollups values ('', ?, ?, {', '.join('1' for _ in columns)}, null, null)"
    days = 30
    desk.db.executemany(put, ((MINUTE, at) for at in range(0, days * DAY, MINUTE)))
    desk.db.executemany(put, ((HOUR, at) for at in range(0, days * DAY, HOUR)))
    start, end = 30 * MINUTE, days * DAY - 30 * MINUTE
    assert statistics(desk.db, None, start, end, DAY).events["created"] == 30 + (days * 24 - 2) + 30
