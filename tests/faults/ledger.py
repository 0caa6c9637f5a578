"""What the clients know for certain, because the server answered, and what they must leave open."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from math import inf
from typing import Any, Literal

from attrs import define, field, frozen

from .calls import Calls
from .wire import Answer

RECENT = 300  # tasks, and leases that are over, which somebody may yet come back to
UNANSWERED_SECONDS = 30  # for so long after we have given up on a call a server may yet be busy with it

Kind = Literal["lost", "double", "stuck", "order", "limit", "record", "answer", "feed"]


def milliseconds(rfc3339: str) -> int:
    return round(datetime.fromisoformat(rfc3339).timestamp() * 1000)


@frozen
class Finding:
    """Something that must not happen. `about`: the task or prompt by which the calls are found that explain it."""

    kind: Kind
    text: str
    about: str | None = None


@define(eq=False)
class Creation:
    """A task somebody asked for. The prompt is never used twice, so it tells which task in the record this is."""

    body: dict[str, Any]
    began: float
    task_id: str | None = None  # once it was answered
    ended: float = inf  # when it first was


@define(eq=False)
class Claim:
    """Whoever asks for tasks; no two claims bear the same worker_id, so the record tells which claim got what."""

    worker_id: str
    directories: tuple[str, ...]
    tags: frozenset[str]
    began: float
    tries: int = 0  # how often it was said
    heard: int = 0  # how often it was answered in full
    ended: float = inf  # no server is busy with it any more


@define(eq=False)
class Touch:
    """A call about a task, or a claim of what is in a directory: how long servers may have been busy with it."""

    began: float
    claim: Claim | None
    ended: float = inf


@define(eq=False)
class Lease:
    """A claim that was answered, and what became of it. Moments are on our clock, `expires_at` is on the server's."""

    task_id: str
    token: str
    attempt: int
    claim: Claim
    got: float
    expires_at: int  # as last answered
    sure_until: float  # nobody else can have the task before, if nobody ends the lease
    end: tuple[str, dict[str, Any]] | None = None  # the call by which its holder wanted to end it: verb and body
    end_began: float = 0
    end_tries: int = 0
    ended: str | None = None  # the task's status then, if that call was answered
    lost: bool = False  # a call was refused: it is not valid any more
    doubt: str | None = None  # why it should not have been refused, unless it never reached its holder by the record


@frozen
class Effect:
    """An answered call that changed something: the record must have it, and in between others by their time."""

    kind: Literal["created", "claimed", "ended", "cancelled"]
    key: str  # the task's id, or the token of the lease
    began: float  # the first time it was said
    ended: float


