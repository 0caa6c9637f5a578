"""The dispatcher's journal is one thing, whatever it writes to: memory, SQLite, PostgreSQL. The same is asked of all.

What a journal may answer as it likes is said here: how far beyond what was wanted a lane is told, and so where its edge
lies, as long as everything before the edge is told; which of several that fall due at the same moment comes first.
"""

import asyncio
import sqlite3
from asyncio import Runner
from collections.abc import Coroutine, Iterator
from sys import maxsize
from typing import Any, TypeVar

import pytest
from attrs import asdict, define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.board import Board
from dispatcher.errors import RecordFailed, Refusal
from dispatcher.fields import Priority
from dispatcher.messages import (
    Cancel,
    Claim,
    Complete,
    Create,
    Delete,
    Edit,
    Fail,
    Heartbeat,
    Log,
    Message,
    Reconfigure,
    Regulate,
    Release,
    Retry,
    Tick,
)
from dispatcher.ports import Change, Found, Journal, LaneKey, Lease, Needs, Run, SharedNeeds, Slice, Snapshot
from dispatcher.rules import Rules
from dispatcher.shared import SharedBoard
from dispatcher.task import Status, Task
from storage.postgres import fetching
from storage.postgres.connections import Address
from storage.postgres.journal import PostgresJournal
from storage.postgres.versions import migrate
from storage.postgres.writing import Disagreement
from storage.sqlite import journal as sqlite
from tests.dispatcher.memory import MemoryJournal, without_result
from tests.dispatcher.world import CountingMint, DirectJournal, database
from tests.storage.mirror import empty
from tests.storage.seats import STEPS

T = TypeVar("T")

DIRECTORIES = ("/a", "/b")
TAGS = [(), (), ("x",), ("y",), ("x", "y")]
REFUSED = (sqlite3.IntegrityError, Disagreement, RecordFailed)
HOUR = 3_600_000


@define
class Records:
    """One journal of each kind, in a loop of its own."""

    kind: str
    url: str | None
    runner: Runner
    journal: Any = None
    db: Any = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def new(self) -> "Records":
        """An empty one."""
        self.run(self._new())
        return self

    async def _new(self) -> None:
        if self.kind == "memory":
            self.journal = MemoryJournal()
        elif self.kind == "sqlite":
            self.journal = DirectJournal(database())
        else:
            await self._new_on_postgres()

    async def _new_on_postgres(self) -> None:
        address = Address(url=self.url or "")
        if self.db is None:
            self.db = await address.connect()
            await migrate(self.db, STEPS)
            self.journal = PostgresJournal(address, "here", lambda: 0, was_away=False)
        await empty(self.db)

    async def end(self) -> None:
        if self.db is not None:
            await self.journal.close()
            await self.db.close()

    def fetch(self, needs: Needs) -> Found:
        async def fetch() -> Found:
            found: Found = await self.journal.fetch(needs)
            await self.journal.release()
            return found

        return self.run(fetch())

    def commit(self, changes: Any) -> Any:
        return self.run(self.journal.commit(changes))

    def load(self) -> Snapshot:
        return self.run(self.journal.load())


@pytest.fixture(scope="module", params=["memory", "sqlite", "postgres"])
def records(request: pytest.FixtureRequest) -> Iterator[Records]:
    url = request.getfixturevalue("common_url") if request.param == "postgres" else None
    with Runner() as runner:
        made = Records(request.param, url, runner)
        yield made
        runner.run(made.end())


