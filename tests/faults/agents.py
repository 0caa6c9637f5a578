"""Clients that create, claim and report at random, and write down each call with its answer."""

from contextlib import suppress
from random import Random
from typing import Any
from urllib.parse import urlencode

from attrs import define, field

from .ledger import Lease, Ledger, milliseconds
from .wire import Answer, Connection, Unanswered

DIRECTORIES = ("/srv/one", "/srv/two", "/srv/three")
TAGS = ("fast", "slow")
SHORT_SECONDS = 0.3  # a lease that may well expire before its holder comes back to it
LEASE_SECONDS = (None, 60, SHORT_SECONDS)
WAIT_SECONDS = (0, 0, 0.05)
HELD_MAX = 6


@define(eq=False)
class Agent:
    name: str
    rng: Random
    ledger: Ledger
    held: list[Lease] = field(factory=list)
    stopped: bool = False
    _prompts: int = 0
    _connection: Connection | None = None

    async def work(self, url: str) -> None:
        """Call after call, until it is stopped or the server is gone. What is held from before comes first."""
        with suppress(Unanswered):
            self._connection = await Connection.open(url)
            try:
                await self.settle()
                while not self.stopped:
                    await self._act()
            finally:
                self._connection.close()

    async def settle(self) -> None:
        """Each lease from before still works; where a report was not answered, it is said again."""
        for lease in list(self.held):
            await (self._report(lease) if lease.end else self._heartbeat(lease))

    async def _act(self) -> None:
        if not self.held or self.rng.random() < 0.3:
            await self._create()
        if len(self.held) < HELD_MAX and self.rng.random() < 0.5:
            await self.rng.choice((self._next, self._claim))()
        elif self.held:
            lease = self.rng.choice(self.held)
            await self.rng.choice((self._heartbeat, self._complete, self._fail, self._release))(lease)

    async def _create(self) -> None:
        self._prompts += 1
        prompt = f"task {self._prompts} of {self.name}"
        body = {
            "work_directory": self.rng.choice(DIRECTORIES),
            "prompt": prompt,
            "priority": self.rng.choice(("low", "medium", "high")),
            "tags": [tag for tag in TAGS if self.rng.random() < 0.3],
            "max_retries": self.rng.randrange(4),
            "delay_seconds": self.rng.choice((0, 0, 0.05)),
        }
        self.ledger.perhaps_created.add(prompt)
        answer = await self._call("POST", "/api/v1/tasks", body)
        assert answer.status == 201, answer
        self.ledger.perhaps_created.remove(prompt)
        self.ledger.created[answer.body["data"]["task_id"]] = prompt

    async def _next(self) -> None:
        query = {"work_path": self.rng.choice(DIRECTORIES), **self._terms()}
        task = await self._ask_for(1, "GET", f"/api/v1/tasks/next?{urlencode(query)}")
        self._hold([task] if task else [])

    async def _claim(self) -> None:
        limit = self.rng.randint(1, 3)
        tags = [tag for tag in TAGS if self.rng.random() < 0.2]
        directories = self.rng.sample(DIRECTORIES, self.rng.randint(1, 3))
        body = {"work_directories": directories, "limit": limit, "tags": tags, **self._terms()}
        self._hold((await self._ask_for(limit, "POST", "/api/v1/tasks/claim", body))["tasks"])

    def _terms(self) -> dict[str, Any]:
        lease_seconds = self.rng.choice(LEASE_SECONDS)
        lease = {} if lease_seconds is None else {"lease_seconds": lease_seconds}
        return {"worker_id": self.name, "wait_seconds": self.rng.choice(WAIT_SECONDS), **lease}

    async def _ask_for(self, limit: int, method: str, path: str, body: object = None) -> Any:
        self.ledger.perhaps_claimed += limit
        answer = await self._call(method, path, body)
        assert answer.status == 200, answer
        self.ledger.perhaps_claimed -= limit
        return answer.body["data"]

    def _hold(self, tasks: list[dict[str, Any]]) -> None:
        """Every one is kept in the ledger; now and then the holder of a short lease is not heard of again."""
        for lease in map(self.ledger.note_claim, tasks):
            if self.rng.random() < 0.9:
                self.held.append(lease)

    async def _heartbeat(self, lease: Lease) -> None:
        body = {"lease_token": lease.token, "progress": {"percent": self.rng.randrange(101)}}
        answer = await self._call("POST", f"/api/v1/tasks/{lease.task_id}/heartbeat", body)
        if self._granted(lease, answer):
            lease.expires_at = milliseconds(answer.body["data"]["lease_expires_at"])

    async def _complete(self, lease: Lease) -> None:
        lease.end = "complete", {"result": {"by": self.name, "number": self.rng.random()}}
        await self._report(lease)

    async def _fail(self, lease: Lease) -> None:
        body = {"error_message": "at random", "retryable": self.rng.random() < 0.7, "retry_after_seconds": 0}
        lease.end = "fail", body
        await self._report(lease)

    async def _release(self, lease: Lease) -> None:
        lease.end = "release", {}
        await self._report(lease)

    async def _report(self, lease: Lease) -> None:
        assert lease.end is not None
        verb, body = lease.end
        path = f"/api/v1/tasks/{lease.task_id}/{verb}"
        answer = await self._call("POST", path, {**body, "lease_token": lease.token})
        if self._granted(lease, answer):
            self.ledger.note_end(lease, answer.body["data"]["status"])
            self.held.remove(lease)

    def _granted(self, lease: Lease, answer: Answer) -> bool:
        if answer.status == 200:
            return True
        assert answer.status == 409, answer
        self.ledger.note_refusal(lease, answer.body["error"], milliseconds(answer.body["timestamp"]))
        self.held.remove(lease)
        return False

    async def _call(self, method: str, path: str, body: object = None) -> Answer:
        assert self._connection is not None
        answer = await self._connection.call(method, path, body)
        self.ledger.count_answer()
        return answer