@define
class Ledger:
    calls: Calls = field(factory=Calls)
    creations: dict[str, Creation] = field(factory=dict)  # by prompt
    claims: dict[str, Claim] = field(factory=dict)  # by worker_id
    leases: dict[str, Lease] = field(factory=dict)  # by token
    results: dict[str, object] = field(factory=dict)  # of tasks whose completion was answered, by task_id
    sights: dict[str, tuple[str, object]] = field(factory=dict)  # of tasks that were seen at their end: status, result
    jumps: list[float] = field(factory=list)  # moments from which on the server's clock may be ahead of what it was
    touches: defaultdict[str, list[Touch]] = field(factory=lambda: defaultdict(list))  # by task_id, prompt or directory
    asked: dict[str, set[str]] = field(factory=lambda: {"cancel": set(), "retry": set(), "edit": set()})
    effects: list[Effect] = field(factory=list)
    findings: list[Finding] = field(factory=list)
    recent: deque[str] = field(factory=lambda: deque(maxlen=RECENT))  # tasks
    past: deque[Lease] = field(factory=lambda: deque(maxlen=RECENT))  # leases that are over
    created: int = 0  # creations that were answered
    turned_down: int = 0  # calls, because the disk was full
    open_tasks: int = 0  # about how many are not at their end
    answers: int = 0
    _over: dict[str, int] = field(factory=dict)  # by task_id: the latest attempt that is known to be over
    _awaited: list[tuple[int, "asyncio.Future[None]"]] = field(factory=list)

    def find(self, kind: Kind, text: str, about: str | None = None) -> None:
        self.findings.append(Finding(kind, text, about))

    def count_answer(self) -> None:
        self.answers += 1
        for number, reached in self._awaited:
            if number <= self.answers and not reached.done():
                reached.set_result(None)

    async def more_answers(self, number: int) -> None:
        """Returns when so many more calls have been answered."""
        reached = asyncio.get_running_loop().create_future()
        self._awaited = [(self.answers + number, reached)]
        await reached

    @contextmanager
    def touching(self, keys: Iterable[str], claim: Claim | None = None) -> Iterator[None]:
        """Within it a call is made about these tasks and directories; an exception leaves open what came of it."""
        touch, answered = self.begin_touch(keys, claim), False
        try:
            yield
            answered = True
        finally:
            self.end_touch(touch, answered=answered)

    def begin_touch(self, keys: Iterable[str], claim: Claim | None) -> Touch:
        touch = Touch(time.monotonic(), claim)
        for key in keys:
            self.touches[key].append(touch)
        return touch

    def end_touch(self, touch: Touch, *, answered: bool) -> None:
        touch.ended = time.monotonic() + (0 if answered else UNANSWERED_SECONDS)
        if touch.claim:
            touch.claim.ended = touch.ended

    def note_creation(self, creation: Creation, answer: Answer) -> None:
        task_id = answer.body["data"]["task_id"]
        if creation.task_id not in (None, task_id):
            self.find("double", f"a key stands for two tasks, {creation.task_id} and {task_id}", task_id)
        creation.task_id, creation.ended = task_id, min(creation.ended, answer.ended)
        self.recent.append(task_id)
        self.open_tasks += 1
        self.created += 1
        self.effects.append(Effect("created", task_id, creation.began, answer.ended))

    def note_claim(self, claim: Claim, task: dict[str, Any], answer: Answer) -> Lease | None:
        """The lease; None if its claim was given it before."""
        known = self.leases.get(task["lease_token"])
        if known and known.claim is not claim:
            self.find("double", f"a lease was given to {known.claim.worker_id} and {claim.worker_id}", task["task_id"])
        if known:
            return None
        expires_at = milliseconds(task["lease_expires_at"])
        sure_until = sure(answer, expires_at) if answer.body else answer.began
        lease = Lease(
            task["task_id"], task["lease_token"], task["attempt"], claim, answer.ended, expires_at, sure_until
        )
        self.leases[lease.token] = lease
        self.note_over(lease.task_id, lease.attempt - 1)
        self.effects.append(Effect("claimed", lease.token, claim.began, answer.ended))
        return lease

    def note_renewal(self, lease: Lease, answer: Answer) -> None:
        lease.expires_at = milliseconds(answer.body["data"]["lease_expires_at"])
        lease.sure_until = sure(answer, lease.expires_at)

    def note_end(self, lease: Lease, answer: Answer) -> None:
        assert lease.end is not None
        (verb, body), status = lease.end, answer.body["data"]["status"]
        if status not in {"complete": ("completed",), "fail": ("failed", "waiting"), "release": ("waiting",)}[verb]:
            self.find("answer", f"{verb} was answered with a task that is {status}", lease.task_id)
        lease.ended = status
        self.note_over(lease.task_id, lease.attempt)
        self.past.append(lease)
        self.open_tasks -= status != "waiting"
        self.effects.append(Effect("ended", lease.token, lease.end_began, answer.ended))
        if verb == "complete":
            self.results[lease.task_id] = body["result"]

    def note_refusal(self, lease: Lease, answer: Answer) -> None:
        """Only if it has expired or was cancelled, or an unanswered call has ended it; a completion said again gets
        its first answer."""
        error = answer.body["error"]
        ended_before = lease.end_tries > 1 and lease.end is not None and lease.end[0] != "complete"
        over = ended_before or lease.task_id in self.asked["cancel"]
        if error["code"] != "LEASE_LOST":
            self.find("answer", f"a report was refused with {error}", lease.task_id)
        elif not over and lease.expires_at > milliseconds(answer.body["timestamp"]):
            lease.doubt = f"was refused while it was live: {error}"
        elif error["details"]["reason"] == "unknown_token":
            self.find("lost", f"{lease} is not known to the server any more: {error}", lease.task_id)
        lease.lost = True
        self.note_over(lease.task_id, lease.attempt)
        self.past.append(lease)

    def note_cancel(self, task: dict[str, Any], answer: Answer) -> None:
        self.sights[task["task_id"]] = task["status"], task["result"]
        self.note_over(task["task_id"], task["attempt"])
        self.effects.append(Effect("cancelled", task["task_id"], answer.began, answer.ended))

    def note_sight(self, task: dict[str, Any]) -> None:
        """Somebody looked. Completed and cancelled is for ever."""
        if task["status"] in ("completed", "cancelled"):
            self.sights[task["task_id"]] = task["status"], task["result"]
        self.note_over(task["task_id"], task["attempt"] - (task["status"] == "working"))

    def note_over(self, task_id: str, attempt: int) -> None:
        self._over[task_id] = max(attempt, self._over.get(task_id, 0))

    def is_over(self, lease: Lease) -> bool:
        """Whether any answer up to now has shown that this lease has ended."""
        return self._over.get(lease.task_id, 0) >= lease.attempt


def sure(answer: Answer, expires_at: int) -> float:
    """When a lease may end at the earliest, on our clock: the server read its own between `began` and `ended`."""
    return answer.began + (expires_at - milliseconds(answer.body["timestamp"])) / 1000


def touched(method: str, path: str, body: Any, claim: Claim | None) -> Iterator[str]:
    """What a call is about, other than looking at it: the prompt of a new task, a task_id, directories."""
    if path == "/api/v1/tasks":
        yield body["prompt"]
    elif method != "GET":
        yield path.split("/")[4]
    if claim:
        yield from claim.directories
