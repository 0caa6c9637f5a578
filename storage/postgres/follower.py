"""What is on record becomes known here, in its order: what this server has written, and what others have.

A commit of another server is heard of by LISTEN, at the latest POLL_SECONDS after it. As the numbers of the history
have no gap and are in the order of the commits, whoever has read up to one of them has read everything before it.
"""

import asyncio
import logging
from asyncio import Event
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

import asyncpg

from dispatcher.errors import RecordFailed
from dispatcher.messages import Heed
from dispatcher.ports import Changes, Entry, Told
from storage.postgres.connections import LOST, Address
from storage.postgres.keys import KEYS_CHANNEL
from storage.postgres.record import PostgresRecord
from storage.postgres.writing import CHANNEL, MANY, NONE, directory_id
from storage.store import Member

POLL_SECONDS = 1
STRETCH = 1000  # entries read in one go
RETRY_SECONDS = 0.5

log = logging.getLogger(__name__)


class Follower:
    def __init__(self, address: Address, record: PostgresRecord, instance_id: str) -> None:
        self._address, self._record, self._instance_id = address, record, instance_id
        self._member: Member | None = None
        self._known = 0  # the seq up to which everything has been published
        self._heard = 0  # the highest one that is known to exist
        self._own: deque[Changes] = deque()  # batches of this server that have not been published
        self._unsure = False  # something may have passed unheard
        self._news = Event()
        self.deaf_since: float | None = monotonic()  # without a connection to listen on
        self._is_blind = False  # nothing can be read, and it has been said

    def begin(self, member: Member, last: int) -> None:
        """From here on: what comes behind this seq."""
        self._member, self._known, self._heard = member, last, last

    def announce(self, changes: Changes) -> None:
        """This server has recorded these."""
        self._own.append(changes)
        self._publish_own()
        if self._own:
            self._news.set()

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._news.wait()
                everything, self._unsure = self._unsure, False
            except TimeoutError:
                everything = True
            self._news.clear()
            try:
                await self._catch_up(everything)
            except (RecordFailed, TimeoutError) as error:
                if not self._is_blind:
                    log.warning("what others have done cannot be read: %s", error or type(error).__name__)
                self._is_blind = True
                await asyncio.sleep(RETRY_SECONDS)
                self._news.set()
            else:
                self._is_blind = False

    async def _catch_up(self, everything: bool) -> None:
        """Whether or not something was heard of, if `everything`."""
        while everything or self._own or self._known < self._heard:
            known, heard = self._known, self._heard
            stretch = await self._record.news(known, STRETCH)
            if stretch.last < known:  # own batches that came meanwhile aside
                self._begin_anew(stretch.last)
            elif known < stretch.first - 1:
                log.error("events %s to %s are no longer on record", known + 1, stretch.first - 1)
                self._known = max(self._known, stretch.first - 1)
            self._publish(stretch.entries)
            everything = self._known < stretch.last
            if not everything and self._heard == heard:
                self._heard = self._known  # whatever was heard of: that is all there is
                return

    def _begin_anew(self, last: int) -> None:
        """A standby has taken over that had not got everything."""
        log.critical("the record has lost the events %s to %s", last + 1, self._known)
        self._known = last
        self._own.clear()
        if self._member:
            self._member.stir(None)

    def _publish(self, entries: Sequence[Entry]) -> None:
        """Those of others; where an own batch comes in between, that is published as a whole."""
        foreign: list[Entry] = []
        for entry in entries:
            first = _first(self._own[0]) if self._own else None
            if self._own and (first is None or first <= entry.seq):
                self._tell(foreign)
                foreign = []
                self._publish_own()
            if entry.seq > self._known:
                foreign.append(entry)
                self._known = entry.seq
        self._tell(foreign)
        self._publish_own()

    def _publish_own(self) -> None:
        """As many batches as have nothing before them that is not known yet. What was read before it was announced has
        been told already."""
        while self._own and self._member and (first := _first(self._own[0]) or self._known + 1) <= self._known + 1:
            changes = self._own.popleft()
            if first == self._known + 1:
                self._known = max((change.entry.seq for change in changes if change.entry), default=self._known)
                self._heard = max(self._heard, self._known)
            else:
                changes = [change for change in changes if change.entry is None]
            self._member.publish(changes)

    def _tell(self, entries: Sequence[Entry]) -> None:
        if entries and self._member:
            self._member.publish([Told(entry) for entry in entries])
            self._member.heed(entries)

    # What is heard

    async def listen(self) -> None:
        """Until it is cancelled."""
        while True:
            with suppress(*LOST, asyncpg.PostgresError):
                await self._listen_once()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen_once(self) -> None:
        """Until the connection is lost."""
        lost = Event()
        connection = await self._address.connect()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._hear)
            await connection.add_listener(KEYS_CHANNEL, self._hear_of_keys)
            self.deaf_since = None
            self._miss()
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await lost.wait()
                        return
                async with asyncio.timeout(POLL_SECONDS * 5):
                    await connection.execute("select")  # one that hangs would never say so
        finally:
            self.deaf_since = monotonic()
            connection.terminate()

    def _miss(self) -> None:
        """Something may have passed unheard."""
        if self._member:
            self._member.stir(None)
            self._member.change_keys()
        self._unsure = True
        self._news.set()

    def _hear_of_keys(self, connection: object, pid: int, channel: str, payload: object) -> None:
        if self._member and payload != self._instance_id:
            self._member.change_keys()

    def _hear(self, connection: object, pid: int, channel: str, payload: object) -> None:
        sender, seq, directories, task_ids = str(payload).split(" ")
        if sender == self._instance_id or self._member is None:
            return
        self._heard = max(self._heard, int(seq))
        if task_ids != NONE:
            self._member.stir(None if task_ids == MANY else task_ids.split(","))
        if directories != NONE:
            ready = directories.split(",")
            here = self._member.waiting_directories()
            concerned = tuple(path for path in here if directories == MANY or directory_id(path) in ready)
            if concerned:
                self._member.remind(Heed(concerned))
        self._news.set()


def _first(changes: Changes) -> int | None:
    """The number of its first line, if it has one."""
    return next((change.entry.seq for change in changes if change.entry), None)
