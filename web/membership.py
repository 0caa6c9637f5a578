"""The server among others on the same record: it hears what they do, and tells them who is connected here."""

import asyncio
from collections.abc import Collection, Sequence

from attrs import define, field

from dispatcher.actor import Dispatcher
from dispatcher.hub import Announced, Hub
from dispatcher.messages import Heed
from dispatcher.ports import Entry
from dispatcher.presence import Presence
from dispatcher.task import Status

PAUSED = "directory.paused"
HELD = (None, Status.WORKING)


@define(eq=False)
class Membership:
    hub: Hub
    dispatcher: Dispatcher
    reconfigured: asyncio.Event = field(factory=asyncio.Event)  # by others
    keys_changed: asyncio.Event = field(factory=asyncio.Event)

    def publish(self, changes: Announced) -> None:
        self.hub.publish(changes)

    def stir(self, task_ids: Collection[str] | None) -> None:
        self.hub.stir(task_ids)

    def heed(self, entries: Sequence[Entry]) -> None:
        """What they have done may be what somebody waits for here."""
        if any(entry.type == "config.changed" for entry in entries):
            self.reconfigured.set()
        told = {entry.work_directory for entry in entries if entry.work_directory}
        if self.dispatcher.has_limit and any(entry.attempt and entry.status not in HELD for entry in entries):
            told |= {*self.dispatcher.waiting_directories()}  # the slot that came free is for any of them
        concerned = tuple(path for path in told if self.dispatcher.waiting_in(path))
        ends = ((entry.details.get("until"), entry.work_directory) for entry in entries if entry.type == PAUSED)
        pauses = tuple((until, path) for until, path in ends if until is not None and path is not None)
        if concerned or pauses:
            self.dispatcher.heed(Heed(concerned, pauses))

    def remind(self, reminder: Heed) -> None:
        self.dispatcher.heed(reminder)

    def change_keys(self) -> None:
        self.keys_changed.set()

    def presence(self) -> Presence:
        return self.dispatcher.presence()

    def waiting_directories(self) -> Collection[str]:
        return self.dispatcher.waiting_directories()
