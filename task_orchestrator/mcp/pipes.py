"""Lines from one file to another, each by a thread of its own: any kind of file will do, and none holds up the loop."""

import os
from asyncio import AbstractEventLoop, Future, Queue, get_running_loop, run_coroutine_threadsafe, to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

LINE_BYTES_MAX = 17 * 1024 * 1024  # the server takes 16 MiB
_PIECE_BYTES = 64 * 1024
_PIECES_MAX = 16  # read ahead


class Splitter:
    """Feed it what arrives; it gives back the whole lines, without their ends, None for one that is too long."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of a line whose end has not come yet
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes | None]:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._hold(end)
            yield self.rest()
        self._hold(rest)

    def rest(self) -> bytes | None:
        line = b"".join(self._pieces).removesuffix(b"\r") if self._size <= LINE_BYTES_MAX else None
        self._pieces, self._size = [], 0
        return line

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= LINE_BYTES_MAX:
            self._pieces.append(piece)
        else:
            self._pieces = []


async def lines(file: int) -> AsyncIterator[bytes | None]:
    """Until the file ends; None for a line that is too long."""
    pieces: Queue[bytes] = Queue(_PIECES_MAX)
    Thread(target=_read, args=(file, pieces, get_running_loop()), daemon=True).start()
    splitter = Splitter()
    while piece := await pieces.get():
        for line in splitter.feed(piece):
            yield line
    if last := splitter.rest():
        yield last


def _read(file: int, pieces: Queue[bytes], loop: AbstractEventLoop) -> None:
    piece = b"."
    while piece:
        try:
            piece = os.read(file, _PIECE_BYTES)
        except OSError:  # a terminal that is gone
            piece = b""
        waiting = pieces.put(piece)
        try:
            run_coroutine_threadsafe(waiting, loop).result()
        except RuntimeError:  # the loop is closed: nobody listens any more
            waiting.close()
            return


class Out:
    """The file that lines go to, whole and one after the other. `gone` is called when nobody reads any more."""

    def __init__(self, file: int, gone: Callable[[], object]) -> None:
        self._file, self._gone = file, gone
        self._loop = get_running_loop()
        self._queue: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._thread = Thread(target=self._write, daemon=True)
        self._thread.start()

    async def say(self, text: str) -> None:
        """Returns once it is written, or never can be."""
        written = self._loop.create_future()
        self._queue.put((text.encode(errors="replace") + b"\n", written))
        await written

    async def close(self, seconds: float) -> None:
        """Writes what is left, if that takes no longer."""
        self._queue.put(None)
        await to_thread(self._thread.join, seconds)

    def _write(self) -> None:
        while (said := self._queue.get()) is not None:
            line, written = said
            with suppress(RuntimeError):  # the loop is closed
                try:
                    while line:
                        line = line[os.write(self._file, line) :]
                except OSError:
                    self._loop.call_soon_threadsafe(self._gone)
                self._loop.call_soon_threadsafe(_settle, written)


def _settle(written: "Future[None]") -> None:
    if not written.done():  # unless whoever waited was told to stop
        written.set_result(None)
