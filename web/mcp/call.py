"""One call of a tool: who speaks, and how they are told how it goes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from hashlib import sha256
from math import ceil
from typing import Any, TypeVar

import orjson
from attrs import frozen

from dispatcher.errors import Refusal, Unavailable
from dispatcher.messages import Heartbeat
from dispatcher.task import Status
from web.access.calling import caller
from web.mcp.bridge import Passage
from web.service import Service

T = TypeVar("T")

PROGRESS_SECONDS = 10  # clients give up on a call of which they hear nothing


@frozen
class Call:
    """`worker_id`: of calls that name none. `progress`: tells, of so many seconds, how many have passed."""

    service: Service
    passage: Passage
    worker_id: str | None
    arguments: Mapping[str, Any]
    progress: Callable[[float, float | None, str | None], Awaitable[None]]

    @property
    def digest(self) -> str:
        """Of what is asked."""
        return sha256(orjson.dumps(self.arguments, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def agent(self, worker_id: str | None, work_directory: str) -> str | None:
        """The name of a claim by this agent, with which it gets again what it holds there. None: nobody knows who it
        is, and the next one without a name is somebody else."""
        name, worker_id = caller.get().name, worker_id or self.worker_id
        if name is None and worker_id is None:
            return None
        return f"mcp {name or ''} {worker_id or ''} {work_directory}"

    def patience(self, seconds: float) -> float:
        """For so long of the seconds it may wait."""
        return 0 if self.passage.is_large else seconds

    async def patiently(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """Tell from time to time that it goes on. It ends with whoever waits for the answer."""
        with self.passage.working(work) as job:
            for passed in range(0, ceil(seconds), PROGRESS_SECONDS):
                await self.progress(passed, seconds, "nothing yet")
                await asyncio.wait([job], timeout=PROGRESS_SECONDS)
                if job.done():
                    break
            await asyncio.wait([job])
        if job.cancelled():
            raise Unavailable("nobody waits for the answer any more")
        return job.result()

    def enter(self, work_directory: str) -> None:
        """Raises OutOfReach."""
        caller.get().enter(work_directory)

    async def renew_named(self, task_id: str) -> None:
        """The lease, if it is this agent that holds it: whoever asks about its task is still at it."""
        task, by = await self.service.record.task(task_id), caller.get()
        if task is None:
            return
        is_own = task.claimed_by == by.name and self.worker_id in (None, task.worker_id) and by.may("work")
        if task.status is Status.WORKING and task.lease_token and is_own:
            with suppress(Refusal, Unavailable):
                await self.service.ask(Heartbeat(task_id=task.task_id, lease_token=task.lease_token))