@define
class Story:
    """A board on a record in memory, and what is committed there is committed to another one too."""

    other: Records
    now: int = 0
    memory: MemoryJournal = field(factory=MemoryJournal)
    board: Board = field(factory=lambda: Board(Snapshot(), CountingMint()))
    keys: set[str] = field(factory=set)

    def say(self, message: Message[Any]) -> Any:
        self.board.forget()
        self.board.learn(self.other.run(self.memory.fetch(self.board.needs([message], self.now))))
        try:
            effects = self.board.apply(message, self.now)
        except Refusal as refusal:
            return refusal
        if effects.changes:
            written = self.other.run(self.memory.commit(effects.changes))
            assert list(self.other.commit(effects.changes)) == list(written)
        return effects.reply

    def tell(self, data: st.DataObject) -> None:
        """A step of it."""
        tasks = list(self.memory.tasks.values())
        kind = data.draw(st.sampled_from([self._create] * 3 + [self._steer, self._report] * 2 + [self._other]))
        self.now += data.draw(st.sampled_from([0, 0, 1, 1000, 5000]))
        self.say(Tick())
        for message in kind(data, tasks):
            self.say(message)

    def _create(self, data: st.DataObject, tasks: list[Task]) -> list[Message[Any]]:
        names = st.lists(st.sampled_from([task.task_id for task in tasks] or ["nobody"]), max_size=2, unique=True)
        create = Create(
            work_directory=data.draw(st.sampled_from(DIRECTORIES)),
            prompt=data.draw(st.sampled_from(["do it", "zwölf 🦊"])),
            priority=data.draw(st.sampled_from(Priority)),
            tags=data.draw(st.sampled_from(TAGS)),
            depends_on=tuple(data.draw(names)) if tasks else (),
            delay_seconds=data.draw(st.sampled_from([None, None, None, 1])),
            expires_at=data.draw(st.sampled_from([None, None, self.now + 1000])),
            idempotency_key=data.draw(st.sampled_from([None, None, "k1", "k2"])),
            request_digest="d",
            metadata={"é": [1, None]},
            auto_retry=data.draw(st.booleans()),
        )
        return [create]

    def _steer(self, data: st.DataObject, tasks: list[Task]) -> list[Message[Any]]:
        name = data.draw(st.sampled_from([task.task_id for task in tasks] or ["nobody"]))
        steering: list[Message[Any]] = [
            Cancel(task_id=name, force=True, reason="so"),
            Retry(task_id=name),
            Delete(task_id=name),
            Edit(task_id=name, priority=Priority.HIGH, tags=("x", "z"), prompt="other", metadata={"a": "b"}),
        ]
        return [data.draw(st.sampled_from(steering))]

    def _report(self, data: st.DataObject, tasks: list[Task]) -> list[Message[Any]]:
        claim = Claim(
            work_directories=DIRECTORIES,
            limit=2,
            worker_id=data.draw(st.sampled_from([None, "ann", "bob"])),
            claim_id=data.draw(st.sampled_from([None, "c1"])),
            lease_seconds=data.draw(st.sampled_from([None, 2])),
        )
        held = [{"task_id": it.task_id, "lease_token": it.lease_token} for it in tasks if it.lease_token]
        if not held:
            return [claim]
        lease: dict[str, Any] = data.draw(st.sampled_from(held))
        reports: list[Message[Any]] = [
            claim,
            Complete(**lease, status="completed", result={"of": ["it", 1.5]}),
            Fail(**lease, error_message="no", retryable=data.draw(st.booleans())),
            Release(**lease, reason="so"),
            Heartbeat(**lease, lease_seconds=3),
            Log(**lease, lines=("one", "two")),
        ]
        return [data.draw(st.sampled_from(reports))]

    def _other(self, data: st.DataObject, tasks: list[Task]) -> list[Message[Any]]:
        path = data.draw(st.sampled_from(DIRECTORIES))
        rules = Rules(default_max_retries=data.draw(st.integers(0, 3)))
        others: list[Message[Any]] = [
            Regulate(work_directory=path, max_working=data.draw(st.sampled_from([None, 1, 3]))),
            Regulate(work_directory=path, paused=True, paused_reason="so", paused_until=self.now + 1500),
            Regulate(work_directory=path, paused=False, draining=data.draw(st.booleans())),
            Reconfigure(rules=rules, who="ann", changes={"some": "thing"}, runtime=asdict(rules)),
        ]
        return [data.draw(st.sampled_from(others))]


