"""What has happened lately, ready to be sent: each line of the history becomes one frame, however many follow it.

A reader has only a cursor, the seq up to which it knows everything. `take` gives it what lies behind; where the cursor
is too old for that, what is missing stands in the record. So a slow reader costs nobody anything, and loses nothing.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from attrs import evolve, frozen

from dispatcher.hub import Announced
from dispatcher.ports import Entry
from dispatcher.record import EventFilter
from dispatcher.task import Status
from web.access.redaction import HIDDEN, Redaction, over_payloads
from web.codec import encode
from web.views import event

EVENTS_MAX = 4096  # events kept for those who are behind; who is further behind reads the record
EVENTS_BYTES_MAX = 8 * 2**20  # and no more than so many bytes of them
HIDDEN_BYTES = 64 * 1024  # who may not see everything sees nothing of the details of a longer one: looking takes long
BATCH_BYTES_MAX = 256 * 1024  # of frames written at once, if it is more than one
RECORD_READERS_MAX = 2  # that are further behind read the record at a time, so that all others get at it too
SHARED_MAX = 64  # batches kept for those readers that want the same
WOKEN_AT_ONCE = 32  # readers; then whatever else there is to do has its turn
REST = (
    3  # times as long as it took to wake all readers they are left alone, so that they never take all the time there is
)
REST_SECONDS_MAX = 0.5

Key = tuple[str, str]
EVERYTHING: Key = ("", "")


@frozen
class Event:
    """An entry as it is sent. `is_end`: nobody will work on its task any more, whatever is asked."""

    entry: Entry
    frame: bytes
    is_end: bool


@frozen
class Batch:
    """The next frames for a reader, all about what lies between its cursor and `up_to`."""

    frames: bytes
    up_to: int
    last: int | None = None  # the id of the last frame
    is_end: bool = False


def framed(entry: Entry) -> Event:
    is_end = entry.status in (Status.COMPLETED, Status.CANCELLED) or entry.type == "task.deleted"
    return Event(entry, frame(entry.seq, entry.type, event(entry)), is_end)


def _veiled(one: Event) -> Event:
    """As whoever it is shown to may see it; all others share its frame."""
    entry = one.entry
    if len(one.frame) > HIDDEN_BYTES:
        entry = evolve(entry, details=dict.fromkeys(entry.details, HIDDEN))
    return framed(entry)


def frame(id: int, type: str, data: object) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (id, type.encode(), encode(data))


def joined(events: Iterable[Event], up_to: int) -> Batch:
    """As many of the events, all that there are up to `up_to`, as may be written at once; but one in any case."""
    frames: list[bytes] = []
    size, last, is_end = 0, None, False
    for one in events:
        if frames and size + len(one.frame) > BATCH_BYTES_MAX:
            assert last is not None
            return Batch(b"".join(frames), last, last, is_end)
        frames.append(one.frame)
        size += len(one.frame)
        last, is_end = one.entry.seq, is_end or one.is_end
    return Batch(b"".join(frames), up_to, last, is_end)


class Feed:
    def __init__(self, last: int) -> None:
        """`last`: the seq given out last."""
        self.last = last
        self.readers = 0
        self.closed = False
        self.reading_record = asyncio.Semaphore(RECORD_READERS_MAX)
        self._known_from = last  # what lies behind this seq is here
        self._bytes = 0
        self._events: dict[Key, deque[Event]] = {EVERYTHING: deque()}  # all; those of each directory; of each task
        self._shared: dict[tuple[int, EventFilter, Redaction | None], Batch] = {}  # since the last event came
        self._waiting: set[asyncio.Future[None]] = set()  # readers that have seen all there is
        self._waking: list[asyncio.Future[None]] = []  # those to be woken in this round
        self._is_round = False  # from its first waking to the end of its rest
        self._round_began, self._round_brings = 0.0, last

    def publish(self, changes: Announced) -> None:
        """Take in what was committed, in the order in which it was."""
        entries = [change.entry for change in changes if change.entry]
        if entries and entries[0].seq <= self.last:  # a standby has taken over that had not got everything
            self._pass_over(entries[0].seq - 1)
        if entries and not self.readers:
            self._pass_over(entries[-1].seq)
            return
        for entry in entries:
            self._add(framed(entry))
        if entries:
            self._shared.clear()
            if not self._is_round:
                self._wake()

    def reaches(self, cursor: int) -> bool:
        """All that lies behind the cursor is here."""
        return self._known_from <= cursor <= self.last

    def take(self, cursor: int, only: EventFilter) -> Batch:
        """What comes next behind a cursor within reach."""
        hide = over_payloads()
        key = cursor, only, hide
        if (batch := self._shared.get(key)) is None:
            if len(self._shared) >= SHARED_MAX:
                self._shared.clear()
            found: Iterable[Event] = self._behind(cursor, only)
            batch = self._shared[key] = joined(map(_veiled, found) if hide else found, self.last)
        return batch

    async def news(self) -> None:
        """Returns when there may be more; at once if there never will be."""
        if self.closed:
            return
        news = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        try:
            await news
        finally:
            self._waiting.discard(news)

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1

    def close(self) -> None:
        """Every reader is sent what has happened so far, and then its stream ends."""
        self.closed = True
        for news in (*self._waking, *self._waiting):
            _set(news)

    def _pass_over(self, last: int) -> None:
        """Nobody reads: whoever comes finds it in the record."""
        if self._bytes:
            self._events = {EVERYTHING: deque()}
            self._shared.clear()
            self._bytes = 0
        self.last = self._known_from = last

    def _add(self, one: Event) -> None:
        self.last = one.entry.seq
        self._bytes += len(one.frame)
        for key in _keys(one.entry):
            self._events.setdefault(key, deque()).append(one)
        events = self._events[EVERYTHING]
        while len(events) > EVENTS_MAX or self._bytes > EVENTS_BYTES_MAX:
            self._drop(events[0])

    def _drop(self, oldest: Event) -> None:
        self._known_from = oldest.entry.seq
        self._bytes -= len(oldest.frame)
        for key in _keys(oldest.entry):
            self._events[key].popleft()
            if not self._events[key] and key != EVERYTHING:
                del self._events[key]

    def _behind(self, cursor: int, only: EventFilter) -> list[Event]:
        """Oldest first. Looks only at those of the task, or of the directories, if the filter names any."""
        keys = [EVERYTHING]
        if only.task_id:
            keys = [_task(only.task_id)]
        elif only.work_directories:
            keys = list(map(_directory, only.work_directories))
        found = [
            one for one in chain.from_iterable(self._since(cursor, key) for key in keys) if only.matches(one.entry)
        ]
        return sorted(found, key=lambda one: one.entry.seq)

    def _since(self, cursor: int, key: Key) -> Iterator[Event]:
        for one in reversed(self._events.get(key, ())):
            if one.entry.seq <= cursor:
                return
            yield one

    def _wake(self) -> None:
        """Begin a round: everybody who waits is woken, some at a time."""
        self._is_round = True
        self._round_began, self._round_brings = asyncio.get_running_loop().time(), self.last
        self._waking = list(self._waiting)
        self._wake_some()

    def _wake_some(self) -> None:
        some, self._waking = self._waking[:WOKEN_AT_ONCE], self._waking[WOKEN_AT_ONCE:]
        for news in some:
            _set(news)
        asyncio.get_running_loop().call_soon(self._wake_some if self._waking else self._rest)

    def _rest(self) -> None:
        """They have had their turn."""
        loop = asyncio.get_running_loop()
        loop.call_later(min((loop.time() - self._round_began) * REST, REST_SECONDS_MAX), self._end_round)

    def _end_round(self) -> None:
        self._is_round = False
        if self.last > self._round_brings:
            self._wake()


def _set(news: "asyncio.Future[None]") -> None:
    if not news.done():
        news.set_result(None)


def _task(task_id: str) -> Key:
    return "task", task_id


def _directory(work_directory: str) -> Key:
    return "directory", work_directory


def _keys(entry: Entry) -> Iterator[Key]:
    yield EVERYTHING
    if entry.task_id is not None:
        yield _task(entry.task_id)
    if entry.work_directory is not None:
        yield _directory(entry.work_directory)
