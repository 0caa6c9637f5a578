"""Where the database lies, and how that place gets full."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from attrs import frozen

Tell = Callable[[str], Awaitable[None]]
"""Gives the server a command (see faulty_server)."""

ROOM_BYTES = 2**30  # what there is beyond what is used; no memory is taken for it
SLACK_BYTES = 16 * 2**10  # what a full disk still takes: some commit fails in the middle
OWN_MOUNTS = "FAULTS_OWN_MOUNTS"  # is set where mounting concerns nobody but us
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


@frozen
class Room:
    """A directory, which is full when SQLite is told that the database may grow no further."""

    directory: Path
    kind: ClassVar[str] = "in a directory that gets full by SQLite's own limit"

    @property
    def database(self) -> Path:
        return self.directory / "tasks.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}"

    async def fill(self, tell: Tell) -> None:
        await tell("full")

    async def clear(self, tell: Tell) -> None:
        await tell("room")


@frozen
class Elsewhere:
    """In a database that somebody else looks after."""

    url: str


@frozen
class SmallDisk(Room):
    """A file system of its own, which gets full by shrinking to what is used of it."""

    kind: ClassVar[str] = "on a file system of its own that gets really full"

    async def fill(self, tell: Tell) -> None:
        if not any(self._resize(slack) for slack in (SLACK_BYTES, 8 * SLACK_BYTES, 64 * SLACK_BYTES)):
            raise RuntimeError("the disk did not get full")  # the server writes faster than we look

    async def clear(self, tell: Tell) -> None:
        assert self._resize(ROOM_BYTES)

    def _resize(self, room_bytes: int) -> bool:
        disk = os.statvfs(self.directory)
        size = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + room_bytes
        command = ["mount", "-o", f"remount,size={size}", self.directory]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def room() -> Iterator[Room]:
    """A small disk where mounting is allowed and concerns nobody else, or else a plain directory."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        directory = Path(name)
        if not os.environ.get(OWN_MOUNTS):
            yield Room(directory)
            return
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", directory], check=True)
        try:
            yield SmallDisk(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


def with_own_mounts() -> None:
    """Start this program once more, where it may mount file systems that nobody else sees and that go with it; if the
    system does not allow that, all stays as it is."""
    allowed = shutil.which("unshare") and subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL).returncode == 0
    if allowed and not os.environ.get(OWN_MOUNTS):
        os.execvpe(UNSHARE[0], [*UNSHARE, sys.executable, *sys.argv], os.environ | {OWN_MOUNTS: "1"})
