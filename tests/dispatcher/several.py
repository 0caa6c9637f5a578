"""The naive server as several that share what they know. This is all in which they may differ from a single one:

- whoever waits where something comes free goes before those who wait elsewhere; these follow in the order in which
  their servers hear of it, and those at one server in their own;
- who drains, and who ends, sends away those who wait there, and nobody else;
- leases are spared only where nobody has been there for a while;
- the numbers of the tasks have gaps.
"""

from attrs import define, field

from tests.dispatcher.oracle import Oracle
from tests.dispatcher.turns import Parked


@define
class Several(Oracle):
    """`parked` and `draining` are those of the one that is spoken to, or hears of something."""

    at: int = 0
    elsewhere: dict[int, tuple[list[Parked], bool]] = field(factory=dict)

    def turn_to(self, place: int) -> None:
        self.elsewhere[self.at] = self.parked, self.draining
        self.at = place
        self.parked, self.draining = self.elsewhere.pop(place, ([], False))

    def waiting(self) -> list[Parked]:
        return self.parked + [it for parked, _ in self.elsewhere.values() for it in parked]

    def hear(self, now: int) -> None:
        """What has come free elsewhere is for those who wait here."""
        self._settle(now)

    def end(self) -> list[object]:
        """This one is replaced by another; whose claims went unanswered."""
        gone = [parked.key for parked in self.parked]
        self.parked, self.draining = [], False
        return gone
