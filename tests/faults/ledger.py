"""What the clients know for certain, because the server answered, and what they must leave open."""

import asyncio
from datetime import datetime
from typing import Any

from attrs import define, field


def milliseconds(rfc3339: str) -> int:
    return round(datetime.fromisoformat(rfc3339).timestamp() * 1000)


@define(eq=False)
class Lease:
    """A claim that was answered, and what became of it."""

    task_id: str
    token: str
    attempt: int
    expires_at: int  # as last answered
    end: tuple[str, dict[str, Any]] | None = None  # the call by which its holder wanted to end it: verb and body
    ended: str | None = None  # the task's status then, if that call was answered
    lost: bool = False  # a call was refused: it is not valid any more


@define
class Ledger:
    created: dict[str, str] = field(factory=dict)  # task_id -> prompt
    perhaps_created: set[str] = field(factory=set)  # prompts
    leases: dict[str, Lease] = field(factory=dict)  # by token
    perhaps_claimed: int = 0  # tasks that unanswered claims may have taken, at most
    results: dict[str, object] = field(factory=dict)  # of tasks whose completion was answered, by task_id
    answers: int = 0
    _awaited: list[tuple[int, "asyncio.Future[None]"]] = field(factory=list)

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

    def note_claim(self, task: dict[str, Any]) -> Lease:
        lease = Lease(task["task_id"], task["lease_token"], task["attempt"], milliseconds(task["lease_expires_at"]))
        assert lease.token not in self.leases, "a lease was given out twice"
        self.leases[lease.token] = lease
        return lease

    def note_end(self, lease: Lease, status: str) -> None:
        assert lease.end is not None
        verb, body = lease.end
        assert status in {"complete": ("completed",), "fail": ("failed", "waiting"), "release": ("waiting",)}[verb]
        lease.ended = status
        if verb == "complete":
            self.results[lease.task_id] = body["result"]

    def note_refusal(self, lease: Lease, error: dict[str, Any], at: int) -> None:
        """Only if it has expired, or an unanswered call has ended it; a completion said again gets its first answer."""
        assert error["code"] == "LEASE_LOST", error
        ended = lease.end is not None and lease.end[0] != "complete"
        assert ended or lease.expires_at <= at, f"{lease} was refused while it was live: {error}"
        assert error["details"]["reason"] in ("expired", "reassigned", "finished", "released"), error
        lease.lost = True
