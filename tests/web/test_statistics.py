"""How many, how fast and how long: of any range of time, in all directories or in one, and for ever."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.storage.counted import agree_with_the_history
from tests.web.conftest import Api, connected
from tests.web.test_contract import of_success

ON_EVERY_RECORD = ON_ENCRYPTED_RECORD = True

STATISTICS = "/api/v1/statistics"
SPREAD = {"avg", "p50", "p95", "p99", "max"}
NOBODY = dict.fromkeys(SPREAD)
EVENTS = {"created", "claimed", "completed", "failed", "cancelled", "retried", "released", "lease_expired", "deleted"}


async def asked(api: Api, **query: str) -> dict[str, Any]:
    return of_success(await api.get(STATISTICS, **query))


def times(found: dict[str, Any]) -> dict[str, int]:
    """How often anything happened, in all buckets together."""
    sums = {name: sum(bucket[name] for bucket in found["series"]) for name in EVENTS}
    return {name: number for name, number in sums.items() if number}


async def lives(api: Api, directory: str) -> None:
    """Two are completed, one has failed, one is cancelled and deleted, one waits."""
    for _ in range(2):
        await api.tell(await api.claimed(directory), "complete")
    await api.tell(await api.claimed(directory, priority="high"), "fail", error_message="no")
    task = await api.create(directory, priority="low")
    await api.post(f"/api/v1/tasks/{task['task_id']}/cancel", {})
    (await api.call("DELETE", f"/api/v1/tasks/{task['task_id']}")).data  # noqa: B018
    await api.create(directory)


async def test_the_figures_of_a_directory_are_those_of_its_tasks(api, directory):
    await lives(api, directory)
    found = await asked(api, work_directory=directory)
    assert found["total"] == 5
    assert found["by_status"] == {"waiting": 1, "working": 0, "completed": 2, "failed": 1, "cancelled": 1}
    assert found["by_priority"] == {"low": 1, "medium": 3, "high": 1}
    assert times(found) == {"created": 5, "claimed": 3, "completed": 2, "failed": 1, "cancelled": 1, "deleted": 1}
    assert found["error_rate"] == pytest.approx(1 / 3, abs=1e-6)
    assert 0 < found["throughput_per_second"] < 2
    for spread in (found["waiting_seconds"], found["processing_seconds"]):
        assert spread.keys() == SPREAD
        assert 0 <= spread["p50"] <= spread["p95"] <= spread["p99"] <= spread["max"] < 10
        assert 0 <= spread["avg"] <= spread["max"]


async def test_durations_are_those_of_the_history(api, directory):
    """A delayed task waits from when it may run; an attempt takes from the claim to its end."""
    task = await api.create(directory, delay_seconds=0.2)
    claimed = await api.next(directory, wait_seconds="5")
    await asyncio.sleep(0.05)
    done = (await api.tell(claimed, "complete")).data
    lines = {line["type"]: line for line in await api.history(task)}
    whole = await api.show(task)
    waited = seconds(whole["available_at"], whole["started_at"])
    took = seconds(whole["started_at"], done["completed_at"])
    assert lines["task.claimed"]["details"] == {"waiting_seconds": waited}
    assert lines["task.completed"]["details"] == {"processing_seconds": took}
    assert 0.05 <= took < 5
    found = await asked(api, work_directory=directory)
    assert found["waiting_seconds"]["max"] == found["waiting_seconds"]["avg"] == waited
    assert found["processing_seconds"]["max"] == found["processing_seconds"]["avg"] == took
    assert found["processing_seconds"]["p50"] == pytest.approx(took, rel=0.025)


def seconds(start: str, end: str) -> float:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)


async def test_nothing_has_happened_in_an_unknown_directory(api, directory):
    """The range is there all the same, with every bucket of it."""
    found = await asked(api, work_directory=directory)
    assert found["series"]
    assert all(bucket.keys() == {"at", *EVENTS} for bucket in found["series"])
    assert times(found) == {}
    assert (found["total"], found["error_rate"], found["throughput_per_second"]) == (0, 0, 0)
    assert found["waiting_seconds"] == found["processing_seconds"] == NOBODY
    assert found["work_directory"] == directory


async def test_the_last_24_hours_by_the_hour_if_nothing_is_said(api):
    before = datetime.now(UTC)
    found = await asked(api)
    since, to = (datetime.fromisoformat(found[name]) for name in ("from", "to"))
    assert found["bucket"] == "hour"
    assert found["work_directory"] is None
    assert to - since == timedelta(hours=24)
    assert before - timedelta(seconds=1) < to <= before + timedelta(minutes=1, seconds=10)
    assert len(found["series"]) in (24, 25)


@pytest.mark.parametrize(
    ("since", "to", "bucket", "effective", "ats"),
    [
        ("T10:30:20Z", "T12:00:01.5Z", "hour", ("10:30", "12:01"), ["10:30", "11:00", "12:00"]),
        ("T10:59:59.999Z", "T11:00:00Z", "hour", ("10:59", "11:00"), ["10:59"]),
        ("T10:00:00Z", "T10:00:00.001Z", "day", ("10:00", "10:01"), ["10:00"]),
        ("T10:00:10Z", "T10:03:00Z", "minute", ("10:00", "10:03"), ["10:00", "10:01", "10:02"]),
        ("T12:00:00+02:00", "T11:00:00Z", "hour", ("10:00", "11:00"), ["10:00"]),
    ],
)
async def test_a_range_is_of_whole_minutes_and_its_buckets_are_clipped_to_it(api, since, to, bucket, effective, ats):
    day = "2024-02-29"
    found = await asked(api, **{"from": day + since, "to": day + to, "bucket": bucket})
    assert (found["from"], found["to"]) == tuple(f"{day}T{time}:00.000Z" for time in effective)
    assert [bucket["at"] for bucket in found["series"]] == [f"{day}T{time}:00.000Z" for time in ats]


async def test_days_begin_at_midnight_utc(api):
    found = await asked(api, **{"from": "2024-02-28T23:59:00Z", "to": "2024-03-01T00:01:00Z", "bucket": "day"})
    ats = ["2024-02-28T23:59:00.000Z", "2024-02-29T00:00:00.000Z", "2024-03-01T00:00:00.000Z"]
    assert [bucket["at"] for bucket in found["series"]] == ats


async def test_what_happened_lies_in_its_minute_and_in_no_other(api, directory):
    task = await api.create(directory)
    at = datetime.fromisoformat(task["created_at"]).replace(second=0, microsecond=0)
    minute = timedelta(minutes=1)

    async def created(since: datetime, to: datetime, bucket: str) -> int:
        query = {"from": since.isoformat(), "to": to.isoformat(), "bucket": bucket, "work_directory": directory}
        found = await asked(api, **query)
        assert found["total"] == times(found).get("created", 0)
        return found["total"]

    for bucket in ("minute", "hour", "day"):
        assert await created(at, at + minute, bucket) == 1
        assert await created(at - minute, at, bucket) == 0
        assert await created(at + minute, at + 2 * minute, bucket) == 0
        assert await created(at - 100 * minute, at + 100 * minute, bucket) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2999-01-01T00:00:00Z"}, "from"),
        ({"to": "1970-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "bucket": "minute"}, "bucket"),
        ({"from": "1970-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z", "bucket": "day"}, "bucket"),
    ],
)
async def test_a_range_that_is_none_or_too_long_is_refused(api, query, field):
    assert (await api.get(STATISTICS, **query)).faults() == [field]


async def test_the_longest_and_the_last_range_are_answered(api):
    longest = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-07T22:40:00Z", "bucket": "minute"}
    assert len((await asked(api, **longest))["series"]) == 10_000
    last = {"from": "9999-12-31T23:00:00Z", "to": "9999-12-31T23:59:59.999Z"}
    assert (await asked(api, **last))["to"] == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.once
async def test_the_figures_survive_the_server(server: ServerProcess, how):
    """What was answered is counted, and the counts are those of the history."""
    async with connected(server) as api:
        for number in range(12):
            await lives(api, f"/w/{number % 3}")
        query = {"from": "2020-01-01T00:00:00Z", "to": "2040-01-01T00:00:00Z", "bucket": "day"}
        before = await asked(api, **query)
        one = await asked(api, **query, work_directory="/w/1")
    server.kill() if how == "killed" else server.terminate()
    with server.opened() as db:
        agree_with_the_history(db)
    server.start()
    async with connected(server) as api:
        assert (await asked(api, **query)) | {"throughput_per_second": 0} == before | {"throughput_per_second": 0}
        assert (await asked(api, **query, work_directory="/w/1"))["series"] == one["series"]
    assert (before["total"], one["total"]) == (60, 20)
