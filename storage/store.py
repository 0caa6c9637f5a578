"""What the server keeps its record in, whichever it is, and how that is opened."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal, Protocol

from dispatcher.audit import AuditLog
from dispatcher.board import Board
from dispatcher.hub import Announced
from dispatcher.keys import Keyring
from dispatcher.medium import Medium
from dispatcher.messages import Heed
from dispatcher.ports import Changes, Clock, Entry, Journal, Snapshot
from dispatcher.presence import Presence
from dispatcher.record import Record
from storage.encryption import EncryptionKey
from storage.errors import StorageError

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


class Member(Protocol):
    """A server, as the record knows it. None of these may wait, nor raise."""

    def publish(self, changes: Announced) -> None:
        """What is on record now, in its order."""

    def stir(self, task_ids: Collection[str] | None) -> None:
        """The logs of these tasks have grown; None: perhaps any has."""

    def heed(self, entries: Sequence[Entry]) -> None:
        """What others have written, as published before."""

    def remind(self, reminder: Heed) -> None:
        """What may have been missed."""

    def change_keys(self) -> None:
        """The keys may have changed."""

    def presence(self) -> Presence: ...

    def waiting_directories(self) -> Collection[str]:
        """Where somebody waits for a task."""


class Store(Journal, Medium, Protocol):
    """The dispatcher's journal, and all that goes with it."""

    @property
    def Board(self) -> type[Board]:
        """What knows how to decide on this record."""

    @property
    def record(self) -> Record: ...

    @property
    def keyring(self) -> Keyring: ...

    @property
    def audit_log(self) -> AuditLog: ...

    def watch(self, watcher: Callable[[int, float, float], None]) -> None:
        """From now on it is told of every commit: how many changes it had, how many seconds it took, and how many of
        these to make what was written durable. It must not wait, nor raise."""

    def clock(self, snapshot: Snapshot) -> Clock:
        """The time to decide by."""

    def membership(self, member: Member, last: int) -> AbstractAsyncContextManager[None]:
        """Meanwhile the server is told of whatever comes on record behind the seq `last`."""

    def announce(self, changes: Changes) -> None:
        """The server has recorded these: to be published when it is their turn."""

    async def webhook_place(self) -> int | None:
        """The seq of the last event that the webhook was told of; None if there is none. Waits until it is for this
        server to tell it. Raises RecordFailed."""

    async def keep_webhook_place(self, seq: int | None) -> None: ...


def path_of(url: str) -> Path | None:
    """Of the file, if it is one."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


@asynccontextmanager
async def open_store(
    url: str,
    *,
    synchronous: Literal["full", "normal"] = "full",
    timeout_seconds: float = 30,
    max_connections: int = 100,
    min_connections: int = 10,
    key: EncryptionKey | None = None,
) -> AsyncIterator[Store]:
    """Raises StorageError. The connections are PostgreSQL's, the key is that of a file."""
    opened: AbstractAsyncContextManager[Store]
    if path := path_of(url):
        from storage.sqlite import store as sqlite

        opened = sqlite.open_store(path, synchronous=synchronous, timeout_seconds=timeout_seconds, key=key)
    else:
        try:
            from storage.postgres import store as postgres
            from storage.postgres.connections import Address
        except ModuleNotFoundError as error:
            raise StorageError(f"{error.name} is missing, which PostgreSQL takes: pip install {error.name}") from error
        opened = postgres.open_store(
            Address(
                url=url,
                synchronous=synchronous,
                timeout_seconds=timeout_seconds,
                max_connections=max_connections,
                min_connections=min_connections,
            )
        )
    async with opened as store:
        yield store
