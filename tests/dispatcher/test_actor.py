"""The order of things: save first, speak second, and only then tell everybody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from attrs import evolve

from dispatcher import actor, mailbox
from dispatcher.actor import Dispatcher
from dispatcher.board import Board
from dispatcher.errors import LeaseLost, NoRoom, TaskNotFound, Unavailable
from dispatcher.hub import Hub, about_directory
from dispatcher.mailbox import BATCH_MAX
from dispatcher.messages import FOREVER, Claim, Complete, Create, Drain, Heartbeat, Reconfigure, Tick
from dispatcher.ports import Change, Found, Needs, Snapshot
from dispatcher.rules import Rules
from dispatcher.task import Status
from tests.dispatcher.world import CountingMint, DirectJournal, World, database
from tests.web.conftest import until

CREATE = Create(work_directory="/w", prompt="do it")
CLAIM = Claim(work_directories=("/w",))
WAIT = Claim(work_directories=("/w",), wait_seconds=FOREVER)
UNKNOWN = Complete(task_id="nobody")


class GatedJournal(DirectJournal):
    """Commits when the gate is open, or fails."""

    def __init__(self) -> None:
        super().__init__(database())
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.committing = asyncio.Event()
        self.fetches: list[Needs] = []
        self.fetching, self.fetch_gate = asyncio.Event(), asyncio.Event()
        self.fetch_gate.set()
        self.full_at: tuple[int, ...] = ()  # the commits, counted from here, for which there is no room

    def shut(self) -> None:
        self.gate.clear()
        self.committing.clear()

    async def fetch(self, needs: Needs) -> Found:
        self.fetches.append(needs)
        self.fetching.set()
        await self.fetch_gate.wait()
        return await super().fetch(needs)

    async def commit(self, changes: Sequence[Change]) -> Sequence[Change]:
        self.committing.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        self.full_at = tuple(at - 1 for at in self.full_at)
        if 0 in self.full_at:
            raise NoRoom
        return await super().commit(changes)


class Stage:
    """A dispatcher whose commits the test holds back or lets fail."""

    def __init__(self) -> None:
        self.journal, self.hub, self.now = GatedJournal(), Hub(), 0
        self.dispatcher = Dispatcher(
            Board(Snapshot(), CountingMint()), self.journal, self.hub.publish, lambda: self.now
        )
        self.running = asyncio.create_task(self.dispatcher.run())

    def ask(self, message: Any) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.dispatcher.ask(message))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    stage.journal.gate.set()
    stage.dispatcher.close()
    await asyncio.wait([stage.running])
    stage.journal.db.close()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_reply_only_after_commit(stage: Stage) -> None:
    """All that piled up during a commit is one batch, and nobody hears anything before it is saved."""
    stage.journal.shut()
    asks = [stage.ask(CREATE) for _ in range(100)]
    await stage.journal.committing.wait()
    await turns()
    assert not any(ask.done() for ask in asks)
    stage.journal.gate.set()
    await asyncio.gather(*asks)
    assert len(stage.journal.commits) == 1


async def test_nothing_is_published_before_the_reply(stage: Stage) -> None:
    """A listener hears of a change only when it is durable and its author has been answered."""
    order: list[str] = []
    stage.journal.shut()
    with stage.hub.listen(about_directory("/w")) as heard:
        news = asyncio.create_task(heard.next())
        news.add_done_callback(lambda _: order.append("published"))
        ask = stage.ask(CREATE)
        ask.add_done_callback(lambda _: order.append("answered"))
        await stage.journal.committing.wait()
        await turns()
        assert order == []
        stage.journal.gate.set()
        assert (await news).task_id == (await ask).task.task_id
    assert order == ["answered", "published"]


async def test_a_refused_message_leaves_its_batch_neighbours_alone(stage: Stage) -> None:
    one, refused, other = await asyncio.gather(
        stage.ask(CREATE), stage.ask(UNKNOWN), stage.ask(CREATE), return_exceptions=True
    )
    assert isinstance(refused, TaskNotFound)
    assert (one.task.arrival, other.task.arrival) == (1, 2)
    assert len(stage.journal.commits) == 1


async def test_a_client_gone_before_its_turn_gets_nothing_assigned(stage: Stage) -> None:
    """Its claim is skipped, and the next in turn gets the task."""
    await stage.ask(CREATE)
    stage.journal.shut()
    stage.ask(CREATE)
    await stage.journal.committing.wait()
    gone, next_in_turn = stage.ask(CLAIM), stage.ask(CLAIM)
    await turns(2)
    gone.cancel()
    await turns(2)
    stage.journal.gate.set()
    assert [task.arrival for task in await next_in_turn] == [1]
    assert (await stage.ask(CLAIM))[0].attempt == 1


async def test_a_parked_client_that_left_is_passed_over(stage: Stage) -> None:
    gone, next_in_turn = stage.ask(WAIT), stage.ask(WAIT)
    await turns()
    gone.cancel()
    await turns(1)
    created = await stage.ask(CREATE)
    (task,) = await next_in_turn
    assert (task.task_id, task.attempt) == (created.task.task_id, 1)


@pytest.mark.parametrize("parked", [False, True])
async def test_a_task_for_a_client_gone_during_the_commit_is_given_back_at_once(stage: Stage, parked: bool) -> None:
    first, second = (WAIT, CREATE) if parked else (CREATE, CLAIM)
    asks = [stage.ask(first)]
    await turns()
    stage.journal.shut()
    asks.append(stage.ask(second))
    await stage.journal.committing.wait()
    asks[0 if parked else 1].cancel()
    stage.journal.gate.set()
    await turns()
    change = stage.journal.commits[-1][-1]
    assert change.entry is not None
    assert (change.entry.type, change.entry.details) == ("task.released", {"reason": "undelivered"})
    assert (change.after.status, change.after.retry_count) == ("waiting", 0)


async def test_a_caller_that_leaves_while_the_record_is_asked_takes_nothing_from_its_neighbours(stage: Stage) -> None:
    """What its batch was not told, because the leaver wanted so much, its neighbours are told in the next."""
    await stage.ask(CREATE)
    stage.dispatcher._board.agenda.forget()
    stage.journal.fetch_gate.clear()
    stage.journal.fetching.clear()
    leaver = stage.ask(Claim(work_directories=tuple(f"/{number}" for number in range(100))))
    claim, report = stage.ask(CLAIM), stage.ask(Complete(task_id="task-1", lease_token="stale"))
    await stage.journal.fetching.wait()
    leaver.cancel()
    await turns(2)
    stage.journal.fetch_gate.set()
    assert [task.arrival for task in await claim] == [1]
    with pytest.raises(LeaseLost):
        await report


@pytest.mark.parametrize("bound", ["MAILBOX_MAX", "PARKED_MAX"])
async def test_what_is_full_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(mailbox if bound == "MAILBOX_MAX" else actor, bound, 3)
    asks = [stage.ask(WAIT) for _ in range(3)]
    await turns(0 if bound == "MAILBOX_MAX" else 20)
    late = stage.ask(WAIT)
    with pytest.raises(Unavailable):
        await late
    await turns()
    assert [ask.done() for ask in asks] == [False] * 3


async def test_waiters_are_served_in_turn(stage: Stage) -> None:
    waiters = [stage.ask(WAIT) for _ in range(5)]
    await turns()
    for _ in waiters:
        await stage.ask(CREATE)
    assert [task.arrival for (task,) in await asyncio.gather(*waiters)] == [1, 2, 3, 4, 5]


async def test_a_failed_commit_answers_its_whole_batch_unavailable_and_stops_the_dispatcher(stage: Stage) -> None:
    """Those who wait, those in the batch and those behind it; and nobody is heard afterwards."""
    parked = stage.ask(Claim(work_directories=("/elsewhere",), wait_seconds=FOREVER))
    await turns()
    stage.journal.error = OSError("disk full")
    asks = [stage.ask(CREATE) for _ in range(BATCH_MAX + 50)]
    answers = await asyncio.gather(parked, *asks, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    with pytest.raises(OSError, match="disk full"):
        await stage.running
    with pytest.raises(Unavailable):
        await stage.ask(CREATE)


async def test_close_answers_everything_already_asked() -> None:
    stage = Stage()
    asks = [stage.ask(CREATE) for _ in range(1000)]
    parked = stage.ask(WAIT)
    await turns(1)
    stage.dispatcher.close()
    await stage.running
    assert len(await asyncio.gather(*asks)) == 1000
    assert len(stage.journal.commits) == -(-1001 // BATCH_MAX)
    assert await parked
    stage.journal.db.close()


@pytest.mark.parametrize("busy", [False, True])
async def test_cancelled_it_leaves_nobody_waiting(busy: bool) -> None:
    """Neither when it was idle nor in the middle of a commit."""
    stage = Stage()
    if busy:
        stage.journal.shut()
    parked = stage.ask(WAIT)
    await turns()
    asks = [stage.ask(CREATE) for _ in range(600)] if busy else []
    await turns()
    stage.running.cancel()
    answers = await asyncio.wait_for(asyncio.gather(parked, *asks, return_exceptions=True), 2)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    with pytest.raises(Unavailable):
        await stage.dispatcher.ask(CREATE)
    stage.journal.db.close()


async def test_drain_sends_the_parked_away_and_parks_no_more(stage: Stage) -> None:
    parked = [stage.ask(WAIT) for _ in range(3)]
    await turns()
    await stage.ask(Drain())
    assert await asyncio.gather(*parked, stage.ask(WAIT)) == [(), (), (), ()]


async def test_that_it_drains_is_on_record_once(stage: Stage) -> None:
    """Also where nobody waited: whoever follows the feed is told why it ends."""
    for _ in range(2):
        await stage.ask(Drain())
    lines = [change.entry for batch in stage.journal.commits for change in batch]
    assert [(line.type, line.task_id, line.work_directory) for line in lines] == [("server.draining", None, None)]


@pytest.mark.parametrize("error", [NoRoom(), None])
async def test_whether_it_can_be_recorded_or_not_a_drain_drains(stage: Stage, error: Exception | None) -> None:
    """The disk is full, or gets full just then."""
    parked = [stage.ask(WAIT) for _ in range(3)]
    await turns()
    stage.journal.error, stage.journal.short_of_room = error, error is not None
    stage.journal.full_at = (1,)
    await asyncio.wait_for(stage.ask(Drain()), 5)
    assert await asyncio.gather(*parked, stage.ask(WAIT)) == [(), (), (), ()]
    assert stage.journal.commits == []


async def test_what_is_published_is_the_history_in_its_order(stage: Stage) -> None:
    """Without a hole, whatever there was no room for and whoever was refused."""
    published: list[int] = []
    stage.hub.watch(lambda changes: published.extend(change.entry.seq for change in changes if change.entry))
    for full_at in ((), (1,), (2,)):
        stage.journal.full_at = full_at
        asks = [stage.ask(message) for message in (CREATE, UNKNOWN, CREATE, CLAIM, CREATE, CLAIM)]
        await asyncio.gather(*asks, return_exceptions=True)
        assert published[-1:] == [len(published)]
    await stage.ask(Drain())
    rows = stage.journal.db.execute("select seq from history order by seq").fetchall()
    assert published == [seq for (seq,) in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 5


async def test_it_rings_for_itself_when_something_falls_due(stage: Stage) -> None:
    """A waiting time that is over and a lease that is lost need nobody to ask."""
    await stage.ask(CREATE)
    (task,) = await stage.ask(Claim(work_directories=("/w",), lease_seconds=0.02))
    waiting = stage.ask(Claim(work_directories=("/w",), wait_seconds=0.01))
    await turns()
    stage.now = 10
    assert await asyncio.wait_for(waiting, 5) == ()
    stage.now = 20
    with stage.hub.listen(about_directory("/w")) as heard:
        news = await asyncio.wait_for(heard.next(), 5)
    assert (news.task_id, news.status, news.type) == (task.task_id, "waiting", "task.lease_expired")


async def test_an_idle_tick_writes_nothing(stage: Stage) -> None:
    await stage.ask(Tick())
    assert stage.journal.commits == []
    assert stage.journal.fetches == []


async def test_a_heartbeat_of_a_held_task_needs_nothing_from_disk(stage: Stage) -> None:
    await stage.ask(CREATE)
    (task,) = await stage.ask(CLAIM)
    stage.journal.fetches.clear()
    await stage.ask(Heartbeat(task_id=task.task_id, lease_token=task.lease_token))
    assert stage.journal.fetches == []


async def test_a_deep_backlog_is_claimed_in_order_through_a_small_window() -> None:
    """A batch ends where the board runs dry; what is left is decided in the next, in the same order."""
    world = await World(window=3).start()
    await asyncio.gather(*(world.ask(CREATE) for _ in range(50)))
    claimed = await asyncio.gather(*(world.ask(CLAIM) for _ in range(60)))
    assert [task.arrival for tasks in claimed for task in tasks] == list(range(1, 51))
    await world.stop()
    world.journal.db.close()


async def test_what_waits_for_what_is_due_is_told_if_there_is_no_room_for_that(stage: Stage) -> None:
    """While what is due cannot be written down, nobody is kept waiting for it, nor the loop kept busy."""
    task = (await stage.ask(CREATE)).task
    (held,) = await stage.ask(evolve(CLAIM, lease_seconds=1))
    stage.now = 10_000
    stage.journal.error, stage.journal.short_of_room = NoRoom(), True
    with pytest.raises(Unavailable, match="full"):
        await stage.ask(CLAIM)
    with pytest.raises(Unavailable, match="full"):
        await stage.ask(CREATE)
    stage.journal.error, stage.journal.short_of_room = None, False
    renewed = await stage.ask(Heartbeat(task_id=task.task_id, lease_token=held.lease_token))
    assert renewed.lease_expires_at > stage.now


async def test_without_room_reports_are_tried_again_without_the_creations(stage: Stage) -> None:
    """One batch: the creation is turned down, who waits is sent away, and the report gets through."""
    await stage.ask(CREATE)
    (held,) = await stage.ask(CLAIM)
    stage.journal.shut()
    first = stage.ask(evolve(CREATE, work_directory="/x"))
    await stage.journal.committing.wait()
    asks = [stage.ask(CREATE), stage.ask(evolve(WAIT, work_directories=("/y",)))]
    asks.append(stage.ask(Complete(task_id=held.task_id, lease_token=held.lease_token)))
    stage.journal.full_at = (2,)
    stage.journal.gate.set()
    await first
    with pytest.raises(Unavailable, match="full"):
        await asks[0]
    assert await asks[1] == ()
    assert (await asks[2]).status is Status.COMPLETED


async def test_a_report_that_does_not_fit_takes_no_other_down(stage: Stage) -> None:
    """Each is tried alone once there was no room for all of them."""
    await asyncio.gather(stage.ask(CREATE), stage.ask(CREATE))
    held = await stage.ask(evolve(CLAIM, limit=2))
    stage.journal.shut()
    first = stage.ask(evolve(CREATE, work_directory="/x"))
    await stage.journal.committing.wait()
    asks = [stage.ask(Complete(task_id=task.task_id, lease_token=task.lease_token)) for task in held]
    stage.journal.full_at = (2, 3)
    stage.journal.gate.set()
    await first
    with pytest.raises(Unavailable, match="full"):
        await asks[0]
    assert (await asks[1]).status is Status.COMPLETED


async def test_who_has_left_is_forgotten_before_what_is_due(stage: Stage) -> None:
    """The caller goes during a commit, and the time of its claim runs out; a task comes with the same batch."""
    leaver = stage.ask(evolve(WAIT, wait_seconds=1))
    await turns()
    stage.journal.shut()
    first = stage.ask(evolve(CREATE, work_directory="/x"))
    await stage.journal.committing.wait()
    leaver.cancel()
    stage.now = 2000
    task = stage.ask(CREATE)
    stage.journal.gate.set()
    await asyncio.gather(first, task)
    assert len(await stage.ask(CLAIM)) == 1
    assert len(stage.journal.commits) == 3, "the task was given to nobody before"


def lowered(to: int) -> Reconfigure:
    rules = Rules(max_concurrent_tasks=to)
    return Reconfigure(rules=rules, who="ann", changes={"x": {"from": 0, "to": to}}, runtime={"x": to})


async def test_new_rules_that_could_not_be_recorded_do_not_hold(stage: Stage) -> None:
    """Those before them do, also for what was decided together with them."""
    assert await stage.ask(lowered(2)) == 1
    await asyncio.gather(*(stage.ask(CREATE) for _ in range(4)))
    stage.journal.shut()
    first = stage.ask(evolve(CREATE, work_directory="/x"))
    await stage.journal.committing.wait()
    ask = stage.ask(lowered(1))
    stage.journal.full_at = (2, 3)
    stage.journal.gate.set()
    await first
    with pytest.raises(Unavailable, match="full"):
        await ask
    assert len(await stage.ask(evolve(CLAIM, limit=4))) == 2
    assert await stage.ask(lowered(3)) == 2
    assert len(await stage.ask(evolve(CLAIM, limit=4))) == 1
    snapshot = await stage.journal.load()
    assert (snapshot.config_version, snapshot.runtime) == (2, {"x": 3})


async def test_new_rules_hold_after_the_board_was_built_anew(stage: Stage) -> None:
    """It was something else that there was no room for."""
    await asyncio.gather(*(stage.ask(CREATE) for _ in range(4)))
    assert await stage.ask(lowered(2)) == 1
    stage.journal.full_at = (1,)
    with pytest.raises(Unavailable, match="full"):
        await stage.ask(CREATE)
    assert len(await stage.ask(evolve(CLAIM, limit=4))) == 2


async def test_the_oldest_message_is_as_old_as_it_has_not_been_saved(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is being saved or has not had its turn; a claim that waits for a task waits for something else."""
    await stage.dispatcher.begun.wait()
    now = 100.0
    for module in (actor, mailbox):
        monkeypatch.setattr(module, "monotonic", lambda: now)
    assert (stage.dispatcher.oldest_seconds, stage.dispatcher.parked) == (0, 0)
    waiting = [stage.ask(WAIT), stage.ask(evolve(WAIT, work_directories=("/elsewhere",)))]
    await until(lambda: stage.dispatcher.parked == 2)
    now = 200.0
    assert stage.dispatcher.oldest_seconds == 0
    stage.journal.shut()
    first = stage.ask(CREATE)
    await stage.journal.committing.wait()
    now = 205.0
    second = stage.ask(CREATE)
    await asyncio.sleep(0)
    now = 207.0
    assert stage.dispatcher.oldest_seconds == 7
    stage.journal.gate.set()
    await asyncio.gather(first, second)
    await waiting[0]
    await asyncio.sleep(0)
    assert (stage.dispatcher.oldest_seconds, stage.dispatcher.parked) == (0, 1)
