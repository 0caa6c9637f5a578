"""A shell command and everything it starts, as one thing that can be awaited and stopped.

The command leads its own process group. What it prints is read to the end, but only the last part is kept, so a
gigabyte of output costs no memory. Its input is a file, so nobody has to wait until it reads.
"""

import os
import signal
import tempfile
from asyncio import create_subprocess_exec, get_running_loop, sleep
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
KILL_SECONDS = 5.0  # how long to wait for what SIGKILL should have ended
POLL_SECONDS = 0.05  # the system tells when a process ends, but not when the last of a group does
STDOUT_BYTES_MAX = 64 * 1024
STDERR_BYTES_MAX = 16 * 1024
_CHUNK_BYTES = 64 * 1024
_WITHHELD = frozenset({b"TASK_ORCHESTRATOR_API_KEY", b"TASK_SESSION_ID"})  # it may do more than asked; it is another's
_PIPE_BYTES_MAX = 1024 * 1024  # what a pipe can hold at the end; more is from somebody who escaped the group


Hear = Callable[[bytes], None]


def deaf(piece: bytes) -> None: ...


class Tail:
    """The reading end of a pipe: takes all that comes, lets `hear` have it, and keeps the last `limit` bytes."""

    def __init__(self, limit: int, hear: Hear = deaf) -> None:
        self._limit, self._hear = limit, hear
        self._kept = bytearray()
        self._total = 0
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        get_running_loop().add_reader(self._reader, self._read)

    @property
    def truncated(self) -> bool:
        """Whether there was more than was kept."""
        return self._total > self._limit

    def text(self) -> str:
        """What was kept; NUL, which no database takes, and bytes that are not UTF-8 become U+FFFD."""
        kept = self._kept[-self._limit :]
        if self.truncated:
            kept = kept[:3].lstrip(bytes(range(0x80, 0xC0))) + kept[3:]  # the rest of a character cut in two
        return kept.decode(errors="replace").replace("\0", "\ufffd")

    def close(self) -> None:
        """Take what the pipe still holds, without waiting for those who keep it open."""
        for _ in range(_PIPE_BYTES_MAX // _CHUNK_BYTES):
            if not self._read():
                break
        get_running_loop().remove_reader(self._reader)
        os.close(self._reader)

    def _read(self) -> bool:
        """Take one piece; False when there is nothing to take now."""
        try:
            piece = os.read(self._reader, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            get_running_loop().remove_reader(self._reader)
            return False
        self._total += len(piece)
        self._kept += piece
        self._hear(piece)
        if len(self._kept) > self._limit + _CHUNK_BYTES:
            del self._kept[: -self._limit]
        return True


class ProcessGroup:
    """A running command. Await wait() for its end, then, or whenever it is to end, stop()."""

    def __init__(self, leader: Process, stdout: Tail, stderr: Tail) -> None:
        self._leader = leader
        self.stdout, self.stderr = stdout, stderr
        self._started_at = get_running_loop().time()
        self.duration_seconds = 0.0

    @classmethod
    async def start(
        cls,
        command: str,
        *,
        directory: str,
        environment: Mapping[str, str],
        input_text: str,
        hear_stdout: Hear = deaf,
        hear_stderr: Hear = deaf,
    ) -> "ProcessGroup":
        """Run `/bin/sh -c command` in `directory`, with `environment` added to ours. Raises OSError.

        Our API key is withheld. What it prints is heard as it comes.
        """
        ours = {name: value for name, value in os.environb.items() if name not in _WITHHELD}
        stdout, stderr = Tail(STDOUT_BYTES_MAX, hear_stdout), Tail(STDERR_BYTES_MAX, hear_stderr)
        try:
            with _file_holding(input_text) as stdin:
                leader = await create_subprocess_exec(
                    *("/bin/sh", "-c", command),
                    stdin=stdin,
                    stdout=stdout.writer,
                    stderr=stderr.writer,
                    cwd=directory,
                    env=ours | {_bytes(name): _bytes(value) for name, value in environment.items()},
                    start_new_session=True,
                )
        except BaseException:
            for tail in (stdout, stderr):
                tail.close()
            raise
        finally:
            for tail in (stdout, stderr):
                os.close(tail.writer)
        return cls(leader, stdout, stderr)

    @property
    def exit_code(self) -> int | None:
        """As of subprocess: negative is the signal the leader died of, None while it lives."""
        return self._leader.returncode

    async def wait(self) -> None:
        """Until the command itself has ended; children it left behind may still run."""
        await self._leader.wait()

    async def stop(self) -> None:
        """End whatever lives of the group: SIGTERM, and SIGKILL five seconds later."""
        self.duration_seconds = get_running_loop().time() - self._started_at
        self._signal(signal.SIGTERM)
        if not await self._gone_within(GRACE_SECONDS):
            self.kill()
            await self._gone_within(KILL_SECONDS)
        self.stdout.close()
        self.stderr.close()

    def kill(self) -> None:
        """SIGKILL to the whole group, without waiting."""
        self._signal(signal.SIGKILL)

    async def _gone_within(self, seconds: float) -> bool:
        clock = get_running_loop().time
        until = clock() + seconds
        while not (gone := self._gone()) and clock() < until:  # noqa: ASYNC110 - no event tells
            await sleep(POLL_SECONDS)
        return gone

    def _gone(self) -> bool:
        if self.exit_code is None:
            return False
        with suppress(ChildProcessError):  # as process 1 of a container we inherit orphans, and must bury them
            os.waitpid(-self._leader.pid, os.WNOHANG)
        return not (self._signal(0) and _has_living(self._leader.pid))

    def _signal(self, number: int) -> bool:
        """Whether there was anybody to signal. Number 0 only asks."""
        try:
            os.killpg(self._leader.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody there has changed user
            return True
        return True


def _has_living(group: int) -> bool:
    """Whether anybody in a process group still runs; the dead whom nobody has buried, as in many containers, do not.

    Where the system has no /proc, whoever can be signalled counts as living.
    """
    if not os.path.exists("/proc/self/stat"):
        return True
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


@contextmanager
def _file_holding(text: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode(errors="replace"))
        file.seek(0)
        yield file


def _bytes(text: str) -> bytes:
    return text.replace("\0", "").encode(errors="replace")
