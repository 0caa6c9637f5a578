"""One writer per database: an exclusive lock on a file next to it, which the system drops when the process dies."""

import fcntl
import os
from pathlib import Path

from storage.errors import AlreadyOwned


class OwnerLock:
    def __init__(self, database: Path) -> None:
        """Take the lock, or raise AlreadyOwned. The database itself need not exist yet."""
        self._file = open(Path(f"{database.resolve()}.lock"), "a+")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise AlreadyOwned(f"another server is using it (process {owner})") from None
        if database.exists() and database.stat().st_nlink > 1:
            self._file.close()
            raise AlreadyOwned("it has several names (hard links), under which others could write to it")
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()
