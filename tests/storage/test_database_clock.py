"""Servers on one database go by its time, which for none of them ever runs backwards."""

import pytest

from storage.postgres import clock as clocks
from storage.postgres.clock import DatabaseClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """This machine's monotonic clock."""
    moment = [1000]
    monkeypatch.setattr(clocks, "_now", lambda: moment[0])
    return moment


def test_it_counts_on_from_what_the_database_said(now: list[int]) -> None:
    clock = DatabaseClock()
    clock.heard(50_000, 1000, 1000)
    assert clock() == 50_000
    now[0] += 7
    assert clock() == 50_007


def test_a_difference_that_the_way_explains_is_none(now: list[int]) -> None:
    clock = DatabaseClock()
    clock.heard(50_000, 1000, 1000)
    clock.heard(50_090, 1050, 1150)  # it was asked at 50 050, and said so at 50 150 by our own count
    now[0] = 1200
    assert clock() == 50_200


def test_it_is_set_no_further_than_it_must_be(now: list[int]) -> None:
    clock = DatabaseClock()
    clock.heard(50_000, 1000, 1000)
    clock.heard(50_300, 1100, 1200)  # at least 100 ahead of us
    now[0] = 1200
    assert clock() == 50_300


def test_where_it_was_ahead_it_stands_still_until_it_is_right(now: list[int]) -> None:
    clock = DatabaseClock()
    clock.heard(50_000, 1000, 1000)
    assert clock() == 50_000
    clock.heard(49_900, 1000, 1000)
    told = []
    for _ in range(4):
        now[0] += 40
        told.append(clock())
    assert told == [50_000, 50_000, 50_020, 50_060]
