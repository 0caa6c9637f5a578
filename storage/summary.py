"""What statistics say, put together from rows of the rollups and from what is not added up there yet."""

from collections.abc import Collection, Iterator, Sequence
from operator import add

from attrs import define, field

from dispatcher.fields import Priority
from dispatcher.statistics import HOUR, MINUTE, Bucket, Spread, Statistics
from dispatcher.task import Status
from storage.durations import Durations
from storage.tallies import EVENTS, EVERYWHERE, PLACES, Tally, Total, floor

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@define
class Summary:
    """Of [start, end), both whole minutes, in these directories (None: everywhere); a bucket is a minute or whole
    hours."""

    work_directories: Collection[str] | None
    start: int
    end: int
    bucket: int
    total: Total = field(factory=Total)
    _series: list[list[int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._series = [[0] * len(EVENTS) for _ in range(floor(self.start, self.bucket), self.end, self.bucket)]

    @property
    def wanted(self) -> list[str]:
        """Of which directories the rows are."""
        return [EVERYWHERE] if self.work_directories is None else [*self.work_directories]

    def ranges(self, bucket: int) -> Iterator[tuple[int, int, int]]:
        """The fewest rows that make up the range, none of which lies in two buckets: of which span, and from when to
        when."""
        first_hour, end_of_hours = self.start + -self.start % HOUR, floor(self.end, HOUR)
        if bucket < HOUR or first_hour >= end_of_hours:
            first_hour = end_of_hours = self.end
        yield MINUTE, self.start, first_hour
        yield HOUR, first_hour, end_of_hours
        yield MINUTE, end_of_hours, self.end

    def add_events(self, at: int, numbers: Sequence[int]) -> None:
        """Of a row or a minute. Events come first, the others are left out."""
        place = (at - floor(self.start, self.bucket)) // self.bucket
        self._series[place] = list(map(add, self._series[place], numbers))

    def add_tally(self, work_directory: str, minute: int, tally: Tally) -> None:
        """If it belongs to it."""
        is_here = self.work_directories is None or work_directory in self.work_directories
        if is_here and self.start <= minute < self.end:
            self.total.add(tally)
            self.add_events(minute, tally.numbers)

    def statistics(self) -> Statistics:
        origin, numbers = floor(self.start, self.bucket), self.total.numbers
        buckets = (max(self.start, origin + place * self.bucket) for place in range(len(self._series)))
        return Statistics(
            by_status={status: numbers[PLACES[status]] for status in Status},
            by_priority={priority: numbers[PLACES[priority]] for priority in Priority},
            events=_events(numbers),
            processing=_spread(self.total.processing),
            waiting=_spread(self.total.waiting),
            series=[Bucket(at, _events(it)) for at, it in zip(buckets, self._series, strict=True)],
        )


def _events(numbers: Sequence[int]) -> dict[str, int]:
    return dict(zip(EVENTS, numbers, strict=False))  # they come first


def _spread(durations: Durations) -> Spread:
    if not durations.bins:
        return Spread()
    points = durations.percentiles(PERCENTILES) | {"avg": durations.average(), "max": durations.most}
    return Spread(**{name: round(ms / 1000, 6) for name, ms in points.items()})
