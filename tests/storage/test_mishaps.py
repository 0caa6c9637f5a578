"""What goes wrong with a batch on PostgreSQL concerns this batch alone, and whoever asked is told what is on record."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from attrs import define, field, frozen

from dispatcher.actor import Dispatcher
from dispatcher.errors import InvalidState, RecordFailed, Unavailable
from dispatcher.messages import FOREVER, Claim, Complete, Create, Drain, Message, Regulate, Tick
from dispatcher.shared import SharedBoard
from storage.postgres.connections import Address
from storage.postgres.journal import PostgresJournal
from tests.dispatcher.world import CountingMint
from tests.storage.seats import Mishap, Table, table

CREATE = Create(work_directory="/w", prompt="do it")
CLAIM = Claim(work_directories=("/w",))
WAIT = Claim(work_directories=("/quiet",), wait_seconds=5)
TASKS = "select count(*) from tasks"
SECONDS = 10  # in which anything is answered

Call = Callable[[], Any]


@frozen(kw_only=True)
class Impatient(Address):
    lock_seconds: float

    @property
    def session(self) -> dict[str, str]:
        return super().session | {"lock_timeout": f"{self.lock_seconds}s"}


@define(eq=False)
class Stage:
    """A dispatcher, at which somebody waits."""

    at: Table
    lock_seconds: float = 8
    now: int = 0
    mishap: Mishap = field(init=False)
    journal: PostgresJournal = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    running: "asyncio.Task[None]" = field(init=False)
    waiter: "asyncio.Task[Any]" = field(init=False)

    async def start(self) -> "Stage":
        address = Impatient(url=self.at.url, lock_seconds=self.lock_seconds)
        self.journal = PostgresJournal(address, "here", lambda: self.now, was_away=False)
        board = SharedBoard(await self.journal.load(), CountingMint())
        self.dispatcher = Dispatcher(board, self.journal, lambda changes: None, lambda: self.now, owes_grace=False)
        self.running = asyncio.create_task(self.dispatcher.run())
        await self.dispatcher.begun.wait()
        await self.say(CREATE)
        self.waiter = self.ask(WAIT)
        await self.say(Tick())
        return self

    def ask(self, message: Message[Any]) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.dispatcher.ask(message))

    async def say(self, message: Message[Any]) -> Any:
        answer = self.ask(message)
        async with asyncio.timeout(SECONDS):
            await asyncio.wait([answer, self.running], return_when=asyncio.FIRST_COMPLETED)
        if self.running.done():
            await self.running  # tells why
        return await answer

    def go_wrong(self, statement: str, wrong: Callable[[Call], Any]) -> None:
        """The next one that begins so."""
        assert self.journal._db is not None
        self.mishap = Mishap(self.journal._db, statement, wrong)
        self.journal._db = self.mishap

    async def cut_off(self) -> None:
        """As PostgreSQL sees it, the client is no more."""
        ours = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'task-orchestrator'"
        await self.at.db.fetch(ours)

    async def end(self) -> None:
        self.dispatcher.close()
        await self.running
        await asyncio.gather(self.waiter, return_exceptions=True)
        await self.journal.close()


@pytest.fixture
async def here(common_url: str) -> AsyncIterator[Table]:
    async with table(common_url) as made:
        yield made


@pytest.fixture
async def stage(here: Table) -> AsyncIterator[Stage]:
    """In the end whoever has waited all the time is served, or goes when it was to go."""
    stage = await Stage(here).start()
    yield stage
    if not stage.waiter.done():
        await still_waits_as_long_as_it_was_to(stage)
    await stage.end()


async def still_waits_as_long_as_it_was_to(stage: Stage) -> None:
    stage.now = 4999
    await stage.say(Tick())
    assert not stage.waiter.done()
    stage.now = 5000
    await stage.say(Tick())
    async with asyncio.timeout(SECONDS):
        assert await stage.waiter == ()


def fail(error: Exception) -> Callable[[Call], Any]:
    async def wrong(statement: Call) -> Any:
        raise error

    return wrong


def afterwards(error: Exception) -> Callable[[Call], Any]:
    async def wrong(statement: Call) -> Any:
        await statement()
        raise error

    return wrong


LOST = [ConnectionResetError("gone"), TimeoutError(), asyncpg.AdminShutdownError("restarting")]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_commit_whose_answer_was_lost_is_found_on_record(stage: Stage, error: Exception) -> None:
    """What was asked is answered, and done once."""
    stage.go_wrong("commit", afterwards(error))
    made = await stage.say(CREATE)
    assert stage.mishap.happened
    assert made.task.task_id == "task-2"
    assert await stage.at.db.fetchval(TASKS) == 2
    ((task,), _) = await stage.say(CLAIM), await stage.say(Tick())
    assert task.task_id == "task-1"


async def test_a_commit_that_did_not_get_through_is_done_once_more(stage: Stage) -> None:
    async def wrong(statement: Call) -> Any:
        await stage.cut_off()
        return await statement()

    stage.go_wrong("commit", wrong)
    await stage.say(CREATE)
    assert stage.mishap.happened
    assert await stage.at.db.fetchval(TASKS) == 2
    assert await stage.at.seqs() == [1, 2]


async def test_a_commit_is_waited_for_that_is_still_under_way(stage: Stage) -> None:
    """The answer is lost before PostgreSQL has done it: nobody decides before it is known what came of it."""
    going, go_on = asyncio.Event(), asyncio.Event()
    late: list[asyncio.Task[Any]] = []

    async def wrong(statement: Call) -> Any:
        async def later() -> None:
            going.set()
            await go_on.wait()
            await real.execute("commit")

        late.append(asyncio.create_task(later()))
        stage.journal._db = None  # it is not to be closed under the one who still works on it
        raise ConnectionResetError

    real: Any = stage.journal._db
    stage.go_wrong("commit", wrong)
    made = stage.ask(CREATE)
    await going.wait()
    await stage.at.until_waiting()
    assert not made.done()
    go_on.set()
    await late[0]
    assert (await made).task.task_id == "task-2"
    assert await stage.at.db.fetchval(TASKS) == 2
    await real.close()


@pytest.mark.parametrize("statement", ["begin", "select nextval", "insert into tasks", "with numbered"])
async def test_a_connection_may_be_lost_at_any_time(stage: Stage, statement: str) -> None:
    async def wrong(go_on: Call) -> Any:
        await stage.cut_off()
        return await go_on()

    stage.go_wrong(statement, wrong)
    await stage.say(CREATE)
    assert stage.mishap.happened
    assert await stage.at.seqs() == [1, 2]


async def test_who_is_the_victim_of_a_deadlock_decides_again(stage: Stage) -> None:
    """On what the other one has made of it."""
    await stage.say(CREATE)
    tasks = [(await stage.say(CLAIM))[0] for _ in range(2)]
    lock = "update tasks set status = 'completed', lease_expires_at = null, version = version + 1 where task_id = $1"
    other = await asyncpg.connect(stage.at.url, server_settings={"deadlock_timeout": "60s"})
    await other.execute("begin")
    await other.execute(lock, tasks[1].task_id)
    first = stage.ask(Complete(task_id=tasks[0].task_id))
    second = stage.ask(Complete(task_id=tasks[1].task_id))
    await stage.at.until_waiting()
    crossing = asyncio.create_task(other.execute(lock, tasks[0].task_id))
    await crossing  # as the dispatcher has let go
    await other.execute("commit")
    async with asyncio.timeout(SECONDS):
        for answer in (first, second):
            with pytest.raises(InvalidState):
                await answer
    await other.close()


async def test_who_has_waited_for_too_long_tries_again(here: Table) -> None:
    stage = await Stage(here, lock_seconds=0.1).start()
    (task,) = await stage.say(CLAIM)
    other = await asyncpg.connect(stage.at.url)
    await other.execute("begin")
    await other.execute("select from tasks where task_id = $1 for update", task.task_id)
    begins = 0

    async def count(statement: Call) -> Any:
        nonlocal begins
        begins += 1
        stage.mishap.happened = False
        return await statement()

    stage.go_wrong("rollback", count)
    answer = stage.ask(Complete(task_id=task.task_id, lease_token=task.lease_token))
    async with asyncio.timeout(SECONDS):
        while begins < 3:
            await here.until_waiting()
    assert not answer.done()
    await other.execute("rollback")
    assert (await answer).status == "completed"
    await still_waits_as_long_as_it_was_to(stage)
    await stage.end()
    await other.close()


async def test_a_full_disk_keeps_nobody_from_finishing(stage: Stage) -> None:
    """New tasks are turned down, and who waits is sent away; what ends a task is done when there is room."""
    (task,) = await stage.say(CLAIM)
    stage.go_wrong("with numbered", fail(asyncpg.DiskFullError("no space left on device")))
    create, done = stage.ask(CREATE), stage.ask(Complete(task_id=task.task_id, lease_token=task.lease_token))
    with pytest.raises(Unavailable):
        await create
    assert (await done).status == "completed"
    assert await stage.waiter == ()
    assert await stage.at.db.fetchval(TASKS) == 1
    await stage.say(CREATE)
    assert await stage.at.seqs() == [1, 2, 3, 4]


@pytest.mark.parametrize("statement", ["begin", "insert into tasks", "with numbered", "commit"])
async def test_what_postgresql_refuses_fails_for_those_who_asked_alone(stage: Stage, statement: str) -> None:
    """The others, and the next batch, do not notice."""
    stage.go_wrong(statement, fail(asyncpg.DataError("it does not like that")))
    with pytest.raises(RecordFailed):
        await stage.say(CREATE)
    assert stage.mishap.happened
    assert await stage.at.db.fetchval(TASKS) == 1
    made = await stage.say(CREATE)
    assert made.task.work_directory == "/w"
    assert stage.dispatcher.running


async def test_news_that_need_nothing_of_the_record_come_through(stage: Stage) -> None:
    """Though the connection was lost before, without anybody noticing, or is lost now."""
    stage.go_wrong("rollback", fail(ConnectionResetError()))
    assert await stage.say(CLAIM)
    assert await stage.say(CLAIM) == ()
    assert stage.mishap.happened
    await stage.say(Drain())
    assert await stage.waiter == ()
    assert await stage.at.db.fetchval("select count(*) from history where type = 'server.draining'") == 1


async def test_news_whose_commit_was_not_answered_are_told_once(stage: Stage) -> None:
    stage.go_wrong("with numbered", afterwards(ConnectionResetError()))
    await stage.say(Drain())
    assert stage.mishap.happened
    assert await stage.at.db.fetchval("select count(*) from history where type = 'server.draining'") <= 1


async def test_who_waits_is_served_after_all_of_this(stage: Stage) -> None:
    for statement, error in [("commit", LOST[0]), ("insert into tasks", asyncpg.DataError("no")), ("begin", LOST[1])]:
        stage.go_wrong(statement, fail(error))
        await asyncio.gather(stage.ask(CREATE), return_exceptions=True)
    await stage.say(Create(work_directory="/quiet", prompt="do it"))
    async with asyncio.timeout(SECONDS):
        (task,) = await stage.waiter
    assert task.work_directory == "/quiet"


async def test_several_who_wait_keep_their_turn(stage: Stage) -> None:
    claim = Claim(work_directories=("/turn",), wait_seconds=FOREVER)
    waiting = [stage.ask(claim) for _ in range(3)]
    await stage.say(Tick())
    stage.go_wrong("commit", fail(ConnectionResetError()))
    await stage.say(Regulate(work_directory="/other", paused=True))
    assert stage.mishap.happened
    for waiter in waiting:
        made = await stage.say(Create(work_directory="/turn", prompt="do it"))
        async with asyncio.timeout(SECONDS):
            assert [task.task_id for task in await waiter] == [made.task.task_id]
