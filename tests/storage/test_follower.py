"""What is on record is published once and in its order, whoever wrote it and whenever it is read."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from dispatcher.hub import Announced
from dispatcher.messages import Heed
from dispatcher.ports import Entry, Notice, Told
from dispatcher.presence import Presence
from dispatcher.record import Stretch
from storage.postgres import follower as following
from storage.postgres.connections import Address
from storage.postgres.follower import Follower
from storage.postgres.writing import directory_id

NOWHERE = Address(url="postgresql://nobody@127.0.0.1:1/none")


def entry(seq: int) -> Entry:
    return Entry(
        seq=seq,
        type="task.created",
        task_id=f"{seq}",
        work_directory="/w",
        priority=None,
        status=None,
        at=0,
        details={},
    )


class Record:
    """Of so many events, which are read in stretches when the gate is open."""

    def __init__(self, last: int = 0) -> None:
        self.last, self.reads = last, 0
        self.gate, self.reading = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def news(self, after: int, limit: int) -> Stretch:
        last = self.last
        self.reads += 1
        self.reading.set()
        await self.gate.wait()
        found = tuple(map(entry, range(after + 1, min(after + limit, last) + 1)))
        return Stretch(entries=found, up_to=found[-1].seq if found else after, first=1, last=last)


class Member:
    def __init__(self) -> None:
        self.published: list[int] = []
        self.told: list[int] = []  # by others
        self.stirred: list[Collection[str] | None] = []
        self.reminded: list[Heed] = []
        self.news = asyncio.Event()

    def publish(self, changes: Announced) -> None:
        self.published += [change.entry.seq for change in changes if change.entry]
        self.told += [change.entry.seq for change in changes if isinstance(change, Told)]
        self.news.set()

    def stir(self, task_ids: Collection[str] | None) -> None:
        self.stirred.append(task_ids)
        self.news.set()

    def heed(self, entries: Sequence[Entry]) -> None:
        pass

    def remind(self, reminder: Heed) -> None:
        self.reminded.append(reminder)

    def presence(self) -> Presence:
        return Presence()

    def waiting_directories(self) -> Collection[str]:
        return {"/w", "/x"}

    async def has_lost_touch(self) -> None:
        async with asyncio.timeout(5):
            while None not in self.stirred:
                self.news.clear()
                await self.news.wait()

    async def has_heard(self, *seqs: int) -> None:
        async with asyncio.timeout(5):
            while self.published != list(seqs):
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def followed(record: Record) -> AsyncIterator[tuple[Follower, Member]]:
    follower, member = Follower(NOWHERE, record, "me"), Member()  # type: ignore[arg-type]
    follower.begin(member, 0)
    job = asyncio.create_task(follower.follow())
    try:
        yield follower, member
    finally:
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


def say(follower: Follower, seq: int, directories: str = "-", tasks: str = "-", sender: str = "other") -> None:
    follower._hear(None, 0, "", f"{sender} {seq} {directories} {tasks}")


async def test_own_batches_are_published_at_once_and_not_read_again() -> None:
    record = Record()
    async with followed(record) as (follower, member):
        follower.announce([Notice(entry(1)), Notice(entry(2))])
        assert member.published == [1, 2]
        follower.announce([Notice(entry(3))])
        assert member.published == [1, 2, 3]
        assert record.reads == 0


async def test_an_own_batch_waits_for_what_others_wrote_before_it() -> None:
    record = Record(last=4)
    async with followed(record) as (follower, member):
        follower.announce([Notice(entry(3)), Notice(entry(4))])
        assert member.published == []
        await member.has_heard(1, 2, 3, 4)
        assert member.told == [1, 2]


async def test_what_is_announced_while_the_record_is_read_is_published_once(caplog: pytest.LogCaptureFixture) -> None:
    record = Record()
    async with followed(record) as (follower, member):
        record.gate.clear()
        say(follower, 1)
        await record.reading.wait()
        follower.announce([Notice(entry(1))])
        assert member.published == [1]
        record.last = 2
        record.gate.set()
        say(follower, 2)
        await member.has_heard(1, 2)
        assert not [it for it in caplog.records if it.levelno >= logging.ERROR]


async def test_what_was_read_before_it_was_announced_is_not_published_twice() -> None:
    record = Record(last=2)
    async with followed(record) as (follower, member):
        say(follower, 2)
        await member.has_heard(1, 2)
        follower.announce([Notice(entry(2))])
        follower.announce([Notice(entry(3))])
        assert member.published == [1, 2, 3]


async def test_a_number_that_is_not_there_is_not_looked_for_again_and_again() -> None:
    record = Record(last=1)
    async with followed(record) as (follower, member):
        say(follower, 99)
        await member.has_heard(1)
        reads = record.reads
        for _ in range(50):
            await asyncio.sleep(0)
        assert record.reads <= reads + 1


async def test_a_standby_that_lacks_the_last_events_is_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    record = Record(last=5)
    async with followed(record) as (follower, member):
        say(follower, 5)
        await member.has_heard(1, 2, 3, 4, 5)
        record.last = 3
        say(follower, 6)
        await member.has_lost_touch()
        assert "the record has lost the events 4 to 5" in caplog.text
        follower.announce([Notice(entry(4))])
        assert member.published[-1] == 4


async def test_who_waits_is_reminded_by_the_notification_itself() -> None:
    async with followed(Record()) as (follower, member):
        say(follower, 1, directories=directory_id("/x"))
        say(follower, 2, directories=directory_id("/elsewhere"))
        say(follower, 3, directories="*")
        say(follower, 4, directories=directory_id("/w"), sender="me")
        assert [set(it.work_directories) for it in member.reminded] == [{"/x"}, {"/w", "/x"}]


async def test_whose_log_has_grown_is_told_to_those_who_follow_it() -> None:
    async with followed(Record()) as (follower, member):
        say(follower, 0, tasks="a,b")
        say(follower, 0, tasks="*")
        assert member.stirred == [["a", "b"], None]


async def test_without_any_word_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    async with followed(Record(last=2)) as (_, member):
        await member.has_heard(1, 2)
