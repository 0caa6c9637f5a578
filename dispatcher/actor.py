"""The one owner of the board: messages in turn, one commit per batch.

while woken():                          wait for one message, take all that piled up behind it; first what is due
    learn(fetch(needs(batch)))          what the board lacks comes from the record
    decide(batch)                       pure, in memory; refusals leave their neighbours alone
    commit(changes)                     one transaction: save first
    answer(batch)                       speak second
    publish(changes)                    and only then tell everybody
"""

from asyncio import CancelledError, Event, TimerHandle, get_running_loop, sleep
from collections import Counter
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

from dispatcher.board import Board, Effects, Parked
from dispatcher.errors import NoRoom, RecordFailed, Refusal, Unavailable, Undone
from dispatcher.mailbox import Envelope, Mailbox, unasked
from dispatcher.messages import (
    Adopt,
    Claim,
    Create,
    CreateMany,
    Heed,
    Leave,
    Log,
    Message,
    R,
    Release,
    Resume,
    Tick,
    Ticket,
)
from dispatcher.ports import Changes, Clock, Journal
from dispatcher.presence import Presence, Waiting
from dispatcher.roll import Roll
from dispatcher.task import Task

PARKED_MAX = 20_000  # places that claims wait in, one for each of their directories; beyond, Unavailable
REST_MS = 1000  # while there is no room, what falls due by itself is tried so often
PAUSE_SECONDS = 0.1  # after the record has refused a batch: what falls due by itself would be tried again at once
UNDELIVERED = "undelivered"
FLEETING = (Leave, Tick, Resume)  # they speak of the board as it was, or come again by themselves
EXPENDABLE = (Create, CreateMany, Log)  # turned down while there is no room, which is for those who end what runs
FULL = "the disk is full"
STUCK = "what has fallen due cannot be seen to just now"
AWAY = "the database cannot be reached"
CROWDED = "too many requests are waiting"


Outcome = tuple[Envelope[Any], Effects[Any] | Exception]


