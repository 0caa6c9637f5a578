"""Batches of two servers on one PostgreSQL that overlap: each waits for the other where it must, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator
from os import urandom

import pytest
from attrs import evolve

from dispatcher.board import Parked
from dispatcher.errors import InvalidState, Undone
from dispatcher.fields import Priority
from dispatcher.messages import Cancel, Claim, Complete, Create, CreateMany, Draft, Heed, Reconfigure, Regulate, Tick
from dispatcher.ports import Entry, Notice
from dispatcher.rules import Rules
from dispatcher.shared import SharedBoard
from storage.postgres.store import open_store
from tests.dispatcher.world import CountingMint
from tests.storage.seats import Mishap, Seat, Table, table

ENTRY = Entry(seq=1, type="server.draining", task_id=None, work_directory=None, priority=None, status=None, at=0)
CREATE = Create(work_directory="/w", prompt="do it")
CLAIM = Claim(work_directories=("/w",))
MANY = CreateMany((Draft(work_directory="/w", prompt="do it"),) * 3, atomic=True)
WAIT = Claim(work_directories=("/w",), wait_seconds=60)


@pytest.fixture
async def here(common_url: str) -> AsyncIterator[Table]:
    async with table(common_url) as made:
        yield made


@pytest.fixture
async def ann(here: Table) -> Seat:
    return await here.seat()


@pytest.fixture
async def bob(here: Table) -> Seat:
    return await here.seat()


async def test_no_task_is_given_to_two(ann: Seat, bob: Seat) -> None:
    """Nor does the second claimer wait: it passes over what the first one is about to take."""
    await ann.say(MANY)
    ((first,),) = await ann.take(CLAIM)
    ((second,),) = await bob.say(CLAIM)
    await ann.keep()
    ((third,),) = await bob.say(CLAIM)
    assert [it.task_id for it in (first, second, third)] == ["task-1", "task-2", "task-3"]


async def test_a_large_result_is_written_once(here: Table, ann: Seat) -> None:
    """It stays where it is while the task goes on to change, and others of the same batch get their results."""
    large = urandom(200_000).hex()
    await ann.say(evolve(CREATE, priority=Priority.HIGH), CREATE)
    ((first,), (second,)) = await ann.say(CLAIM, CLAIM)
    await ann.say(evolve(CREATE, depends_on=(first.task_id,)))
    await ann.say(Complete(task_id=first.task_id, lease_token=first.lease_token, result=large))
    before = await here.db.fetchval("select pg_current_wal_insert_lsn()")
    await ann.say(Tick(), Complete(task_id=second.task_id, lease_token=second.lease_token, result="small"))
    written = await here.db.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", before)
    rows = await here.db.fetch("select result, tell_from from tasks where status = 'completed' order by arrival")
    assert [tuple(row) for row in rows] == [(f'"{large}"', None), ('"small"', None)]
    assert written < len(large)


async def test_a_claim_that_others_of_its_batch_have_left_nothing_for_is_decided_with_the_next(ann: Seat) -> None:
    """A task lies on the shelf of each set of its tags, and was fetched for both claims."""
    await ann.say(evolve(CREATE, tags=("x",)), CREATE)
    ann.board.forget()
    ann.board.learn(await ann.journal.fetch(ann.board.needs([evolve(CLAIM, tags=("x",)), CLAIM], 0)))
    tagged = ann.board.apply(evolve(CLAIM, tags=("x",)), 0)
    assert [it.task_id for it in tagged.reply] == ["task-1"]
    assert ann.board.needs([CLAIM], 0)
    await ann.journal.commit(tagged.changes)
    ((task,),) = await ann.say(CLAIM)
    assert task.task_id == "task-2"


async def test_what_is_passed_over_and_not_taken_is_there_again(ann: Seat, bob: Seat) -> None:
    await ann.say(CREATE)
    await ann.take(CLAIM)
    assert await bob.say(CLAIM) == [()]
    await ann.drop()
    ((task,),) = await bob.say(CLAIM)
    assert task.task_id == "task-1"


async def test_no_more_is_locked_than_is_wanted(ann: Seat, bob: Seat) -> None:
    """By a claim that asks for one task of one priority, with tags or without."""
    tagged = Create(work_directory="/w", prompt="do it", tags=("x",))
    await ann.say(*[tagged] * 4)
    await ann.take(CLAIM)
    ((task,),) = await bob.take(Claim(work_directories=("/w",), tags=("x",)))
    assert task.task_id == "task-2"


async def test_who_speaks_of_a_task_waits_for_who_does_so_already(here: Table, ann: Seat, bob: Seat) -> None:
    """And sees what came of it."""
    await ann.say(CREATE)
    ((task,),) = await ann.say(CLAIM)
    await ann.take(Complete(task_id=task.task_id, lease_token=task.lease_token))
    late = asyncio.create_task(bob.say(Cancel(task_id=task.task_id, force=True)))
    await here.until_waiting()
    await ann.keep()
    (refusal,) = await late
    assert isinstance(refusal, InvalidState)
    assert refusal.status == "completed"


async def test_one_idempotency_key_makes_one_task(here: Table, ann: Seat, bob: Seat) -> None:
    create = Create(work_directory="/w", prompt="do it", idempotency_key="k", request_digest="d")
    (made,) = await ann.take(create)
    again = asyncio.create_task(bob.say(create))
    await here.until_waiting()
    await ann.keep()
    (found,) = await again
    assert (made.task.task_id, found.task.task_id) == ("task-1", "task-1")
    assert await here.db.fetchval("select count(*) from tasks") == 1


async def test_one_claim_id_gets_its_tasks_once(here: Table, ann: Seat, bob: Seat) -> None:
    claim = Claim(work_directories=("/w",), claim_id="c", worker_id="w")
    await ann.say(MANY)
    ((first,),) = await ann.take(claim)
    again = asyncio.create_task(bob.say(claim))
    await here.until_waiting()
    await ann.keep()
    assert await again == [(first,)]


@pytest.mark.parametrize("knowing", [False, True], ids=["unknown until then", "known before"])
async def test_a_limit_holds_for_both(here: Table, ann: Seat, bob: Seat, knowing: bool) -> None:
    await ann.say(MANY, Regulate(work_directory="/w", max_working=1))
    if knowing:
        for seat in (ann, bob):
            await seat.take(CLAIM)
            await seat.drop()
    await ann.take(CLAIM)
    second = asyncio.create_task(bob.say(CLAIM))
    await here.until_waiting()
    await ann.keep()
    assert await second == [()]


async def test_the_limit_on_all_holds_for_both(here: Table, ann: Seat, bob: Seat) -> None:
    limit = Rules(max_concurrent_tasks=1)
    for seat in (ann, bob):
        seat.board.go_by(limit)
    await ann.say(MANY, Create(work_directory="/v", prompt="do it"))
    await ann.take(CLAIM)
    second = asyncio.create_task(bob.say(Claim(work_directories=("/v",))))
    await here.until_waiting()
    await ann.keep()
    assert await second == [()]


async def test_without_a_limit_nobody_waits(ann: Seat, bob: Seat) -> None:
    await ann.say(MANY)
    (first,) = await ann.take(CLAIM)
    (second,) = await bob.take(CLAIM)
    assert len({task.task_id for task in (*first, *second)}) == 2
    await bob.keep()
    await ann.keep()


async def test_a_slot_that_comes_free_is_counted_once(here: Table, ann: Seat, bob: Seat) -> None:
    await ann.say(MANY, Regulate(work_directory="/w", max_working=1))
    ((task,),) = await ann.say(CLAIM)
    await ann.take(Complete(task_id=task.task_id))
    first = asyncio.create_task(bob.say(CLAIM, CLAIM))
    await here.until_waiting()
    await ann.keep()
    assert [len(tasks) for tasks in await first] == [1, 0]


async def test_a_pause_waits_for_the_claims_under_way(here: Table, ann: Seat, bob: Seat) -> None:
    """Once it is answered, nobody gets anything there any more."""
    await ann.say(MANY)
    await ann.take(CLAIM)
    pause = asyncio.create_task(bob.say(Regulate(work_directory="/w", paused=True)))
    await here.until_waiting()
    await ann.keep()
    await pause
    assert await ann.say(CLAIM) == [()]


async def test_a_claim_waits_for_the_pause_under_way(here: Table, ann: Seat, bob: Seat) -> None:
    await ann.say(MANY)
    await ann.take(Regulate(work_directory="/w", paused=True))
    claim = asyncio.create_task(bob.say(CLAIM))
    await here.until_waiting()
    await ann.keep()
    assert await claim == [()]


async def test_the_last_one_to_finish_says_that_a_directory_is_drained(here: Table, ann: Seat, bob: Seat) -> None:
    """Though neither of two who finish at once sees the other one's commit when it begins."""
    await ann.say(MANY)
    (tasks,) = await ann.say(Claim(work_directories=("/w",), limit=2))
    await ann.say(Regulate(work_directory="/w", draining=True))
    one, other = (Complete(task_id=task.task_id) for task in tasks)
    await ann.take(one)
    late = asyncio.create_task(bob.say(other))
    await here.until_waiting()
    await ann.keep()
    await late
    assert await here.db.fetchval("select count(*) from history where type = 'directory.drained'") == 1


