"""The one owner of the board: messages in turn, one commit per batch.

while batch := drain():                 wait for one message, take all that piled up behind it
    learn(fetch(needs(batch)))          what the board lacks comes from the record
    decide(batch)                       pure, in memory; refusals leave their neighbours alone
    commit(changes)                     one transaction: save first
    answer(batch)                       speak second
    publish(changes)                    and only then tell everybody
"""

from asyncio import CancelledError, Event, Future, TimerHandle, get_running_loop
from collections import deque
from typing import Any, Generic

from attrs import define, field

from dispatcher.board import Board, Effects, Parked
from dispatcher.errors import Refusal, Unavailable
from dispatcher.hub import Hub
from dispatcher.messages import Claim, Leave, Message, R, Release, Tick, Ticket
from dispatcher.ports import Clock, Journal
from dispatcher.task import Task

BATCH_MAX = 256  # messages decided before a commit; the rest waits for the next one
MAILBOX_MAX = 10_000  # messages waiting for their turn; beyond, Unavailable
PARKED_MAX = 20_000  # places that claims wait in, one for each of their directories; beyond, Unavailable
UNDELIVERED = "undelivered"


@define(eq=False)
class Envelope(Generic[R]):
    message: Message[R]
    reply: "Future[R]" = field(factory=lambda: get_running_loop().create_future())
    ticket: Ticket | None = None  # while parked


Outcome = tuple[Envelope[Any], Effects[Any] | Refusal]


class Dispatcher:
    def __init__(self, board: Board, journal: Journal, hub: Hub, clock: Clock) -> None:
        self._board, self._journal, self._hub, self._clock = board, journal, hub, clock
        self._mailbox: deque[Envelope[Any]] = deque()
        self._mail = Event()
        self._open = True
        self._parked: dict[Ticket, Envelope[Any]] = {}
        self._alarm: tuple[int, TimerHandle] | None = None
        self.batches = self.messages = 0  # committed since the start, and the messages decided in them

    async def ask(self, message: Message[R]) -> R:
        """The reply, once it is durable. Raises Refusal, or Unavailable. Whoever leaves first is given nothing."""
        full = self._board.agenda.places >= PARKED_MAX and isinstance(message, Claim)
        if not self._open:
            raise Unavailable
        if full or len(self._mailbox) >= MAILBOX_MAX:
            raise Unavailable("too many requests are waiting")
        envelope = Envelope(message)
        self._post(envelope)
        try:
            return await envelope.reply
        except CancelledError:
            self._caller_left(envelope)
            raise

    @property
    def running(self) -> bool:
        return self._open

    @property
    def mailbox_size(self) -> int:
        return len(self._mailbox)

    @property
    def working(self) -> int:
        """How many tasks are being worked on."""
        return len(self._board.working)

    def give_back(self, tasks: tuple[Task, ...]) -> None:
        """These claimed tasks did not reach their worker: back to waiting, at once.

        Not those of a claim with a name: said again, it gets them, and may have done so already.
        """
        for task in tasks:
            if self._open and task.lease_token and not task.claim_id:
                release = Release(task_id=task.task_id, lease_token=task.lease_token, reason=UNDELIVERED)
                self._post_unasked(release)

    def close(self) -> None:
        """Take no more messages; run() answers those already here, then returns."""
        self._open = False
        self._mail.set()

    async def run(self) -> None:
        batch: list[Envelope[Any]] = []
        try:
            while batch := await self._drain():
                await self._turn(batch)
        except BaseException:
            # The board may now be ahead of the record, so nobody may use it again.
            self._abandon(batch)
            raise
        self._abandon([])

    async def _drain(self) -> list[Envelope[Any]]:
        self._set_alarm()
        while not self._mailbox and self._open:
            self._mail.clear()
            await self._mail.wait()
        return [self._mailbox.popleft() for _ in range(min(BATCH_MAX, len(self._mailbox)))]

    async def _turn(self, batch: list[Envelope[Any]]) -> None:
        now = self._clock()
        self._board.forget()
        if needs := self._board.needs([envelope.message for envelope in batch], now):
            self._board.learn(await self._journal.fetch(needs))
        outcomes = self._decide(batch, now)
        changes = [change for _, outcome in outcomes if isinstance(outcome, Effects) for change in outcome.changes]
        if changes:
            await self._journal.commit(changes)
            self.batches += 1
            self.messages += len(outcomes)
        for envelope, outcome in outcomes:
            self._answer(envelope, outcome)
        self._hub.publish(changes)

    def _decide(self, batch: list[Envelope[Any]], now: int) -> list[Outcome]:
        """As many as the board knows enough for; the others go to the head of the next batch."""
        while self._mailbox and isinstance(self._mailbox[0].message, Leave):
            batch.insert(0, self._mailbox.popleft())  # whoever has left by now must get nothing
        outcomes: list[Outcome] = []
        for place, envelope in enumerate(batch):
            if envelope.reply.cancelled():
                continue  # gone before its turn
            if self._board.needs([envelope.message], now):
                self._mailbox.extendleft(reversed(batch[place:]))
                break
            outcomes.append((envelope, self._decide_one(envelope, now)))
        return outcomes

    def _decide_one(self, envelope: Envelope[Any], now: int) -> Effects[Any] | Refusal:
        if isinstance(envelope.message, Tick):
            self._alarm = None
        elif isinstance(envelope.message, Leave):
            self._parked.pop(envelope.message.ticket, None)
        try:
            effects = self._board.apply(envelope.message, now)
        except Refusal as refusal:
            return refusal
        if isinstance(effects.reply, Parked):
            envelope.ticket = effects.reply.ticket
            self._parked[envelope.ticket] = envelope
        return effects

    def _answer(self, envelope: Envelope[Any], outcome: Effects[Any] | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._settle(envelope, outcome)
            return
        if not isinstance(outcome.reply, Parked):
            self._settle(envelope, outcome.reply)
        for ticket, tasks in outcome.served:
            self._settle(self._parked.pop(ticket), tasks)

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
            self._mailbox.appendleft(Envelope(Leave(envelope.ticket)))
            self._mail.set()

    def _undelivered(self, message: Message[Any], outcome: Any) -> None:
        if isinstance(message, Claim) and isinstance(outcome, tuple):
            self.give_back(outcome)

    def _post(self, envelope: Envelope[Any]) -> None:
        self._mailbox.append(envelope)
        self._mail.set()

    def _post_unasked(self, message: Message[Any]) -> None:
        envelope = Envelope(message)
        envelope.reply.add_done_callback(Future.exception)  # nobody waits for it, so nobody would look
        self._post(envelope)

    def _set_alarm(self) -> None:
        """See to it that a Tick comes when the board wants one."""
        due = self._board.next_due()
        if self._alarm is not None:
            if self._alarm[0] == due:
                return
            self._alarm[1].cancel()
        self._alarm = None
        if due is not None:
            delay = max(0, due - self._clock()) / 1000
            self._alarm = due, get_running_loop().call_later(delay, self._post_unasked, Tick())

    def _abandon(self, batch: list[Envelope[Any]]) -> None:
        self._open = False
        if self._alarm is not None:
            self._alarm[1].cancel()
        for envelope in (*batch, *self._mailbox, *self._parked.values()):
            if not envelope.reply.done():
                envelope.reply.set_exception(Unavailable())
        self._mailbox.clear()
        self._parked.clear()
