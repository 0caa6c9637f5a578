"""What a command prints, sent to its task's log while it runs: a call a second at most, and never at the expense of the
command. What cannot be sent in time is left out; the end of the output is in the result anyhow."""

from asyncio import Lock, sleep, timeout
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice

from task_orchestrator.errors import Refused, Unreachable

PAUSE_SECONDS = 1.0  # between two calls
CALL_SECONDS = 10.0  # for the answer to one
LAST_SECONDS = 2.0  # for what is left once the command has ended
KEPT_LINES_MAX = 10_000  # until they are sent; beyond, what is printed is left out
KEPT_BYTES_MAX = 2 * 1024 * 1024  # likewise; the server takes a call with that many, whatever is in them
CALL_LINES_MAX = 1000
LINE_BYTES_MAX = 8 * 1024  # a longer one is cut into several
LEFT_OUT = b"[some of the output is left out here]"

Send = Callable[[list[str]], Awaitable[object]]


class Lines:
    """Makes lines of the pieces of a stream."""

    def __init__(self, keep: Callable[[bytes], None], is_full: Callable[[], bool]) -> None:
        self._keep, self._is_full = keep, is_full
        self._rest = b""  # of a line whose end has not come yet

    def feed(self, piece: bytes) -> None:
        if self._is_full():  # a command that prints without end must not keep us busy
            piece = piece[-LINE_BYTES_MAX:]
        *whole, rest = (self._rest + piece).split(b"\n")
        for line in whole:
            self._keep(self._cut(line).removesuffix(b"\r"))
        self._rest = self._cut(rest)

    def close(self) -> None:
        if self._rest:
            self._keep(self._rest)
            self._rest = b""

    def _cut(self, line: bytes) -> bytes:
        """What is left of it once it is short enough; never in the midst of a character."""
        while len(line) > LINE_BYTES_MAX:
            end = LINE_BYTES_MAX
            while end > LINE_BYTES_MAX - 4 and line[end] & 0xC0 == 0x80:
                end -= 1
            self._keep(line[:end])
            line = line[end:]
        return line


class Printing:
    """Feed `stdout` and `stderr`; run() sends what they hold until it is cancelled, finish() the last of it."""

    def __init__(self, send: Send) -> None:
        self._send: Send | None = send  # None: the server takes no more
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._sending = Lock()  # one call at a time, so that nothing is said twice
        self._left_out = False  # something was printed that is not kept
        self.stdout, self.stderr = Lines(self._keep, self._is_full), Lines(self._keep, self._is_full)

    async def run(self) -> None:
        while self._send:
            await sleep(PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with timeout(CALL_SECONDS):
                    await self._send_some()

    async def finish(self) -> None:
        self.stdout.close()
        self.stderr.close()
        with suppress(TimeoutError):
            async with timeout(LAST_SECONDS):
                while await self._send_some():
                    pass

    def _is_full(self) -> bool:
        return self._send is None or len(self._kept) >= KEPT_LINES_MAX or self._kept_bytes >= KEPT_BYTES_MAX

    def _keep(self, line: bytes) -> None:
        if self._is_full():
            self._left_out = True
            return
        if self._left_out:
            self._kept.append(LEFT_OUT)
            self._kept_bytes += len(LEFT_OUT)
            self._left_out = False
        self._kept.append(line)
        self._kept_bytes += len(line)

    async def _send_some(self) -> bool:
        """Whether the server took a call's worth of lines; what it has not answered is sent again."""
        async with self._sending:
            return self._send is not None and bool(self._kept) and await self._send_first(self._send)

    async def _send_first(self, send: Send) -> bool:
        lines = list(islice(self._kept, CALL_LINES_MAX))
        try:
            await send(list(map(_text, lines)))
        except Unreachable:
            return False
        except Refused as refusal:
            if not refusal.temporary:  # the lease or the room is gone
                self._send = None
                self._kept.clear()
            return False
        for _ in lines:
            self._kept_bytes -= len(self._kept.popleft())
        return True


def _text(line: bytes) -> str:
    """NUL, which no database takes, and bytes that are not UTF-8 become U+FFFD, which is longer."""
    text = line.decode(errors="replace").replace("\0", "\ufffd")
    return text.encode()[:LINE_BYTES_MAX].decode(errors="ignore")