async def test_one_version_of_the_settings_follows_another(here: Table, ann: Seat, bob: Seat) -> None:
    change = Reconfigure(rules=Rules(), who="ann", changes={"some": "thing"}, runtime={})
    await ann.take(change)
    second = asyncio.create_task(bob.say(change))
    await here.until_waiting()
    await ann.keep()
    assert await second == [2]


async def test_what_falls_due_does_so_once(ann: Seat, bob: Seat, here: Table) -> None:
    """Who comes second neither waits nor does it again."""
    await ann.say(Create(work_directory="/w", prompt="do it", delay_seconds=1))
    ann.now = bob.now = 1000
    bob.board.due = 1000
    await ann.take(Tick())
    await bob.say(Tick())
    await ann.keep()
    assert await here.db.fetchval("select count(*) from history where type = 'task.available'") == 1


async def test_servers_that_start_together_all_spare_the_leases(here: Table) -> None:
    """Or one that is faster would take them for lost before the first has done so. Whoever joins later does not."""
    async with open_store(here.address()) as first, open_store(here.address()) as second:
        assert [(await it.load()).was_away for it in (first, second)] == [True, True]
        board = SharedBoard(await first.load(), CountingMint())
        await first.fetch(board.needs([CREATE], 0))
        await first.commit([Notice(ENTRY)])
        async with open_store(here.address()) as third:
            assert not (await third.load()).was_away