@settings(max_examples=15)
@given(data=st.data())
def test_whatever_was_committed_every_need_is_answered_alike(records: Records, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        due_slice, dependants_slice = data.draw(st.sampled_from([256, 2])), data.draw(st.sampled_from([256, 1]))
        for module in (sqlite, fetching):
            patch.setattr(module, "DUE_SLICE", due_slice)
            patch.setattr(module, "DEPENDANTS_SLICE", dependants_slice)
        story = Story(records.new(), memory=MemoryJournal(due_slice, dependants_slice))
        if records.kind == "memory":
            records.journal = MemoryJournal(due_slice, dependants_slice)
        for _ in range(data.draw(st.integers(1, 25))):
            story.tell(data)
        same_snapshot(story.memory, records.load())
        tokens = [line.lease_token for line in story.memory.history if line.lease_token]
        ids = [f"task-{number}" for number in range(1, 10)] + ["nobody"]
        some_ids = st.frozensets(st.sampled_from(ids), max_size=4)
        needs = Needs(
            tasks=data.draw(some_ids),
            parents=data.draw(some_ids),
            keys=data.draw(st.frozensets(st.sampled_from(["k1", "k2", "k3"]))),
            lanes=data.draw(some_lanes),
            due=data.draw(st.booleans()),
            now=story.now + data.draw(st.sampled_from([0, 0, 1000, HOUR, 48 * HOUR])),
        )
        asked = [(name, token) for name in needs.tasks for token in [*tokens, "unknown"]]
        needs = evolve(needs, leases=frozenset(asked))
        same(story.memory, needs, records.fetch(needs))
        shared = SharedNeeds(
            arrivals=data.draw(st.sampled_from([0, 1, 3])),
            claims=data.draw(st.sampled_from([frozenset(), frozenset({"c1", "c2"})])),
            held=data.draw(st.sampled_from([frozenset(), frozenset({("ann", "/a"), ("bob", "/c")})])),
            ruled=data.draw(st.frozensets(st.sampled_from([*DIRECTORIES, "/c"]))),
            freeing=needs.tasks | needs.parents,
            slots=data.draw(st.booleans()),
            settings=data.draw(st.booleans()),
            leased_until=data.draw(st.sampled_from([None, story.now, story.now + 2500, story.now + 2 * HOUR])),
        )
        if records.kind != "sqlite" and shared:
            same_shared(story.memory, evolve(needs, shared=shared), records)


@st.composite
def shelves(draw: st.DrawFn) -> dict[LaneKey, Slice]:
    path, tags = draw(st.sampled_from([*DIRECTORIES, "/c"])), frozenset(draw(st.sampled_from(TAGS)))
    limit = draw(st.sampled_from([1, 2, 5, 50]))
    enough = draw(st.sampled_from([limit, limit, maxsize]))
    return {LaneKey(path, priority, tags): Slice(0, limit, enough) for priority in Priority}


some_lanes = st.lists(shelves(), max_size=3).map(
    lambda found: {key: it for lanes in found for key, it in lanes.items()}
)


# What is the same


def same_snapshot(memory: MemoryJournal, snapshot: Snapshot) -> None:
    expected = asyncio.run(memory.load())
    for name in ("last_seq", "next_due", "config_version", "runtime"):
        assert getattr(snapshot, name) == getattr(expected, name), name
    assert {it.work_directory: it for it in snapshot.directories} == {
        it.work_directory: it for it in expected.directories
    }
    assert snapshot.last_at >= expected.last_at


def same(memory: MemoryJournal, needs: Needs, found: Found) -> None:
    expected = asyncio.run(memory.fetch(evolve(needs, shared=None)))
    assert (dict(found.tasks), dict(found.parents)) == (expected.tasks, expected.parents)
    assert dict(found.keys) == expected.keys
    for (task_id, token), lease in expected.leases.items():
        task = memory.find(task_id)
        if task is None or not task.leased_by(token):  # of the current one nothing needs to be known
            assert found.leases[task_id, token] == lease
    same_lanes(memory, needs, found)
    if needs.due:
        same_due(memory, needs.now, found)
    else:
        assert found.due is None


def same_lanes(memory: MemoryJournal, needs: Needs, found: Found) -> None:
    for key, slice in needs.lanes.items():
        above = [LaneKey(key.work_directory, it, key.tags) for it in Priority if it.rank > key.priority.rank]
        more_urgent = sum(len(memory.ready(it, needs.now)) for it in above)
        everything = memory.ready(key, needs.now)
        run = found.lanes.get(key)
        if run is None:
            assert more_urgent >= slice.enough
            continue
        assert list(run.tasks) == everything[: len(run.tasks)]
        behind = everything[len(run.tasks) :]
        told = slice.limit if slice.enough == maxsize else max(0, slice.limit - more_urgent)
        assert len(run.tasks) >= min(told, len(everything))
        if run.edge is None:
            assert not behind
        else:
            assert all(task.arrival < run.edge for task in run.tasks)
            assert all(task.arrival >= run.edge for task in behind)


def same_due(memory: MemoryJournal, now: int, found: Found) -> None:
    due, everything = found.due, memory.overdue(now)
    assert due is not None
    assert [task.due_at for task in due] == [task.due_at for task in everything[: len(due)]]
    assert all(task in (*everything, *map(without_result, everything)) for task in due)
    due_ids = [task.task_id for task in due]
    assert len(set(due_ids)) == len(due_ids)
    room = memory.dependants_slice
    for task in due:
        if task.tell_from is None:
            assert task.task_id not in found.dependants
            continue
        assert room > 0
        children = memory.dependants(task)
        edge = children[room].arrival if len(children) > room else None
        assert found.dependants[task.task_id] == Run(tuple(children[:room]), edge)
        room -= len(children[:room])
    behind = [it.due_at for it in memory.tasks.values() if it.due_at is not None and it.task_id not in due_ids]
    assert len(due) == min(len(everything), memory.due_slice) or room == 0
    if found.next_due is None:
        assert not behind
    else:  # nothing falls due before
        assert found.next_due <= min(behind, default=maxsize)
        assert not due or found.next_due >= (due[-1].due_at or 0)


def same_shared(memory: MemoryJournal, needs: Needs, records: Records) -> None:
    asked, mine = needs.shared, asyncio.run(memory.fetch(needs)).shared
    found, again = records.fetch(needs).shared, records.fetch(needs).shared
    assert asked
    assert found
    assert again
    assert mine
    arrivals = [*found.arrivals, *again.arrivals]
    assert len(found.arrivals) >= asked.arrivals
    assert arrivals == sorted(set(arrivals))
    assert {task.task_id: task for task in found.tasks} == {task.task_id: task for task in mine.tasks}
    assert {rules.work_directory: (rules, number) for rules, number in mine.directories} == {
        rules.work_directory: (rules, number) for rules, number in found.directories
    }
    assert not asked.slots or found.working == mine.working
    assert not asked.settings or found.config_version == mine.config_version


# What is refused


def some_tasks(records: Records) -> Story:
    story = Story(records.new())
    for tags in TAGS:
        story.say(Create(work_directory="/a", prompt="do it", tags=tags))
    return story


def test_a_change_of_an_old_form_changes_nothing(records: Records) -> None:
    story = some_tasks(records)
    before = story.memory.tasks[1]
    fresh = evolve(story.memory.tasks[2], arrival=9, task_id="task-9")
    stale = evolve(before, version=7)
    for refused in (
        [Change(None, fresh, None), Change(stale, stale.change(1, ready=False, available_at=9), None)],
        [Change(stale, stale, None, gone=True), Change(None, fresh, None)],
    ):
        with pytest.raises(REFUSED):
            records.commit(refused)
        same_snapshot(story.memory, records.load())
        ids = Needs(tasks={"task-1", "task-9"}, now=0)
        same(story.memory, ids, records.fetch(ids))
    story.say(Claim(work_directories=("/a",)))


def test_a_batch_is_written_whole_or_not_at_all(records: Records) -> None:
    """Even if it is its last task that is refused, and whatever else it says."""
    story = some_tasks(records)
    board = Board(Snapshot(last_arrival=50, last_seq=story.board._last_seq), CountingMint(tasks=50))
    changes = []
    for message in (
        Create(work_directory="/new", prompt="do it"),
        Regulate(work_directory="/a", max_working=1),
        Reconfigure(rules=Rules(), who="ann", changes={"some": "thing"}, runtime={}),
    ):
        board.learn(Found())
        changes += board.apply(message, 0).changes
    twice = Change(None, evolve(story.memory.tasks[1], prompt="another"), None)
    with pytest.raises(REFUSED):
        records.commit([*changes, twice])
    same_snapshot(story.memory, records.load())
    lanes = {LaneKey("/new", Priority.MEDIUM, frozenset()): Slice(0, 5, 5)}
    needs = Needs(tasks={"task-1", "task-51"}, lanes=lanes, now=0)
    same(story.memory, needs, records.fetch(needs))


def test_no_key_stands_for_two_tasks(records: Records) -> None:
    story = Story(records.new())
    story.say(Create(work_directory="/a", prompt="do it", idempotency_key="k1", request_digest="d"))
    other = evolve(story.memory.tasks[1], arrival=2, task_id="task-2", work_directory="/b")
    with pytest.raises(REFUSED):
        records.commit([Change(None, other, None)])
    needs = Needs(tasks={"task-2"}, keys={"k1"}, now=0)
    same(story.memory, needs, records.fetch(needs))


@pytest.mark.parametrize(
    ("report", "end"),
    [
        (lambda lease: Complete(**lease), "task.completed"),
        (lambda lease: Fail(**lease, error_message="no", retryable=False), "task.failed"),
        (lambda lease: Release(**lease), "task.released"),
        (lambda lease: Cancel(task_id=lease["task_id"], force=True), "task.cancelled"),
        (lambda lease: Tick(), "task.lease_expired"),
    ],
)
def test_what_became_of_a_lease_is_known(records: Records, report: Any, end: str) -> None:
    story = Story(records.new())
    story.say(Create(work_directory="/a", prompt="do it"))
    ((task,)) = story.say(Claim(work_directories=("/a",), worker_id="ann", lease_seconds=1))
    story.now = 1000 if end == "task.lease_expired" else 0
    story.say(report({"task_id": task.task_id, "lease_token": task.lease_token}))
    leases = {(task.task_id, str(task.lease_token)), (task.task_id, "unknown"), ("nobody", "unknown")}
    found = records.fetch(Needs(tasks={task.task_id, "nobody"}, leases=leases, now=0)).leases
    assert found[task.task_id, str(task.lease_token)] == Lease(1, "ann", None, end, False)
    assert found[task.task_id, "unknown"] is None
    assert found["nobody", "unknown"] is None


def test_a_board_that_shares_its_record_decides_on_it_as_one_that_does_not(records: Records) -> None:
    if records.kind == "sqlite":
        return  # nobody shares it
    records.new()
    board = SharedBoard(records.load(), CountingMint())

    def say(message: Message[Any], now: int = 0) -> Any:
        async def turn() -> Any:
            board.forget()
            board.learn(await records.journal.fetch(board.needs([message], now)))
            effects = board.apply(message, now)
            await (records.journal.commit(effects.changes) if effects.changes else records.journal.release())
            return effects.reply

        return records.run(turn())

    made = [say(Create(work_directory="/a", prompt="do it", priority=it)).task for it in Priority]
    say(Regulate(work_directory="/a", max_working=2))
    tasks = [say(Claim(work_directories=("/a",))) for _ in range(3)]
    assert [[task.task_id for task in them] for them in tasks] == [[made[-1].task_id], [made[1].task_id], []]
    assert say(Complete(task_id=made[1].task_id)).status is Status.COMPLETED
    assert [task.task_id for task in say(Claim(work_directories=("/a",)))] == [made[0].task_id]


def test_each_of_them_is_a_journal(records: Records) -> None:
    journal: Journal = records.new().journal
    assert (journal.short_of_room, journal.is_away) == (False, False)
    assert records.run(journal.load()) == evolve(Snapshot(), was_away=records.run(journal.load()).was_away)
