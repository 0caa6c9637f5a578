"""What the record is kept on, as those see it who ask whether all is well."""

from typing import Protocol

from attrs import frozen


@frozen(kw_only=True)
class Room:
    """Of the disk, and how long the record's write-ahead log is; None: that is not ours to see."""

    free_bytes: int | None = None
    total_bytes: int | None = None
    log_bytes: int | None = None


class Medium(Protocol):
    """Every method raises RecordFailed; a disk that hangs makes them hang."""

    async def probe(self) -> None:
        """Write something durably, as the next commit will have to."""

    async def room(self) -> Room: ...
