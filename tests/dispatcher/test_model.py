"""Every message, against a naive server that holds everything in one list.

However little of the backlog is in memory, whenever the server is restarted and whoever leaves: the answers are those
of the oracle, and what must always be true is true after every step.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from attrs import asdict, evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispatcher.decisions import logs
from dispatcher.fields import Priority
from dispatcher.messages import (
    FOREVER,
    Claim,
    Create,
    Drain,
    Edit,
    Held,
    Message,
    Reconfigure,
    Regulate,
    Retry,
    Tick,
)
from dispatcher.rules import Rules
from storage.sqlite import journal as sqlite
from storage.sqlite import leftovers
from tests.dispatcher.answers import GONE, UNAVAILABLE, answer_of, in_any_order, shown
from tests.dispatcher.audit import Audit
from tests.dispatcher.oracle import Oracle
from tests.dispatcher.strategies import (
    DIRECTORIES,
    SECONDS,
    claims,
    directories,
    endings,
    everything,
    priorities,
    reconfigurations,
    some_rules,
)
from tests.dispatcher.world import World
from tests.storage.counted import agree_with_the_history

T = TypeVar("T")

CLAIM_MOST = 5
ADDS_ONE = Create | Retry | Edit
batches = st.lists(everything(), min_size=1, max_size=6)


class Model(RuleBasedStateMachine):
    @initialize(
        window=st.sampled_from([1, 2, 3]),
        resident_max=st.sampled_from([1000, 4]),
        shelves_max=st.sampled_from([1000, 2]),
        slice=st.sampled_from([256, 256, 1, 2]),
        log_lines_max=st.sampled_from([1000, 4]),
        log_bytes_max=st.sampled_from([1000, 2]),
        max_working=st.sampled_from([None, 1, 2]),
        rules=some_rules,
    )
    def start(
        self,
        window: int,
        resident_max: int,
        shelves_max: int,
        slice: int,
        log_lines_max: int,
        log_bytes_max: int,
        max_working: int | None,
        rules: Rules,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sqlite, "DEPENDANTS_SLICE", slice)
        self.patch.setattr(logs, "LOG_LINES_MAX", log_lines_max)
        self.patch.setattr(logs, "LOG_BYTES_MAX", log_bytes_max)
        self.patch.setattr(leftovers, "SLICE", slice)
        self.world = World(window, resident_max, shelves_max, rules=rules)
        self.oracle = Oracle(rules, told_at_once=slice, log_max=(log_lines_max, log_bytes_max))
        self.audit = Audit(self.world)
        self.asked: dict[int, tuple[Message[Any], asyncio.Task[Any]]] = {}  # not answered yet, or not yet compared
        self.expected: dict[object, Any] = {}
        self.count = 0
        self.fetching = False  # somebody was served, perhaps with tasks that are not in memory
        self.known = False  # all that lies where somebody waits is in memory
        self._run(self.world.start())
        self._run(self._say([Regulate(work_directory=DIRECTORIES[0], max_working=max_working)]))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.loop.run_until_complete(self._finish())
            self.loop.close()
            agree_with_the_history(self.world.db)
            self.world.db.close()
            self.patch.undo()

    # What happens

    @rule(messages=batches)
    def say(self, messages: list[Message[Any]]) -> None:
        self._run(self._say(messages))

    @rule(
        directory=directories, priorities=st.lists(priorities, min_size=2, max_size=5), seconds=st.sampled_from([0, 1])
    )
    def pile_up(self, directory: str, priorities: list[Priority], seconds: float) -> None:
        """More than fits into memory, some of it older than what is more urgent."""
        for priority in priorities:
            create = Create(work_directory=directory, prompt="do it", priority=priority)
            self._run(self._let_time_pass(seconds, [create]))

    @rule(directory=directories, first=st.lists(claims, min_size=1, max_size=3), later=st.lists(claims, max_size=2))
    def open_the_door(self, directory: str, first: list[Claim], later: list[Claim]) -> None:
        """Who waits goes in before whoever comes after the door was opened."""
        shut = Regulate(work_directory=directory, paused=True)
        patient = [evolve(claim, wait_seconds=FOREVER) for claim in first]
        opened = Regulate(work_directory=directory, paused=False, draining=False)
        self._run(self._say([shut, *patient, opened, *later]))

    @rule(
        first=st.lists(claims, min_size=1, max_size=3),
        change=reconfigurations,
        later=st.lists(claims | reconfigurations, max_size=2),
    )
    def change_the_rules(self, first: list[Claim], change: Reconfigure, later: list[Message[Any]]) -> None:
        """Somebody waits, for the limit at least, when they change; and more comes in the same batch."""
        none = evolve(change.rules, max_concurrent_tasks=1)
        shut = evolve(change, rules=none, runtime=asdict(none))
        patient = [evolve(claim, wait_seconds=FOREVER) for claim in first]
        self._run(self._say([shut, *patient, change, *later]))

    @rule(seconds=st.sampled_from([*SECONDS, *SECONDS, 24 * 3600]), messages=st.just([Tick()]) | batches)
    def let_time_pass(self, seconds: float, messages: list[Message[Any]]) -> None:
        """Whatever is asked then is decided after what has fallen due by then."""
        self._run(self._let_time_pass(seconds, messages))

    @precondition(lambda self: self.oracle.parked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """The caller of a parked claim goes away."""
        key = data.draw(st.sampled_from([parked.key for parked in self.oracle.parked]))
        self._run(self._leave(key))

    @rule(seconds=st.sampled_from([0, 0.5, 1, 5]), last_words=st.just([]) | batches)
    def restart(self, seconds: float, last_words: list[Message[Any]]) -> None:
        """With last words, those who wait are sent away first, and nobody is parked any more."""
        self._run(self._restart(seconds, last_words))

    @rule(message=everything() | endings(), seconds=st.sampled_from([0, 1, 5]))
    def restart_at_once(self, message: Message[Any], seconds: float) -> None:
        """Before the server has come to what the message brings about. Who waits has left."""
        for parked in self.oracle.parked:
            self._run(self._leave(parked.key))
        self._run(self._restart_at_once(message, seconds))

    # What must be true

    @invariant()
    def answers_are_those_of_the_oracle(self) -> None:
        for key, (message, ask) in list(self.asked.items()):
            assert ask.done() == (key in self.expected), (message, self.expected.get(key))
            if ask.done():
                answer, expected = answer_of(ask), self.expected.pop(key)
                if isinstance(message, Held) or (isinstance(message, Claim) and message.claim_id):
                    answer, expected = in_any_order(answer), in_any_order(expected)
                assert answer == expected, (message, answer, expected)
                del self.asked[key]

    @invariant()
    def the_record_is_that_of_the_oracle(self) -> None:
        db, tasks = self.world.db, self.audit.read()
        jobs = [job.summary() for job in self.oracle.jobs if not job.deleted]
        assert len(tasks) == len(jobs)
        self._check_numbers([(task.arrival, job["arrival"]) for task, job in zip(tasks, jobs, strict=True)])
        for task, job in zip(tasks, jobs, strict=True):
            different = {name: (value, job[name]) for name, value in shown(task).items() if value != job[name]}
            assert not different, (task.task_id, "is, and should be", different)
        late = sum(len(job.late) for job in self.oracle.jobs)
        assert db.execute("select count(*) from history where type = 'task.late_result'").fetchone() == (late,)
        steps = sum(job.steps for job in self.oracle.jobs)
        assert db.execute("select count(*) from history where type = 'task.progress'").fetchone() == (steps,)
        cancelled = "select task_id, json_extract(details, '$.reason') from history where type = 'task.cancelled'"
        for task_id, reason in db.execute(cancelled):
            job = next(job for job in self.oracle.jobs if job.id == task_id)
            both_at_once = job.expired(job.ended_at or 0) and {reason, job.reason} == {"expired", "dependency_failed"}
            assert reason == job.reason or both_at_once, (task_id, reason, job.reason)

    @invariant()
    def logs_are_those_of_the_oracle(self) -> None:
        db = self.world.db
        number = "cast(substr(task_id, 6) as integer)"
        lines = f"select {number}, number, task_logs.attempt, at, line from task_logs join tasks using (arrival)"
        rows = db.execute(f"{lines} order by 1, 2").fetchall()
        jobs = [job for job in self.oracle.jobs if not job.deleted]
        assert rows == [(job.number, place, *it) for job in jobs for place, it in enumerate(job.printed, start=1)]

    @invariant()
    def what_deleted_tasks_have_printed_will_be_removed(self) -> None:
        known = "select arrival from tasks union select arrival from logs_left"
        stray = f"select * from task_logs where arrival not in ({known})"
        assert self.world.db.execute(stray).fetchall() == []

    @rule()
    def clean_up(self) -> None:
        leftovers.remove_some(self.world.db)

    @invariant()
    def lines_about_no_task_are_those_of_the_oracle(self) -> None:
        lines = "select at, type, work_directory from history where task_id is null"
        expected = self.oracle.lines + [line for folder in self.oracle.folders.values() for line in folder.lines]
        expected += self.oracle.versions
        assert Counter(self.world.db.execute(lines).fetchall()) == Counter(expected)

    @invariant()
    def the_rules_are_those_of_the_oracle(self) -> None:
        snapshot = sqlite.load(self.world.db)
        assert snapshot.config_version == self.world.board.config_version == len(self.oracle.versions)
        assert self.world.board.rules == self.oracle.rules
        assert not self.oracle.versions or Rules(**snapshot.runtime) == self.oracle.rules

    @invariant()
    def changes_are_legal(self) -> None:
        self.audit.changes()

    @invariant()
    def the_record_is_whole(self) -> None:
        self.audit.record()

    @invariant()
    def memory_is_bounded(self) -> None:
        self.audit.memory(CLAIM_MOST)

    # How

    def _check_numbers(self, numbers: list[tuple[int, int]]) -> None:
        """The arrivals, and the numbers that they should be."""
        assert all(arrival == number for arrival, number in numbers)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def _say(self, messages: list[Message[Any]]) -> None:
        """All in one batch, but where something is due at once: what comes next is decided after it."""
        for message in messages:
            if self._must_settle_before(message):
                await self._settle()
            self._ask(message)
        await self._settle()

    def _must_settle_before(self, message: Message[Any]) -> bool:
        """The tasks for those who are served may have to be fetched first; later claims come after that anyhow."""
        later_claim = isinstance(message, Claim) and not message.claim_id
        return self.oracle.is_due(self.world.now) or (self.fetching and not later_claim)

    def _ask(self, message: Message[Any]) -> None:
        self.count += 1
        self.asked[self.count] = message, self.world.ask(self._with_real_token(message))
        answer = self.oracle.say(self.count, message, self.world.now)
        if answer is not None:
            self.expected[self.count] = answer
        self.known = self.known and not self.oracle.has_limits
        self._note_served(not (self.known and isinstance(message, ADDS_ONE)))

    def _with_real_token(self, message: Message[Any]) -> Message[Any]:
        said = getattr(message, "lease_token", None)
        return evolve(message, lease_token=self.audit.tokens[said]) if said in self.audit.tokens else message

    def _note_served(self, from_the_record: bool) -> None:
        self.fetching |= from_the_record and bool(self.oracle.answers)
        self.expected |= self.oracle.answers
        self.oracle.answers = {}

    async def _settle(self) -> None:
        await self.world.settle()
        self.oracle.tick(self.world.now, self._given)
        self._note_served(False)
        self.fetching = False
        self.known = self.audit.is_all_known()

    def _given(self, key: Any) -> list[str] | None:
        _, ask = self.asked[key]
        return [task.task_id for task in ask.result()] if ask.done() and not ask.cancelled() else None

    async def _let_time_pass(self, seconds: float, messages: list[Message[Any]]) -> None:
        then = self.world.now + round(seconds * 1000)
        for until in sorted(parked.until for parked in self.oracle.waiting()):
            for moment in (until - 1, until):
                if self.world.now < moment < then:
                    await self._reach(int(moment), [Tick()])
        await self._reach(then, messages)

    async def _reach(self, moment: int, messages: list[Message[Any]]) -> None:
        self.world.now = moment
        if self.oracle.is_due(self.world.now):
            self.oracle.round(self.world.now)
            self._note_served(True)
        if self.oracle.is_due(self.world.now) or self.fetching:
            self._ask(Tick())  # somebody must wake it up
        await self._say(messages)

    async def _leave(self, key: Any) -> None:
        _, ask = self.asked[key]
        ask.cancel()
        self.oracle.leave(key)
        self.expected[key] = GONE
        await self._settle()

    async def _restart(self, seconds: float, last_words: list[Message[Any]]) -> None:
        if last_words:
            await self._say([Drain(), *last_words])
        await self._start_again(seconds)

    async def _restart_at_once(self, message: Message[Any], seconds: float) -> None:
        self._ask(message)
        await asyncio.sleep(0)
        await self._start_again(seconds)

    async def _start_again(self, seconds: float) -> None:
        await self.world.stop()
        self.world.now += round(seconds * 1000)
        await self.world.start()
        self.expected |= dict.fromkeys(self.oracle.restart(self.world.now), UNAVAILABLE)
        await self._settle()

    async def _finish(self) -> None:
        if not self.world.running.done():
            self.world.dispatcher.close()
        await asyncio.gather(self.world.running, *(ask for _, ask in self.asked.values()), return_exceptions=True)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=65, stateful_step_count=40)