class Dispatcher:
    def __init__(
        self,
        board: Board,
        journal: Journal,
        publish: Callable[[Changes], None],
        clock: Clock,
        roll: Roll | None = None,
        owes_grace: bool = True,
    ) -> None:
        """`publish` is told of every batch once it is on record; it must not wait, nor raise."""
        self.roll = roll or Roll()
        self._board, self._journal, self._publish, self._clock = board, journal, publish, clock
        self._mailbox = Mailbox()
        self._open = True
        self.begun = Event()  # leases have got their grace, or it has failed
        self._batch: list[Envelope[Any]] = []  # being decided and saved
        self._parked: dict[Ticket, Envelope[Any]] = {}
        self._rest_until = 0  # while there is no room, nothing that falls due by itself is tried before
        self._owes_grace = owes_grace  # leases could not be renewed for a while
        self.batches = self.messages = 0  # committed since the start, and the messages decided in them

    async def ask(self, message: Message[R]) -> R:
        """The reply, once it is durable. Raises Refusal, or Unavailable. Whoever leaves first is given nothing."""
        if not self._open:
            raise Unavailable
        if self._mailbox.is_full:
            raise Unavailable(CROWDED)
        if self._journal.is_away:
            raise Unavailable(AWAY)
        envelope = Envelope(message)
        self._mailbox.post(envelope)
        try:
            return await envelope.reply
        except CancelledError:
            self._caller_left(envelope)
            raise

    @property
    def running(self) -> bool:
        return self._open

    @property
    def is_cut_off(self) -> bool:
        """The record has not been reached for a while."""
        return self._journal.is_away

    @property
    def has_limit(self) -> bool:
        """Only so many tasks may be worked on in all."""
        return self._board.gates.has_limit

    @property
    def short_of_room(self) -> bool:
        """The disk is full."""
        return self._journal.short_of_room

    @property
    def mailbox_size(self) -> int:
        return len(self._mailbox)

    @property
    def oldest_seconds(self) -> float:
        """For how long the oldest message has been waiting, in the mailbox or to be saved; 0 without any."""
        earliest = min((envelope.since for envelope in (*self._batch, *tuple(self._mailbox)[:1])), default=None)
        return 0 if earliest is None else monotonic() - earliest

    @property
    def parked(self) -> int:
        """How many claims wait for a task."""
        return len(self._parked)

    def presence(self) -> Presence:
        """Who is connected here."""
        waiters = self._board.agenda.waiters()
        places = Counter((path, it.claim.tags) for it in waiters for path in it.claim.work_directories)
        waiting = tuple(Waiting(*place, claims) for place, claims in places.items())
        return Presence(waiting, tuple(self.roll.call(waiters, self._clock())))

    def waiting_in(self, work_directory: str, tags: Collection[str] | None = None) -> int:
        """How many claims wait here for a task of a directory; with tags, for one that bears them."""
        return self._board.agenda.waiting(work_directory, tags)

    def waiting_directories(self) -> Collection[str]:
        """Where claims wait."""
        return self._board.agenda.places_in.keys()

    def attempt_seconds(self, work_directory: str) -> float | None:
        """How long a task of the directory takes, judging by those that were completed here of late; None: unknown."""
        return self._board.pace.attempt_seconds(work_directory)

    def heed(self, message: Heed | Adopt) -> None:
        """Others have done something on the record."""
        if self._open:
            self._mailbox.post(unasked(message))

    def give_back(self, tasks: tuple[Task, ...]) -> None:
        """These claimed tasks did not reach their worker: back to waiting, at once.

        Not those of a claim with a name: said again, it gets them, and may have done so already.
        """
        for task in tasks:
            if self._open and task.lease_token and not task.claim_id:
                release = Release(task_id=task.task_id, lease_token=task.lease_token, reason=UNDELIVERED)
                self._mailbox.post(unasked(release))

    def close(self) -> None:
        """Take no more messages; run() answers those already here, then returns."""
        self._open = False
        self._journal.stop_waiting()
        self._mailbox.news.set()

    async def run(self) -> None:
        try:
            await self._turn([])
            self._batch = []
            self.begun.set()
            while await self._woken():
                await self._turn(self._mailbox.take())
                self._batch = []
        except RecordFailed:
            if self._open:
                raise
        finally:
            # After an error the board may be ahead of the record, so nobody may use it again.
            self.begun.set()
            self._abandon()

    async def _woken(self) -> bool:
        """Returns when there is something to do; false if there will never be anything again."""
        while self._open and not self._mailbox and not self._is_due(self._clock()):
            self._mailbox.news.clear()
            alarm = self._alarm()
            await self._mailbox.news.wait()
            if alarm:
                alarm.cancel()
        return self._open or bool(self._mailbox)

    def _is_due(self, now: int) -> bool:
        due = self._next_due()
        return due is not None and due <= now

    def _next_due(self) -> int | None:
        due = self._board.next_due()
        return due if due is None or not self._journal.short_of_room else max(due, self._rest_until)

    def _alarm(self) -> TimerHandle | None:
        """It rings when something falls due by itself."""
        if (due := self._next_due()) is None:
            return None
        return get_running_loop().call_later(max(0, due - self._clock()) / 1000, self._mailbox.news.set)

    async def _turn(self, batch: list[Envelope[Any]]) -> None:
        now = self._clock()
        self._batch = batch = batch if batch and batch[0].alone else self._what_comes_first(now) + batch
        self._board.forget()
        outcomes: list[Outcome] = []
        try:
            if needs := self._board.needs([envelope.message for envelope in batch], now):
                self._board.learn(await self._journal.fetch(needs))
                now = self._clock()  # it may have had to wait for others
            outcomes = self._decide(batch, now)
            changes = [change for _, outcome in outcomes if isinstance(outcome, Effects) for change in outcome.changes]
            if changes:
                changes = list(await self._journal.commit(changes))
            elif needs:
                await self._journal.release()
        except NoRoom:
            await self._take_back(outcomes, now)
            if not self._journal.short_of_room:
                await sleep(PAUSE_SECONDS)  # there may be room again, or there may not
        except Undone:
            self._mailbox.take_fewer()
            await self._begin_again(batch)
        except RecordFailed as failed:
            await sleep(PAUSE_SECONDS)
            await self._begin_again(self._refuse(outcomes, batch, failed))
        else:
            self._mailbox.take_more()
            if changes:
                self.batches += 1
                self.messages += len(outcomes)
            for envelope, outcome in outcomes:
                self._answer(envelope, outcome, now)
            self._publish(changes)

    def _what_comes_first(self, now: int) -> list[Envelope[Any]]:
        """Before any message what has fallen due; and before that a grace, if leases could not be renewed."""
        first: list[Envelope[Any]] = []
        is_due = self._is_due(now)
        if self._owes_grace and (is_due or not self._journal.short_of_room):
            self._owes_grace = False
            first.append(unasked(Resume()))
        if is_due:
            first.append(unasked(Tick()))
        return first

    async def _take_back(self, outcomes: list[Outcome], now: int) -> None:
        """There was no room, and nothing was written: the board goes back to what the record says. Creations and
        logs are turned down, and whoever waits is sent away; the others are tried once more."""
        self._owes_grace, self._rest_until = True, now + REST_MS
        self._board = self._board.rebuilt(await self._journal.load())
        for envelope in self._parked.values():
            self._settle(envelope, ())
        self._parked.clear()
        again = [envelope for envelope, _ in outcomes if not envelope.reply.done() and not envelope.tried]
        for envelope, _ in outcomes:
            if envelope.tried and not envelope.reply.done():
                self._settle(envelope, Unavailable(FULL))
            envelope.tried = True
        for envelope in (*again, *self._mailbox):
            if isinstance(envelope.message, EXPENDABLE):
                self._settle(envelope, Unavailable(FULL))
        kept = (envelope for envelope in (*again, *self._mailbox) if not isinstance(envelope.message, FLEETING))
        self._mailbox.hold([envelope for envelope in kept if not envelope.reply.done()])

    async def _begin_again(self, batch: list[Envelope[Any]]) -> None:
        """Nothing of what was decided is on record, and nobody knows of it: those who wait ask once more, for as long
        as they still have, and then comes what there is to decide."""
        snapshot = await self._journal.load()
        self._board = self._board.rebuilt(snapshot)
        was_grace = any(isinstance(envelope.message, Resume) for envelope in batch)
        self._owes_grace = self._owes_grace or snapshot.was_away or was_grace
        now = self._clock()
        again: dict[Envelope[Any], None] = {}
        for ticket in sorted(self._parked):
            waiting = self._parked.pop(ticket)
            waiting.ask_again(now)
            if not waiting.reply.done():
                again[waiting] = None
        for envelope in (*batch, *self._mailbox):
            if not isinstance(envelope.message, FLEETING):
                again[envelope] = None
            elif not envelope.reply.done():
                self._settle(envelope, None)
        self._mailbox.hold(again)

    def _refuse(self, outcomes: list[Outcome], batch: list[Envelope[Any]], why: RecordFailed) -> list[Envelope[Any]]:
        """The record does not take what they have led to, or does not say what they are about. One alone is told so; of
        several it may be one, so each is to be tried alone, as are those who would have been served."""
        decided = [envelope for envelope, _ in outcomes] or batch
        asked = [envelope for envelope in decided if not isinstance(envelope.message, FLEETING)]
        if len(asked) == 1 == len(decided):
            self._settle(asked[0], why)
            return []
        served = {ticket for _, it in outcomes if isinstance(it, Effects) for ticket, _ in it.served}
        for envelope in (*asked, *(self._parked[ticket] for ticket in served)):
            envelope.alone = True
        return asked

    def _decide(self, batch: list[Envelope[Any]], now: int) -> list[Outcome]:
        """As many as the board knows enough for; the others go to the head of the next batch, with those that must let
        what is due come first."""
        batch += self._mailbox.take_those_who_leave()
        batch.sort(key=lambda envelope: not isinstance(envelope.message, Leave))  # who has left by now gets nothing
        outcomes: list[Outcome] = []
        later: list[Envelope[Any]] = []
        for place, envelope in enumerate(batch):
            if envelope.reply.cancelled():
                continue  # gone before its turn
            if self._board.needs([envelope.message], now):
                later += batch[place:]
                break
            if not self._board.comes_too_early(envelope.message, now):
                outcomes.append((envelope, self._decide_one(envelope, now)))
            elif self._is_due(now) and not envelope.alone:
                later.append(envelope)
            else:
                why = FULL if self._journal.short_of_room else STUCK  # what is due is not tried just now
                outcomes.append((envelope, Unavailable(why)))
        self._mailbox.put_back(later)
        return outcomes

    def _decide_one(self, envelope: Envelope[Any], now: int) -> Effects[Any] | Exception:
        self.roll.hear(envelope.message, self._board.working, now)
        if isinstance(envelope.message, EXPENDABLE) and self._journal.short_of_room:
            return Unavailable(FULL)
        if isinstance(envelope.message, Claim) and self._board.agenda.places >= PARKED_MAX:
            return Unavailable(CROWDED)
        try:
            effects = self._board.apply(envelope.message, now)
        except Refusal as refusal:
            return refusal
        if isinstance(effects.reply, Parked):
            envelope.ticket, envelope.until = effects.reply.ticket, effects.reply.until
            self._parked[envelope.ticket] = envelope
        return effects

    def _answer(self, envelope: Envelope[Any], outcome: Effects[Any] | Exception, now: int) -> None:
        if isinstance(outcome, Exception):
            self._settle(envelope, outcome)
            return
        if not isinstance(outcome.reply, Parked):
            self._settle(envelope, outcome.reply)
        if isinstance(envelope.message, Leave):
            self._parked.pop(envelope.message.ticket, None)
        for ticket, tasks in outcome.served:
            parked = self._parked.pop(ticket)
            self.roll.hear(parked.message, {}, now)  # it waited until now
            self._settle(parked, tasks)

    def _settle(self, envelope: Envelope[Any], outcome: Any) -> None:
        if envelope.reply.cancelled():  # gone during the commit
            self._undelivered(envelope.message, outcome)
        elif isinstance(outcome, Exception):
            envelope.reply.set_exception(outcome)
        else:
            envelope.reply.set_result(outcome)

    def _caller_left(self, envelope: Envelope[Any]) -> None:
        if not envelope.reply.cancelled():  # it was answered, but was gone before it could hear it
            if envelope.reply.exception() is None:
                self._undelivered(envelope.message, envelope.reply.result())
        elif envelope.ticket is not None:
            self._mailbox.post_first(Envelope(Leave(envelope.ticket)))

    def _undelivered(self, message: Message[Any], outcome: Any) -> None:
        if isinstance(message, Claim) and isinstance(outcome, tuple):
            self.give_back(outcome)

    def _abandon(self) -> None:
        self._open = False
        for envelope in (*self._batch, *self._mailbox, *self._parked.values()):
            if not envelope.reply.done():
                envelope.reply.set_exception(Unavailable())
        self._mailbox.hold(())
        self._parked.clear()
