"""The keys that open the door, as the record keeps them: never the key itself, only its SHA-256."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen

from dispatcher.caller import Scope


@frozen(kw_only=True)
class Key:
    """Times are milliseconds since the epoch. One that was revoked stays on record; another may bear its name then."""

    digest: str  # in hexadecimal digits
    name: str
    scopes: tuple[Scope, ...]
    work_directories: tuple[str, ...]  # patterns, as in Reach; `*`: all of them
    created_at: int
    created_by: str | None
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None


class Keyring(Protocol):
    """Every method raises RecordFailed."""

    async def keys(self) -> Sequence[Key]:
        """All that there have ever been, in the order in which they were made."""

    async def key(self, digest: str) -> Key | None:
        """One in force that this server may not have heard of yet; None also where nobody else can make any."""

    async def add(self, key: Key) -> None:
        """Raises KeyExists."""

    async def revoke(self, name: str, at: int) -> bool:
        """False if there is none of this name in force."""

    async def note_used(self, used: Mapping[str, int]) -> None:
        """When each, by its digest, was last used."""
