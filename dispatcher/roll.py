"""Who was here within the last hour. It is kept in memory, bounded, and lost with the process; the next one learns of
them by what they have left in the record."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from attrs import define, field

from dispatcher.messages import FOREVER, Claim, Complete, LeaseMessage, Message
from dispatcher.ports import Clock
from dispatcher.presence import Connection, Worker
from dispatcher.record import Sighting
from dispatcher.shelf import Waiter
from dispatcher.task import Task

WORKERS_MAX = 10_000  # names kept; beyond, the one not seen for longest is forgotten
DIRECTORIES_MAX = 100  # of one worker; likewise
PLACES_MAX = 50_000  # directories of all workers together; likewise
SEEN_SECONDS = 3600
POLL_SECONDS = 60  # a worker that has claimed within so long is one that polls

Channel = Literal["stream", "mcp"]


@define
class _Seen:
    at: int = 0
    claimed_at: int | None = None  # by a claim that ends by itself, or whose caller waited until then
    claims_by: Connection = "poll"
    places: dict[str, int] = field(factory=dict)  # when it was last seen in each directory, the latest last


class Roll:
    def __init__(self, sightings: Iterable[Sighting] = ()) -> None:
        """The sightings: oldest first."""
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._places = 0
        self._present: defaultdict[str, Counter[tuple[Channel, str]]] = defaultdict(Counter)
        for sighting in sightings:
            self.note(sighting.worker_id, (sighting.work_directory,), sighting.at)

    def note(self, worker_id: str, work_directories: Iterable[str], now: int) -> _Seen:
        """It was seen there."""
        seen = self._seen.pop(worker_id, None) or _Seen()
        self._seen[worker_id] = seen
        seen.at = now
        self._places -= len(seen.places)
        for path in work_directories:
            seen.places.pop(path, None)
            seen.places[path] = now
        while len(seen.places) > DIRECTORIES_MAX:
            del seen.places[next(iter(seen.places))]
        self._places += len(seen.places)
        while len(self._seen) > WORKERS_MAX or self._places > PLACES_MAX:
            _, forgotten = self._seen.popitem(last=False)
            self._places -= len(forgotten.places)
        return seen

    def hear(self, message: Message[Any], working: Mapping[str, Task], now: int) -> None:
        """A message that names a worker, or speaks under a worker's lease, is a sign of life, if its caller may."""
        if isinstance(message, Claim):
            if message.worker_id and all(map(message.by.sees, message.work_directories)):
                seen = self.note(message.worker_id, message.work_directories, now)
                if message.wait_seconds != FOREVER:
                    seen.claimed_at = now
                    over = {channel for channel, _ in +self._present.get(message.worker_id, Counter())}
                    seen.claims_by = "mcp" if over == {"mcp"} else "poll"
        elif isinstance(message, LeaseMessage):
            task = working.get(message.task_id)
            if task and not (message.by.sees(task.work_directory) and message.by.may_report(task.claimed_by)):
                return
            if task and task.worker_id and message.lease_token in (None, task.lease_token):
                self.note(task.worker_id, (task.work_directory,), now)
            elif isinstance(message, Complete) and message.worker_id:
                self.note(message.worker_id, (), now)

    @contextmanager
    def present(self, channel: Channel, worker_id: str | None, work_directory: str, clock: Clock) -> Iterator[None]:
        """A worker is connected within."""
        if worker_id is None:
            yield
            return
        here = self._present[worker_id]
        here[channel, work_directory] += 1
        self.note(worker_id, (work_directory,), clock())
        try:
            yield
        finally:
            self.note(worker_id, (work_directory,), clock())
            here[channel, work_directory] -= 1
            if not +here:
                del self._present[worker_id]

    def call(self, waiters: Iterable[Waiter], now: int) -> list[Worker]:
        """Who was seen within the last hour, by name; whoever is connected or waits for a task is seen now."""
        waiting = [waiter.claim for waiter in waiters if waiter.claim.worker_id]
        for claim in waiting:
            self.hear(claim, {}, now)
        for worker_id, here in self._present.items():
            self.note(worker_id, sorted({path for _, path in +here}), now)
        since = now - SEEN_SECONDS * 1000
        return [
            Worker(
                worker_id=worker_id,
                work_directories=tuple(sorted(path for path, at in seen.places.items() if at > since)),
                last_seen_at=seen.at,
                connection=self._connection(worker_id, seen, now),
            )
            for worker_id, seen in sorted(self._seen.items())
            if seen.at > since
        ]

    def _connection(self, worker_id: str, seen: _Seen, now: int) -> Connection:
        if here := self._present.get(worker_id):
            return "stream" if any(channel == "stream" for channel, _ in +here) else "mcp"
        polls = seen.claimed_at is not None and seen.claimed_at > now - POLL_SECONDS * 1000
        return seen.claims_by if polls else "none"
