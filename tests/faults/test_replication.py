"""The two PostgreSQL servers of the tests do what the tests of faults rely on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.replication import PATIENCE_SECONDS, Pair, pair

SILENCE_SECONDS = 0.3
COUNT = "select count(*) from counted"


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    with pair() as made:
        made.primary.sql("create table counted (number integer)")
        yield made


def test_what_was_committed_is_still_there_after_each_failover(two: Pair) -> None:
    before = int(two.primary.sql(COUNT))
    for number, isolated in enumerate((False, True)):
        old, standby = two.primary, two.standby
        two.primary.sql(f"insert into counted values ({number})")
        two.fail_over(isolated=isolated)
        assert (two.primary, two.standby) == (standby, old)
        two.primary.sql(f"insert into counted values ({number})")
        two.rebuild()
    assert int(two.primary.sql(COUNT)) == before + 4


def test_it_starts_again_after_a_crash_and_the_standby_follows(two: Pair) -> None:
    before = int(two.primary.sql(COUNT))
    two.primary.sql("insert into counted values (1)")
    two.primary.crash()
    two.primary.start()
    two.wait_for_standby()
    two.primary.sql("insert into counted values (2)")
    two.fail_over()
    two.rebuild()
    assert int(two.primary.sql(COUNT)) == before + 2


def test_a_commit_waits_for_the_standby(two: Pair) -> None:
    two.standby.stop()
    with ThreadPoolExecutor() as pool:
        commit = pool.submit(two.primary.sql, "insert into counted values (3)")
        with pytest.raises(TimeoutError):
            commit.result(SILENCE_SECONDS)
        two.rebuild()
        commit.result(PATIENCE_SECONDS)
