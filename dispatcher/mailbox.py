"""What is to be decided, in turn; and how much of it at once."""

from asyncio import Event, Future, get_running_loop
from collections import deque
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, Generic

from attrs import define, evolve, field

from dispatcher.messages import CreateMany, Leave, Message, R, SteerMany, Ticket

BATCH_MAX = 256  # messages decided before a commit; the rest waits for the next one
BATCH_MORE = 8  # so many more are taken after each commit, once a batch was too much
MAILBOX_MAX = 10_000  # messages waiting for their turn; beyond, Unavailable


@define(eq=False)
class Envelope(Generic[R]):
    message: Message[R]
    reply: "Future[R]" = field(factory=lambda: get_running_loop().create_future())
    ticket: Ticket | None = None  # while parked
    until: int | None = None  # likewise: when it wants an answer at the latest, None for never
    tried: bool = False  # there was no room for it once
    alone: bool = False  # the record has refused a batch that it was in
    since: float = field(factory=lambda: monotonic())

    @property
    def is_single(self) -> bool:
        """It is to be tried without any others."""
        return self.tried or self.alone

    def ask_again(self, now: int) -> None:
        """A parked claim is to be decided once more, and waits no longer than it would have."""
        self.ticket = None
        if self.until is not None:
            claim: Any = self.message
            self.message = evolve(claim, wait_seconds=max(0, self.until - now) / 1000)


def unasked(message: Message[R]) -> Envelope[R]:
    """Nobody waits for its reply, so nobody would look whether it is an error."""
    envelope = Envelope(message)
    envelope.reply.add_done_callback(Future.exception)
    return envelope


class Mailbox:
    def __init__(self) -> None:
        self._waiting: deque[Envelope[Any]] = deque()
        self._batch_max = BATCH_MAX  # fewer for a while, if the record could not take so many
        self.news = Event()  # to be waited for, and cleared, by who takes

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Envelope[Any]]:
        return iter(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= MAILBOX_MAX

    def post(self, envelope: Envelope[Any]) -> None:
        self._waiting.append(envelope)
        self.news.set()

    def post_first(self, envelope: Envelope[Any]) -> None:
        self._waiting.appendleft(envelope)
        self.news.set()

    def take(self) -> list[Envelope[Any]]:
        """What has piled up, up to BATCH_MAX; of many tasks in one message each one counts. What is to be tried alone
        is."""
        if self._waiting and self._waiting[0].is_single:
            return [self._waiting.popleft()]
        batch: list[Envelope[Any]] = []
        size = 0
        while self._waiting and size < self._batch_max and not self._waiting[0].is_single:
            batch.append(self._waiting.popleft())
            size += _size(batch[-1].message)
        return batch

    def take_those_who_leave(self) -> Iterator[Envelope[Any]]:
        """As far as they come first."""
        while self._waiting and isinstance(self._waiting[0].message, Leave):
            yield self._waiting.popleft()

    def put_back(self, envelopes: Iterable[Envelope[Any]]) -> None:
        """They come first again, in this order."""
        self._waiting.extendleft(reversed([*envelopes]))

    def hold(self, envelopes: Iterable[Envelope[Any]]) -> None:
        """These, and nothing else."""
        self._waiting = deque(envelopes)

    def take_fewer(self) -> None:
        self._batch_max = max(1, self._batch_max // 2)

    def take_more(self) -> None:
        self._batch_max = min(BATCH_MAX, self._batch_max + BATCH_MORE)


def _size(message: Message[Any]) -> int:
    if isinstance(message, CreateMany):
        return len(message.drafts)
    return len(message.task_ids) if isinstance(message, SteerMany) else 1
