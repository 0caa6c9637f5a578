"""Clients that create, claim and report at random, and write down each call with its answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlencode

from attrs import define, field

from .ledger import Claim, Creation, Lease, Ledger, Touch, touched
from .steering import STEERING
from .streams import WorkerStream
from .wire import Answer, Connection, Cut, Unanswered

DIRECTORIES = ("/srv/one", "/srv/two", "/srv/three")
TAGS = ("fast", "slow")
SHORT_SECONDS = 0.3  # a lease that may well expire before its holder comes back to it
LEASE_SECONDS = (None, 60, SHORT_SECONDS)
TIMEOUT_SECONDS = 5  # no attempt is longer, so that what was forgotten comes back soon
DELAY_SECONDS = (0, 0, 0.05)
WAIT_SECONDS = (0, 0, 0.05, 0.5)
HELD_MAX = 6
OPEN_TASKS_MAX = 200
DISK_FULL = "the disk is full"
UNKNOWN = (502, 503, 504)  # it has happened or it has not


@define(eq=False)
class Agent:
    name: str
    rng: Random
    ledger: Ledger
    pause_seconds: float = 0  # on average, between two calls
    drops: float = 0  # the share of its calls that it breaks off
    directories: tuple[str, ...] = DIRECTORIES
    leaves: float = 0  # the share of its steps before which it goes to another server
    held: list[Lease] = field(factory=list)
    stopped: bool = False
    finishing: bool = False  # no new tasks, and what there is comes to its end
    _names: int = 0
    _unsettled: list[Callable[[], Awaitable[None]]] = field(factory=list)  # said, but not answered yet
    _connection: Connection | None = None
    _stream: WorkerStream | None = None
    _streaming: Touch | None = None

    async def work(self, url: str) -> None:
        """Call after call, until it is stopped or the server is gone. What is held from before comes first."""
        with suppress(Unanswered):
            self._connection = await Connection.open(url)
            try:
                await self.settle()
                while not self.stopped and self.rng.random() >= self.leaves:
                    await asyncio.sleep(self.rng.uniform(0, 2 * self.pause_seconds))
                    await (self._finish() if self.finishing else self._act(url))
            finally:
                self.cut(reset=False)

    async def settle(self) -> None:
        """Each lease from before still works; where a call was not answered, it is said again."""
        for again in list(self._unsettled):
            await again()
            self._unsettled.remove(again)
        for lease in list(self.held):
            await (self._report(lease) if lease.end else self._heartbeat(lease))

    def cut(self, *, reset: bool) -> None:
        """All its connections end."""
        if self._connection:
            self._connection.abort(reset=reset)
        self._close_stream(reset=reset)

    def _close_stream(self, *, reset: bool) -> None:
        if self._stream:
            self._stream.abort(reset=reset)
            self._stream = None
        if self._streaming:
            self.ledger.end_touch(self._streaming, answered=False)
            self._streaming = None

    async def _act(self, url: str) -> None:
        if self.ledger.open_tasks < OPEN_TASKS_MAX and (not self.held or self.rng.random() < 0.3):
            await self._create()
        if self.rng.random() < 0.15:
            await self.rng.choice(STEERING)(self)
        if len(self.held) < HELD_MAX and self.rng.random() < 0.5:
            await self.rng.choice((self._next, self._claim, self._claim, partial(self._open_stream, url)))()
        elif self.held:
            lease = self.rng.choice(self.held)
            reports = (self._heartbeat, self._complete, self._complete_and_claim, self._fail, self._release)
            await self.rng.choice(reports)(lease)

    async def _finish(self) -> None:
        self._close_stream(reset=False)
        if self.held:
            await self._complete(self.held[0])
        else:
            await self._next(wait_seconds=0.5)

    # Creations

    async def _create(self) -> None:
        body = {
            "work_directory": self.rng.choice(self.directories),
            "prompt": self._new_name("task"),
            "priority": self.rng.choice(("low", "medium", "high")),
            "tags": [tag for tag in TAGS if self.rng.random() < 0.3],
            "max_retries": self.rng.randrange(4),
            "delay_seconds": self.rng.choice(DELAY_SECONDS),
            "timeout_seconds": TIMEOUT_SECONDS,
        }
        creation = self.ledger.creations[body["prompt"]] = Creation(body, time.monotonic())
        if self.rng.random() < 0.5:
            await self._insist(partial(self._send_creation, creation, {"Idempotency-Key": body["prompt"]}))
        else:
            await self._send_creation(creation)

    async def _send_creation(self, creation: Creation, headers: Mapping[str, str] | None = None) -> None:
        answer = await self.call(
            "POST", "/api/v1/tasks", creation.body, headers, good=(200, 201) if headers else (201,)
        )
        self.ledger.note_creation(creation, answer)

    # Claims

    async def _next(self, wait_seconds: float | None = None) -> None:
        claim = self._new_claim(1, with_tags=False)
        query = urlencode({"work_path": claim.directories[0], **self._terms(claim, wait_seconds)})
        await self._send_claim(claim, "GET", f"/api/v1/tasks/next?{query}")

    async def _claim(self) -> None:
        claim = self._new_claim(self.rng.randint(1, 3))
        body = {"work_directories": claim.directories, "limit": self.rng.randint(1, 3), "tags": sorted(claim.tags)}
        body |= self._terms(claim)
        if self.rng.random() < 0.5:
            body["claim_id"] = claim.worker_id
            await self._insist(partial(self._send_claim, claim, "POST", "/api/v1/tasks/claim", body))
        else:
            await self._send_claim(claim, "POST", "/api/v1/tasks/claim", body)

    async def _send_claim(self, claim: Claim, method: str, path: str, body: object = None) -> None:
        claim.tries += 1
        answer = await self.call(method, path, body, claim=claim)
        claim.heard += 1
        data = answer.body["data"]
        self._hold(claim, data["tasks"] if method == "POST" else [data] if data else [], answer)

    async def _open_stream(self, url: str) -> None:
        self._close_stream(reset=self.rng.random() < 0.5)
        claim = self._new_claim(1)
        claim.tries += 1  # never answered for good
        query = {"work_path": claim.directories[0], "worker_id": claim.worker_id, "tags": ",".join(sorted(claim.tags))}
        query = {name: value for name, value in query.items() if value}
        query |= {"capacity": self.rng.randint(1, 2), "lease_seconds": self.rng.choice((SHORT_SECONDS, 2))}
        path = f"/api/v1/tasks/stream?{urlencode(query)}"
        self._streaming = self.ledger.begin_touch(claim.directories, claim)
        self._stream = await WorkerStream.open(url, path, partial(self._hear, claim))

    def _hear(self, claim: Claim, type: str, data: Any, answer: Answer) -> None:
        self.ledger.calls.say(claim.worker_id, event=type, data=data, at=answer.ended)
        if type == "task":
            self._hold(claim, [data], answer)

    def _new_claim(self, directories: int, *, with_tags: bool = True) -> Claim:
        tags = frozenset(tag for tag in TAGS if with_tags and self.rng.random() < 0.2)
        some = tuple(self.rng.sample(self.directories, min(directories, len(self.directories))))
        claim = Claim(self._new_name("claim"), some, tags, time.monotonic())
        self.ledger.claims[claim.worker_id] = claim
        return claim

    def _terms(self, claim: Claim, wait_seconds: float | None = None) -> dict[str, Any]:
        lease_seconds = self.rng.choice(LEASE_SECONDS)
        lease = {} if lease_seconds is None else {"lease_seconds": lease_seconds}
        wait_seconds = self.rng.choice(WAIT_SECONDS) if wait_seconds is None else wait_seconds
        return {"worker_id": claim.worker_id, "wait_seconds": wait_seconds, **lease}

    def _hold(self, claim: Claim, tasks: Iterable[dict[str, Any]], answer: Answer) -> None:
        """Every one is kept in the ledger; now and then the holder of a lease is not heard of again."""
        for task in tasks:
            lease = self.ledger.note_claim(claim, task, answer)
            if lease and (self.finishing or self.rng.random() < 0.9):
                self.held.append(lease)

    # Reports

    async def _heartbeat(self, lease: Lease) -> None:
        body = {"lease_token": lease.token, "progress": {"percent": self.rng.randrange(101)}}
        was_over = self.ledger.is_over(lease)
        answer = await self.call("POST", f"/api/v1/tasks/{lease.task_id}/heartbeat", body, good=(200, 409))
        if self._granted(lease, answer, was_over):
            self.ledger.note_renewal(lease, answer)

    async def _complete(self, lease: Lease) -> None:
        await self._end(lease, "complete", {"result": {"by": self.name, "number": self.rng.random()}})

    async def _complete_and_claim(self, lease: Lease) -> None:
        claim = self._new_claim(1)
        asked = {"work_directory": claim.directories[0], "tags": sorted(claim.tags), **self._terms(claim)}
        body = {"result": {"by": self.name, "number": self.rng.random()}, "claim_next": asked}
        await self._end(lease, "complete", body)

    async def _fail(self, lease: Lease) -> None:
        after = self.rng.choice(DELAY_SECONDS)
        body = {"error_message": "at random", "retryable": self.rng.random() < 0.7, "retry_after_seconds": after}
        await self._end(lease, "fail", body)

    async def _release(self, lease: Lease) -> None:
        await self._end(lease, "release", {"delay_seconds": self.rng.choice(DELAY_SECONDS)})

    async def _end(self, lease: Lease, verb: str, body: dict[str, Any]) -> None:
        if lease.end is None:
            lease.end, lease.end_began = (verb, body), time.monotonic()
        await self._report(lease)

    async def _report(self, lease: Lease) -> None:
        assert lease.end is not None
        verb, body = lease.end
        claim = self.ledger.claims[body["claim_next"]["worker_id"]] if "claim_next" in body else None
        if claim:
            claim.tries += 1
        lease.end_tries += 1
        again = lease.end_tries > 1 and verb != "release"  # then the first answer is given once more
        path, was_over = f"/api/v1/tasks/{lease.task_id}/{verb}", self.ledger.is_over(lease)
        said = {**body, "lease_token": lease.token}
        answer = await self.call("POST", path, said, good=(200, 409), claim=claim)
        if claim:
            claim.heard += 1
        if self._granted(lease, answer, was_over and not again):
            self.ledger.note_end(lease, answer)
            self.held.remove(lease)
            if claim and (task := answer.body["data"]["next"]):
                self._hold(claim, [task], answer)

    def _granted(self, lease: Lease, answer: Answer, was_over: bool) -> bool:
        if answer.status == 200:
            if was_over:
                self.ledger.find("double", f"a report was accepted under {lease}, which was over", lease.task_id)
            return True
        self.ledger.note_refusal(lease, answer)
        self.held.remove(lease)
        return False

    # Calls

    async def _insist(self, say: Callable[[], Awaitable[None]]) -> None:
        """If it is not answered, it is said again over the next connection."""
        self._unsettled.append(say)
        await say()
        self._unsettled.remove(say)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        good: tuple[int, ...] = (200,),
        claim: Claim | None = None,
    ) -> Answer:
        """Raises Unanswered, also if the answer leaves open what has happened."""
        with self.ledger.touching(touched(method, path, body, claim), claim):
            answer = await self._say(method, path, body, headers)
            self.ledger.count_answer()
            self.ledger.turned_down += answer.status == 503 and DISK_FULL in answer.body["error"]["message"]
            if answer.status not in (*good, *UNKNOWN):
                self.ledger.find("answer", f"{method} {path} with {body}: {answer}", path)
            if answer.status not in good:
                raise Unanswered
        return answer

    async def _say(self, method: str, path: str, body: object, headers: Mapping[str, str] | None) -> Answer:
        assert self._connection is not None
        began, answer = time.monotonic(), None
        try:
            answer = await self._connection.call(method, path, body, headers, self._chance_cut())
        except TimeoutError:
            self.ledger.find("stuck", f"{method} {path} was not answered", path)
            raise Unanswered from None
        finally:
            self.ledger.calls.note(self.name, method, path, body, began, answer)
        return answer

    def _chance_cut(self) -> Cut | None:
        if self.rng.random() >= self.drops:
            return None
        share = self.rng.choice((self.rng.random(), 1, 1))
        return Cut(share, self.rng.choice((0, self.rng.uniform(0, 0.05))), self.rng.random() < 0.5)

    def _new_name(self, what: str) -> str:
        self._names += 1
        return f"{what} {self._names} of {self.name}"