# The numbers of the history


async def test_numbers_are_in_the_order_of_the_commits(here: Table, ann: Seat, bob: Seat) -> None:
    """Whichever began first."""
    await ann.take(CREATE)
    await bob.take(CREATE)
    (late,), (early,) = [await bob.keep()], [await ann.keep()]
    assert [change.entry.seq for change in (*late, *early) if change.entry] == [1, 2]


async def test_what_is_not_kept_leaves_no_gap(here: Table, ann: Seat, bob: Seat) -> None:
    await ann.take(CREATE)
    await bob.take(CREATE, CREATE)
    await bob.drop()
    await ann.keep()
    await bob.say(CREATE)
    assert await here.seqs() == [1, 2]


async def test_who_is_cut_off_between_the_numbers_and_the_commit_leaves_no_gap(
    here: Table, ann: Seat, bob: Seat
) -> None:
    """And holds up nobody for longer."""
    await ann.take(CREATE)
    await bob.take(CREATE)
    told, cut = asyncio.Event(), asyncio.Event()

    async def cut_off(commit: object) -> None:
        told.set()
        await cut.wait()
        raise ConnectionResetError

    ann.journal._db = Mishap(ann.journal._db, "commit", cut_off)
    first = asyncio.create_task(ann.keep())
    await told.wait()
    second = asyncio.create_task(bob.keep())
    await here.until_waiting()
    assert await here.seqs() == []
    cut.set()
    with pytest.raises(Undone):
        await first
    await second
    await ann.say(CREATE)
    assert await here.seqs() == [1, 2]


async def test_what_was_fetched_is_written_on_the_same_connection_or_not_at_all(here: Table, ann: Seat) -> None:
    """On another one it would hold no lock, and not be a transaction."""
    await ann.take(CREATE)
    assert ann.journal._db is not None
    ann.journal._db.terminate()
    await asyncio.sleep(0)
    with pytest.raises(Undone):
        await ann.keep()
    assert await here.db.fetchval("select count(*) from tasks") == 0
    await ann.say(CREATE)
    assert await here.seqs() == [1]


async def test_many_at_once_leave_neither_gap_nor_hole(here: Table) -> None:
    """Whoever reads up to some number has seen all before it, at any time."""
    seats = [await here.seat() for _ in range(4)]
    seen: list[int] = []

    async def work(seat: Seat) -> None:
        for place in range(25):
            await seat.take(CREATE, *[CREATE] * (place % 3))
            await (seat.drop() if place % 7 == 3 else seat.keep())

    work_all = asyncio.gather(*map(work, seats))
    while not work_all.done():
        new = [row[0] for row in await here.db.fetch("select seq from history where seq > $1 order by 1", len(seen))]
        seen += new
        assert seen == list(range(1, len(seen) + 1))
        await asyncio.sleep(0)
    await work_all
    assert await here.seqs() == list(range(1, await here.db.fetchval("select seq from last_numbers") + 1))


async def test_who_waits_under_a_name_gets_what_the_same_name_holds_elsewhere(ann: Seat, bob: Seat) -> None:
    """A worker whose claim was cut off says it again at another server: both calls are answered with the same tasks."""
    claim = evolve(WAIT, claim_id="c", worker_id="w")
    (parked,) = await ann.take(claim)
    await ann.drop()
    assert isinstance(parked, Parked)
    await bob.say(CREATE)
    ((task,),) = await bob.say(claim)
    await ann.say(Heed(("/w",)))
    await ann.take(Tick())
    assert ann.board.agenda.waiters() == []
    assert task.claim_id == "c"
