"""What an operator has laid down for a work directory."""

from attrs import frozen


@frozen(kw_only=True)
class Directory:
    """`max_working` None: no limit. `paused_until` is in milliseconds since the epoch, None: until resumed."""

    work_directory: str
    max_working: int | None = None
    paused: bool = False
    paused_reason: str | None = None
    paused_until: int | None = None
    draining: bool = False

    @property
    def closed(self) -> bool:
        """Nobody is given a task here."""
        return self.paused or self.draining
