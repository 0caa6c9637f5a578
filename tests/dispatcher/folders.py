"""A work directory and its rules as the contract tells of them. Shares no code with the real ones."""

from typing import Any

from attrs import define, field

from dispatcher.fields import UNSET
from dispatcher.messages import Regulate


@define(eq=False)
class Folder:
    path: str
    max_working: int | None = None
    paused: bool = False
    reason: str | None = None
    until: int | None = None
    draining: bool = False
    drained: bool = False  # and nobody works there any more, which has been said
    lines: list[tuple[int, str, str]] = field(factory=list)  # of the history: when, what, where

    def summary(self) -> dict[str, Any]:
        return {
            "work_directory": self.path,
            "max_working": self.max_working,
            "paused": self.paused,
            "paused_reason": self.reason,
            "paused_until": self.until,
            "draining": self.draining,
        }

    def is_open(self, working: int) -> bool:
        full = self.max_working is not None and working >= self.max_working
        return not (self.paused or self.draining or full)

    def regulate(self, said: Regulate, now: int) -> Any:
        was_paused, was_draining = self.paused, self.draining
        paused = self.paused if said.paused is UNSET else said.paused
        if not paused and any(given not in (UNSET, None) for given in (said.paused_reason, said.paused_until)):
            return "NotPaused"
        if said.max_working not in (UNSET, self.max_working):
            self.max_working = said.max_working  # type: ignore[assignment]
            self._say("updated", now)
        self._pause(said, bool(paused), now)
        if said.draining is not UNSET:
            self.draining, self.drained = bool(said.draining), self.drained and bool(said.draining)
        if (was_paused and not self.paused) or (was_draining and not self.draining):
            self._say("resumed", now)
        if self.draining and not was_draining:
            self._say("draining", now)
        return self.summary()

    def _pause(self, said: Regulate, paused: bool, now: int) -> None:
        """What is not said stays, as long as it is paused."""
        reason = self.reason if said.paused_reason is UNSET else said.paused_reason
        until = self.until if said.paused_until is UNSET else said.paused_until
        if paused and (paused, reason, until) != (self.paused, self.reason, self.until):
            self._say("paused", now)
        self.paused, self.reason, self.until = (True, reason, until) if paused else (False, None, None)  # type: ignore[assignment]

    def look_at_the_clock(self, now: int) -> None:
        if self.until is not None and self.until <= now:
            self.paused, self.reason, self.until = False, None, None
            self._say("resumed", now)

    def note_drained(self, working: int, now: int) -> None:
        if self.draining and not working and not self.drained:
            self.drained = True
            self._say("drained", now)

    def _say(self, what: str, now: int) -> None:
        self.lines.append((now, f"directory.{what}", self.path))
