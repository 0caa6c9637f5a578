"""What happened in a range of time, in figures."""

from typing import Literal, TypedDict

from aiohttp.web import Request, Response
from attrs import frozen

from dispatcher.fields import Instant, Priority, WorkDirectory
from dispatcher.statistics import HOUR, MINUTE, Bucket, Spread, Statistics
from dispatcher.task import Status
from web.access.calling import caller
from web.answers import ok
from web.codec import Fault, Invalid, rfc3339
from web.service import Service

BUCKETS = {"minute": MINUTE, "hour": HOUR, "day": 24 * HOUR}
BUCKETS_MAX = 10_000  # in a series; beyond, the request is refused
RANGE_HOURS = 24  # how far back it goes, if nothing is said
LAST_MS = 253_402_300_799_999  # of the year 9999: later times cannot be written


@frozen
class Window:
    """Whole minutes, and the length of a bucket; in milliseconds."""

    start: int
    end: int
    bucket: int


@frozen(kw_only=True)
class AboutRange:
    from_: Instant | None = None
    to: Instant | None = None
    bucket: Literal["minute", "hour", "day"] = "hour"
    work_directory: WorkDirectory | None = None

    def window(self, now: int) -> Window:
        """The whole minutes that the range touches. Raises Invalid."""
        to = now + 1 if self.to is None else self.to
        end = min(to + -to % MINUTE, LAST_MS)
        since = max(0, end - RANGE_HOURS * BUCKETS["hour"]) if self.from_ is None else self.from_
        if since >= to:
            bound = "now, which is where the range ends if 'to' is not given" if self.to is None else "'to'"
            raise Invalid([Fault("from", f"must be before {bound}")])
        start, bucket = since - since % MINUTE, BUCKETS[self.bucket]
        if (number := -(-end // bucket) - start // bucket) > BUCKETS_MAX:
            raise Invalid([Fault("bucket", f"must be longer: the range has {number}, at most {BUCKETS_MAX} are given")])
        return Window(start, end, bucket)


class ByStatus(TypedDict):
    waiting: int
    working: int
    completed: int
    failed: int
    cancelled: int


class ByPriority(TypedDict):
    low: int
    medium: int
    high: int


class SpreadView(TypedDict):
    avg: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


class BucketView(TypedDict):
    at: str
    created: int
    claimed: int
    completed: int
    failed: int
    cancelled: int
    retried: int
    released: int
    lease_expired: int
    deleted: int


StatisticsView = TypedDict(
    "StatisticsView",
    {
        "from": str,
        "to": str,
        "bucket": Literal["minute", "hour", "day"],
        "work_directory": str | None,
        "total": int,
        "by_status": ByStatus,
        "by_priority": ByPriority,
        "processing_seconds": SpreadView,
        "waiting_seconds": SpreadView,
        "error_rate": float,
        "throughput_per_second": float,
        "series": list[BucketView],
    },
)


async def statistics(service: Service, asked: AboutRange, request: Request) -> Response:
    """What happened in a range of time, how long it took, and how the tasks created in it stand now."""
    now = service.clock()
    window = asked.window(now)
    if (path := asked.work_directory) is not None:
        caller.get().enter(path)
    where = None if path is None else [path]
    found = await service.record.statistics(where, window.start, window.end, window.bucket)
    return ok(view(asked, window, found, now), now)


def view(asked: AboutRange, window: Window, found: Statistics, now: int) -> StatisticsView:
    completed, failed = found.events["completed"], found.events["failed"]
    passed = (min(window.end, now) - window.start) / 1000
    return {
        "from": rfc3339(window.start),
        "to": rfc3339(window.end),
        "bucket": asked.bucket,
        "work_directory": asked.work_directory,
        "total": sum(found.by_status.values()),
        "by_status": {
            "waiting": found.by_status[Status.WAITING],
            "working": found.by_status[Status.WORKING],
            "completed": found.by_status[Status.COMPLETED],
            "failed": found.by_status[Status.FAILED],
            "cancelled": found.by_status[Status.CANCELLED],
        },
        "by_priority": {
            "low": found.by_priority[Priority.LOW],
            "medium": found.by_priority[Priority.MEDIUM],
            "high": found.by_priority[Priority.HIGH],
        },
        "processing_seconds": _spread(found.processing),
        "waiting_seconds": _spread(found.waiting),
        "error_rate": round(failed / (completed + failed), 6) if failed else 0.0,
        "throughput_per_second": round(completed / passed, 6) if completed and passed > 0 else 0.0,
        "series": [_bucket(bucket) for bucket in found.series],
    }


def _spread(spread: Spread) -> SpreadView:
    return {"avg": spread.avg, "p50": spread.p50, "p95": spread.p95, "p99": spread.p99, "max": spread.max}


def _bucket(bucket: Bucket) -> BucketView:
    return {
        "at": rfc3339(bucket.at),
        "created": bucket.events["created"],
        "claimed": bucket.events["claimed"],
        "completed": bucket.events["completed"],
        "failed": bucket.events["failed"],
        "cancelled": bucket.events["cancelled"],
        "retried": bucket.events["retried"],
        "released": bucket.events["released"],
        "lease_expired": bucket.events["lease_expired"],
        "deleted": bucket.events["deleted"],
    }
