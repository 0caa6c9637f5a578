"""What statistics say of a range of time."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from dispatcher.fields import Priority
from dispatcher.task import Status

MINUTE = 60_000  # ms
HOUR = 60 * MINUTE


@frozen(kw_only=True)
class Spread:
    """Of durations, in seconds; None if there are none. `avg` and `max` are exact, the percentiles within 2.5 %."""

    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@frozen
class Bucket:
    """From `at` to the next one, or to the end of the range: how often what happened."""

    at: int
    events: Mapping[
        str, int
    ]  # created, claimed, completed, failed, cancelled, retried, released, lease_expired, deleted


@frozen(kw_only=True)
class Statistics:
    """`by_status` and `by_priority` are of the tasks created in the range, as they are now, or were when deleted;
    everything else is of what happened in it."""

    by_status: Mapping[Status, int]
    by_priority: Mapping[Priority, int]
    events: Mapping[str, int]  # as those of a bucket
    processing: Spread  # of attempts that completed or failed their task: from the claim on
    waiting: Spread  # of claims: since the task was created or, if that is later, was not to run before
    series: Sequence[Bucket]  # without a gap
