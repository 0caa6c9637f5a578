"""Joins the servers that share a database: the dispatcher's journal there, and all that goes with it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.resources import files
from itertools import count
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg

from dispatcher.errors import RecordFailed
from dispatcher.medium import Room
from dispatcher.messages import Heed
from dispatcher.ports import Changes, Clock, Found, Needs, Snapshot
from dispatcher.shared import SharedBoard
from storage.errors import StorageError
from storage.postgres import upkeep
from storage.postgres.audit import PostgresAuditLog
from storage.postgres.clock import DatabaseClock
from storage.postgres.connections import LOST, Address
from storage.postgres.duties import IS_HELD, UPKEEP, WEBHOOK, Duties
from storage.postgres.follower import Follower
from storage.postgres.journal import AWAY_SECONDS, PostgresJournal
from storage.postgres.keys import KEYS_CHANGES, PostgresKeyring
from storage.postgres.moving import refuse_half_moved
from storage.postgres.presence import written
from storage.postgres.queries import NOW
from storage.postgres.reading import Reader
from storage.postgres.record import PostgresRecord
from storage.postgres.tls import doubts, is_hopeless, refuse_unusable, told
from storage.postgres.versions import migrate
from storage.steps import steps
from storage.store import Member

BEAT_SECONDS = 1  # between two signs of life
ALIVE_SECONDS = 2.5  # with none from anybody for so long, leases may not have been renewed
PRESENCE_SHARE = 0.02  # of the time, at most, goes into telling who is connected
PROBED = 1000  # directories looked at in one beat, whether something is ready there for those who wait
UPKEEP_SECONDS = 1

TIME = f"select {NOW}"
# One that has joined but not written yet may itself be about to give a grace.
LAST_SEEN = f"select coalesce(max(seen_at) filter (where batch > 0), 0) > {NOW} - $1 from instances"
BEAT = f"update instances set seen_at = {NOW} where instance_id = $1"
TELL_PRESENCE = "update instances set presence = $2 where instance_id = $1"
NEXT_DUE = "select min(due_at) from tasks where due_at is not null"
READY = (
    "select path from unnest($1::text[]) as path where exists (select from tasks where work_directory = path and ready)"
)
WEBHOOK_PLACE = "select seq from webhook"
KEEP_WEBHOOK_PLACE = f"""
    insert into webhook select true, $3 where ({IS_HELD})
    on conflict (only_row) do update set seq = excluded.seq"""
FORGET_WEBHOOK_PLACE = f"delete from webhook where ({IS_HELD})"

log = logging.getLogger(__name__)


class PostgresStore:
    Board = SharedBoard

    def __init__(
        self,
        address: Address,
        pool: "asyncpg.Pool[asyncpg.Record]",
        instance_id: str,
        clock: DatabaseClock,
        was_away: bool,
    ) -> None:
        self._pool, self._instance_id, self._clock = pool, instance_id, clock
        self._timeout_seconds = address.timeout_seconds
        self.record = PostgresRecord(pool, address.timeout_seconds, instance_id)
        self.journal = PostgresJournal(address, instance_id, clock, was_away=was_away)
        self.keyring = PostgresKeyring(self._alone, instance_id)
        self.audit_log = PostgresAuditLog(self._alone, self.record.audit)
        self._keys_changes = 0
        self._follower = Follower(address, self.record, instance_id)
        self._duties = Duties(instance_id)
        self._beats = count()
        self._presence, self._presence_due = "", 0.0

    # The journal

    @property
    def short_of_room(self) -> bool:
        return self.journal.short_of_room

    def stop_waiting(self) -> None:
        self.journal.stop_waiting()

    @property
    def is_away(self) -> bool:
        """Who has nothing to write notices by the connection on which it listens."""
        deaf_since = self._follower.deaf_since
        if deaf_since is None:
            return self.journal.is_away
        unheard_seconds = monotonic() - max(deaf_since, self.journal.heard_at)
        return self.journal.is_away or unheard_seconds > AWAY_SECONDS

    async def load(self) -> Snapshot:
        return await self.journal.load()

    async def fetch(self, needs: Needs) -> Found:
        return await self.journal.fetch(needs)

    async def commit(self, changes: Changes) -> Changes:
        return await self.journal.commit(changes)

    async def release(self) -> None:
        await self.journal.release()

    def watch(self, watcher: Callable[[int, float, float], None]) -> None:
        self.journal.watch(watcher)

    # The others

    def clock(self, snapshot: Snapshot) -> Clock:
        return self._clock

    def announce(self, changes: Changes) -> None:
        """They are on record; whoever wants to know is told when it is their turn."""
        self._follower.announce(changes)

    @asynccontextmanager
    async def membership(self, member: Member, last: int) -> AsyncIterator[None]:
        """Meanwhile the server hears of whatever is on record behind the seq `last`, and the others hear of it."""
        self._follower.begin(member, last)
        await self._touch(member)  # whoever is alone has the duties before anything happens
        jobs = self._follower.listen, self._follower.follow, partial(self._keep_in_touch, member), self._keep_up
        tasks = [asyncio.create_task(_ever(job)) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _keep_in_touch(self, member: Member) -> None:
        while True:
            began = monotonic()
            await self._touch(member)
            await asyncio.sleep(max(0.0, began + BEAT_SECONDS - monotonic()))

    async def _touch(self, member: Member) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds), self._pool.acquire(timeout=BEAT_SECONDS) as db:
                await self._beat(db, member)
        except (*LOST, asyncpg.PostgresError) as error:
            log.debug("no sign of life could be given: %s", error or type(error).__name__)

    async def _beat(self, db: Reader, member: Member) -> None:
        asked_at = self._clock.monotonic()
        moment = await db.fetchval(TIME)
        self._clock.heard(moment, asked_at, self._clock.monotonic())
        if await db.execute(BEAT, self._instance_id) == "UPDATE 0":
            self._presence = ""  # its row has been lost in a failover, and is there again with the next batch
        await self._duties.take(db)
        await self._tell_presence(db, member)
        if (changes := await db.fetchval(KEYS_CHANGES)) != self._keys_changes:
            self._keys_changes = changes
            member.change_keys()
        directories = sorted(member.waiting_directories())
        first = next(self._beats) * PROBED % (len(directories) or 1)
        some = (directories + directories)[first : first + min(PROBED, len(directories))]
        ready = [row[0] for row in await db.fetch(READY, some)] if some else []
        member.remind(Heed(work_directories=tuple(ready), due=await db.fetchval(NEXT_DUE)))

    async def _tell_presence(self, db: Reader, member: Member) -> None:
        """If it has changed, and not all the time if there are many."""
        began = monotonic()
        if began < self._presence_due:
            return
        presence = written(member.presence())
        self._presence_due = began + (monotonic() - began) / PRESENCE_SHARE
        if presence != self._presence:
            await db.execute(TELL_PRESENCE, self._instance_id, presence)
            self._presence = presence

    async def _keep_up(self) -> None:
        while True:
            await self._duties.held[UPKEEP].wait()
            try:
                async with asyncio.timeout(self._timeout_seconds), self._pool.acquire() as db:
                    await upkeep.strike_off(db)
                    while await upkeep.add_up(db):
                        pass
                    more = await upkeep.remove_leftovers(db)
            except (*LOST, asyncpg.PostgresError) as error:  # it harms nobody; the next time may do better
                log.warning("the record could not be kept up: %s", error or type(error).__name__)
                more = False
            await asyncio.sleep(0 if more else UPKEEP_SECONDS)

    # The webhook's place

    async def webhook_place(self) -> int | None:
        """Waits until this server is the one that tells the webhook."""
        await self._duties.held[WEBHOOK].wait()
        seq = await self._alone(lambda db: db.fetchval(WEBHOOK_PLACE))
        return seq if isinstance(seq, int) else None

    async def keep_webhook_place(self, seq: int | None) -> None:
        if seq is None:
            await self._alone(lambda db: db.execute(FORGET_WEBHOOK_PLACE, WEBHOOK, self._instance_id))
            return
        kept = await self._alone(lambda db: db.execute(KEEP_WEBHOOK_PLACE, WEBHOOK, self._instance_id, seq))
        if kept == "INSERT 0 0":
            raise RecordFailed("another server tells the webhook now")

    # The medium

    async def probe(self) -> None:
        """As far as a commit of this server goes: its own row."""
        await self._alone(lambda db: db.execute(BEAT, self._instance_id))

    async def room(self) -> Room:
        """Of the database's disk nothing can be said."""
        return Room()

    async def _alone(self, work: Callable[[Reader], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self.record.once(None, work)
        except (*LOST, asyncpg.PostgresError) as error:
            raise RecordFailed(str(error) or type(error).__name__) from error

    async def join(self) -> None:
        """Raises StorageError if the record is no whole one."""
        await self.journal.join()
        async with asyncio.timeout(self._timeout_seconds), self._pool.acquire() as db:
            await refuse_half_moved(db)

    async def leave(self) -> None:
        """The others may do at once what this server did for them."""
        with suppress(*LOST, asyncpg.PostgresError):
            async with asyncio.timeout(1), self._pool.acquire() as db:
                await self._duties.lay_down(db)
        await self.journal.close()


async def _ever(job: Callable[[], Awaitable[None]]) -> None:
    """None of these may be missing, whatever befalls it."""
    while True:
        try:
            await job()
        except Exception:
            log.exception("something that must go on has stopped, and begins again")
            await asyncio.sleep(BEAT_SECONDS)


@asynccontextmanager
async def open_store(address: Address) -> AsyncIterator[PostgresStore]:
    """Join those who share the database, made ready if need be. Where it cannot be reached it is tried for as long as
    `timeout_seconds`, but not if its certificate is refused. Raises StorageError."""
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # what it has to say, we say
    try:
        refuse_unusable(address.url)
    except StorageError as error:
        raise StorageError(f"PostgreSQL at {address.place}: {error}") from None
    if doubt := doubts(address.url):
        log.warning("PostgreSQL at %s: %s", address.place, doubt)
    instance_id, clock = uuid4().hex, DatabaseClock()
    was_away = await _made_ready(address, clock)
    size = max(1, address.max_connections - 2)  # one writes, one listens
    async with AsyncExitStack() as stack:
        pool = asyncpg.create_pool(
            address.url,
            min_size=min(address.min_connections, size),
            max_size=size,
            timeout=address.timeout_seconds,
            server_settings=address.session,
        )
        try:
            await stack.enter_async_context(pool)
        except (*LOST, asyncpg.PostgresError) as error:
            raise StorageError(f"PostgreSQL at {address.place}: {told(error)}") from error
        store = PostgresStore(address, pool, instance_id, clock, was_away)
        stack.push_async_callback(store.leave)
        await store.join()
        yield store


async def _made_ready(address: Address, clock: DatabaseClock) -> bool:
    """Whether nobody has written to the record for a while."""
    until = monotonic() + address.timeout_seconds
    while True:
        try:
            return await _make_ready(address, clock)
        except (*LOST, asyncpg.PostgresError) as error:
            if not isinstance(error, LOST) or is_hopeless(error) or monotonic() > until:
                raise StorageError(f"PostgreSQL at {address.place}: {told(error)}") from error
            log.warning("waiting for PostgreSQL at %s: %s", address.place, told(error))
            await asyncio.sleep(0.5)


async def _make_ready(address: Address, clock: DatabaseClock) -> bool:
    db = await address.connect_writer()
    try:
        await migrate(db, steps(files("storage.postgres")))
        asked_at = clock.monotonic()
        clock.heard(await db.fetchval(TIME), asked_at, clock.monotonic())
        return not await db.fetchval(LAST_SEEN, round(ALIVE_SECONDS * 1000))
    finally:
        await db.close(timeout=1)
