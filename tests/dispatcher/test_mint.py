"""Ids, tokens and the time of day."""

import time
from uuid import UUID

import pytest

from dispatcher.clock import SystemClock
from dispatcher.mint import SystemMint


def test_task_ids_are_uuid7_that_sort_in_the_order_they_were_made() -> None:
    """Even many thousands within one millisecond, and when the clock goes back."""
    mint, now = SystemMint(), 1_767_225_600_000
    ids = [mint.task_id(now - index % 2) for index in range(10_000)]
    assert ids == sorted(set(ids))
    first = UUID(ids[0])
    assert (first.version, first.variant, first.int >> 80) == (7, "specified in RFC 4122", now)


def test_lease_tokens_do_not_repeat() -> None:
    mint = SystemMint()
    assert len({mint.lease_token() for _ in range(1000)}) == 1000


def test_the_clock_does_not_follow_when_somebody_sets_the_machines_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert 0 <= clock() - before < 60_000
    assert abs(before - time.time() * 1000) < 60_000
