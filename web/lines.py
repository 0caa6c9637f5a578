"""Lines of a log, written by a thread of their own: nobody who logs ever waits for whoever reads."""

from collections import deque
from collections.abc import Callable
from io import RawIOBase
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")

LINES_MAX = 20_000  # lines waiting to be written; beyond, the oldest are lost, and their number is told
CHUNK = 64  # lines made in one go: as long as that takes, nobody else runs
GATHER_SECONDS = 0.05  # what comes within is written together
FLUSH_SECONDS = 1.0  # at the end, what cannot be written within is lost


class Lines(Generic[T]):
    """Takes lines in whatever form; `render` makes their bytes, and `mourn` those of the line that says how many were
    lost. Both run in the thread."""

    def __init__(self, file: RawIOBase, render: Callable[[T], bytes], mourn: Callable[[int], bytes]) -> None:
        self._file, self._render, self._mourn = file, render, mourn
        self._waiting: deque[T] = deque(maxlen=LINES_MAX)
        self._news, self._closing = Event(), Event()
        self.lost = self._mourned = 0
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: T) -> None:
        if len(self._waiting) == LINES_MAX:
            self.lost += 1
        self._waiting.append(line)
        if not self._news.is_set():
            self._news.set()

    def end(self) -> None:
        """What is here is yet written; then the file is closed."""
        self._closing.set()
        self._news.set()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Write out what is here, as far as that can be done in this time."""
        self.end()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._news.wait()
            self._closing.wait(GATHER_SECONDS)
            self._news.clear()
            self._write_all()
        self._write_all()  # what was put here as the end began
        self._file.close()

    def _write_all(self) -> None:
        while self._waiting:
            self._write_some()

    def _write_some(self) -> None:
        chunk: list[T] = []
        while self._waiting and len(chunk) < CHUNK:
            chunk.append(self._waiting.popleft())
        lost = self.lost - self._mourned
        self._mourned += lost
        text = b"".join([self._mourn(lost)] * bool(lost) + [self._render(line) for line in chunk])
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:  # nobody reads it, or there is no room
            self.lost += len(chunk) + lost
