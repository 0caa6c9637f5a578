"""Tells whoever is listening what has changed. Publishing never waits and never raises."""

from asyncio import Event
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from attrs import frozen

from dispatcher.ports import Change, Entry, Notice, Ruling, Told
from dispatcher.task import Status

BACKLOG_MAX = 256  # news a listener may be behind; beyond, it has lost touch and must read the record again

Announced = Sequence[Change | Ruling | Notice | Told]
"""What is on record: what has been decided here, and what others who share the record have told."""

Topic = tuple[str, str]
EVERYTHING: Topic = ("everything", "")


def about_task(task_id: str) -> Topic:
    return "task", task_id


def about_directory(work_directory: str) -> Topic:
    return "directory", work_directory


def about_worker(worker_id: str) -> Topic:
    return "worker", worker_id


@frozen
class News:
    """What has become of a task, or of the rules of a work directory: then `task_id` and `status` are None. `type` is
    that of the line in the history; None: there is none, only the task's log or its lease has changed. `workers`: whose
    it is, or was until now."""

    task_id: str | None
    work_directory: str
    status: Status | None
    attempt: int
    workers: Collection[str]
    type: str | None

    @property
    def topics(self) -> set[Topic]:
        about = {EVERYTHING, about_directory(self.work_directory), *map(about_worker, self.workers)}
        return about | {about_task(self.task_id)} if self.task_id is not None else about


def news(change: Change | Ruling | Notice | Told) -> News | None:
    """None: it is about the server."""
    if isinstance(change, Change):
        after, type = change.after, change.entry.type if change.entry else None
        workers = {task.worker_id for task in (change.before, after) if task and task.worker_id}
        return News(after.task_id, after.work_directory, after.status, after.attempt, workers, type)
    return _told(change.entry)


def _told(entry: Entry) -> News | None:
    if entry.work_directory is None:
        return None
    workers = {entry.worker_id} if entry.worker_id else ()
    return News(entry.task_id, entry.work_directory, entry.status, entry.attempt, workers, entry.type)


class LostTouch(Exception):
    """Something has passed that this listener will not hear of."""


class Closed(Exception):
    """The hub has closed: nothing more will come."""


class Listener:
    def __init__(self) -> None:
        self.topics: set[Topic] = set()
        self._heard: deque[News] = deque()
        self._lost = self._closed = False
        self._more = Event()

    async def next(self) -> News:
        """The next news, in the order of the commits. LostTouch is raised once, then it goes on."""
        while not self._heard:
            if self._lost:
                self._lost = False
                raise LostTouch
            if self._closed:
                raise Closed
            self._more.clear()
            await self._more.wait()
        return self._heard.popleft()

    def clear(self) -> None:
        """Skip what is already here."""
        self._heard.clear()
        self._lost = False

    def hear(self, news: News) -> None:
        if len(self._heard) >= BACKLOG_MAX:
            self.lose_touch()
        if not self._lost:
            self._heard.append(news)
        self._more.set()

    def lose_touch(self) -> None:
        self._heard.clear()
        self._lost = True
        self._more.set()

    def close(self) -> None:
        self._closed = True
        self._more.set()


L = TypeVar("L", bound=Listener)


class Hub:
    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._by_topic: defaultdict[Topic, set[Listener]] = defaultdict(set)
        self._watchers: list[Callable[[Announced], None]] = []
        self._closed = False

    def watch(self, watcher: Callable[[Announced], None]) -> None:
        """From now on it is told of everything, batch by batch. It must not wait, nor raise."""
        self._watchers.append(watcher)

    @contextmanager
    def listen(self, *topics: Topic) -> Iterator[Listener]:
        with self.listening(Listener(), *topics) as listener:
            yield listener

    @contextmanager
    def listening(self, listener: L, *topics: Topic) -> Iterator[L]:
        self._listeners.add(listener)
        if self._closed:
            listener.close()
        try:
            for topic in topics:
                self.follow(listener, topic)
            yield listener
        finally:
            self._listeners.discard(listener)
            for topic in list(listener.topics):
                self.unfollow(listener, topic)

    def follow(self, listener: Listener, topic: Topic) -> None:
        listener.topics.add(topic)
        self._by_topic[topic].add(listener)

    def unfollow(self, listener: Listener, topic: Topic) -> None:
        listener.topics.discard(topic)
        self._by_topic[topic].discard(listener)
        if not self._by_topic[topic]:
            del self._by_topic[topic]

    def publish(self, changes: Announced) -> None:
        if changes:
            for watcher in self._watchers:
                watcher(changes)
        if self._by_topic:
            for change in changes:
                if found := news(change):
                    self._tell(found)

    def stir(self, task_ids: Collection[str] | None) -> None:
        """Something about these tasks is on record that nobody here has been told of; None: perhaps about any task."""
        if task_ids is None:
            listeners = set(self._listeners)
        else:
            listeners = {it for task_id in task_ids for it in self._by_topic.get(about_task(task_id), ())}
        for listener in listeners:
            listener.lose_touch()

    def _tell(self, news: News) -> None:
        for listener in {it for topic in news.topics for it in self._by_topic.get(topic, ())}:
            listener.hear(news)

    def close(self) -> None:
        """Every listener hears out what is on its way, and then that it is over."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
