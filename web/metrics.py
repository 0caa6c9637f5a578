"""What is counted and measured for Prometheus. Every label has few values, whatever callers send."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from dispatcher.events import EVENT_TYPES
from dispatcher.ports import Changes, Entry

UNKNOWN = "unknown"  # a path that is none of ours, with whatever method
OTHER = "other"  # any method that a path of ours does not know
EVENTS = [name for name in EVENT_TYPES if name.startswith("task.") and name != "task.progress"]  # which is no step
REFUSALS = {401: "unauthorized", 403: "forbidden", 429: "rate_limited", 503: "unavailable"}
READERS = ("worker", "feed", "logs", "export", "mcp")
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FSYNC = (0.0001, 0.00025, 0.0005, *FAST[:11])
SLOW = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each, saying when the server started


@frozen
class _Together(Collector):
    registry: CollectorRegistry
    now: Sequence[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.registry.collect()
        yield from self.now


class Metrics:
    """Counts what it is told of."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._events = {
            event: self._counter(event.replace(".", "_"), f"Entries {event} in the history.") for event in EVENTS
        }
        refusals = Counter("requests_refused", "Requests turned down at the door.", ["reason"], registry=self._registry)
        self._refusals = {status: refusals.labels(reason) for status, reason in REFUSALS.items()}
        self._errors = self._counter("internal_errors", "Requests that met an error nobody foresaw, each in the log.")
        self._responses = Histogram(
            "response_time_seconds",
            "From the head of a request to its answer, or to the end of its stream.",
            ["method", "route", "status"],
            registry=self._registry,
            buckets=FAST,
        )
        self._by_answer: dict[tuple[str, str, int], Histogram] = {}
        self._waiting = self._histogram("task_waiting_seconds", "From available to claimed.", SLOW)
        self._processing = self._histogram("task_processing_seconds", "From claimed to completed or failed.", SLOW)
        self._commit = self._histogram("commit_seconds", "A whole commit, with the way to its thread.", FSYNC)
        self._fsync = self._histogram("commit_fsync_seconds", "To make durable what a commit has written.", FSYNC)
        self._changes = self._histogram("commit_changes", "Changes in a commit.", SIZES)
        self._calls = Counter("mcp_calls", "Calls of tools.", ["tool", "outcome"], registry=self._registry)
        readers = Gauge("stream_readers", "Open event streams.", ["kind"], registry=self._registry)
        self._readers = {kind: readers.labels(kind) for kind in READERS}

    def committed(self, changes: Changes) -> None:
        """A batch is in the record and announced."""
        for change in changes:
            if change.entry and (counter := self._events.get(change.entry.type)):
                counter.inc()
                self._note_times(change.entry)

    def saved(self, changes: int, seconds: float, fsync_seconds: float) -> None:
        """A commit is done."""
        self._changes.observe(changes)
        self._commit.observe(seconds)
        self._fsync.observe(fsync_seconds)

    def answered(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """`method` is one that the path knows, or OTHER. `route` is the pattern of the path, None if it is none of
        ours; no `status`: nobody was there any more."""
        key = (method, route, (status or 0) // 100) if route else (UNKNOWN, UNKNOWN, (status or 0) // 100)
        child = self._by_answer.get(key)
        if child is None:
            name = f"{key[2]}xx" if status else "none"
            child = self._by_answer[key] = self._responses.labels(*key[:2], name)
        child.observe(seconds)
        if status in REFUSALS:
            self._refusals[status].inc()
        elif status == 500:
            self._errors.inc()

    def called(self, tool: str, outcome: str) -> None:
        """Over MCP; the outcome is `ok` or the code of a refusal."""
        self._calls.labels(tool, outcome).inc()

    @contextmanager
    def reading(self, kind: str) -> Iterator[None]:
        """Somebody reads a stream meanwhile; one of READERS."""
        with self._readers[kind].track_inprogress():
            yield

    def text(self, now: Sequence[Metric]) -> bytes:
        """All that was counted, and how things stand now, as Prometheus reads it."""
        return generate_latest(_Together(self._registry, now))

    def _note_times(self, entry: Entry) -> None:
        if (seconds := entry.details.get("waiting_seconds")) is not None:
            self._waiting.observe(seconds)
        if (seconds := entry.details.get("processing_seconds")) is not None:
            self._processing.observe(seconds)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, registry=self._registry, buckets=buckets)
