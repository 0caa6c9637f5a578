"""Tells whoever is listening what has changed. Publishing never waits and never raises."""

from asyncio import Event
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dispatcher.ports import Change, Changes

BACKLOG_MAX = 256  # changes a listener may be behind; beyond, it has lost touch and must read the record again

Topic = tuple[str, str]


def about_task(task_id: str) -> Topic:
    return "task", task_id


def about_directory(work_directory: str) -> Topic:
    return "directory", work_directory


def about_worker(worker_id: str) -> Topic:
    return "worker", worker_id


def topics(change: Change) -> set[Topic]:
    workers = {task.worker_id for task in (change.before, change.after) if task and task.worker_id}
    return {
        about_task(change.after.task_id),
        about_directory(change.after.work_directory),
        *map(about_worker, workers),
    }


class LostTouch(Exception):
    """This listener was too slow: changes have passed that it will not hear of."""


class Closed(Exception):
    """The hub has closed: nothing more will come."""


class Listener:
    def __init__(self) -> None:
        self.topics: set[Topic] = set()
        self._changes: deque[Change] = deque()
        self._lost = self._closed = False
        self._news = Event()

    async def next(self) -> Change:
        """The next change, in the order they were committed. LostTouch is raised once, then it goes on."""
        while not self._changes:
            if self._lost:
                self._lost = False
                raise LostTouch
            if self._closed:
                raise Closed
            self._news.clear()
            await self._news.wait()
        return self._changes.popleft()

    def clear(self) -> None:
        """Skip what is already here."""
        self._changes.clear()
        self._lost = False

    def hear(self, change: Change) -> None:
        if len(self._changes) >= BACKLOG_MAX:
            self._changes.clear()
            self._lost = True
        if not self._lost:
            self._changes.append(change)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()


class Hub:
    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._by_topic: defaultdict[Topic, set[Listener]] = defaultdict(set)
        self._watchers: list[Callable[[Changes], None]] = []
        self._closed = False

    def watch(self, watcher: Callable[[Changes], None]) -> None:
        """From now on it is told of everything, batch by batch. It must not wait, nor raise."""
        self._watchers.append(watcher)

    @contextmanager
    def listen(self, *topics: Topic) -> Iterator[Listener]:
        listener = Listener()
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

    def publish(self, changes: Changes) -> None:
        if changes:
            for watcher in self._watchers:
                watcher(changes)
        if not self._listeners:
            return
        for change in changes:
            if not isinstance(change, Change):
                continue  # that is for watchers
            heard = (listener for topic in topics(change) for listener in self._by_topic.get(topic, ()))
            for listener in set(heard):
                listener.hear(change)

    def close(self) -> None:
        """Every listener hears out what is on its way, and then that it is over."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
