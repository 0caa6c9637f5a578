"""One call of a tool: who speaks, and how they are told how it goes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

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
    digest: str  # of what is asked
    progress: Callable[[float, float | None, str | None], Awaitable[None]]

    def agent(self, worker_id: str | None, work_directory: str) -> str | None:
        """The name of a claim by this agent, with which it gets again what it holds there. None: nobody knows who it
        is, and the next one without a name is somebody else."""
        name, worker_id = caller.get().name, worker_id or self.worker_id
        if name is None and worker_id is None:
            return None
        return f"mcp {name or ''} {worker_id or ''} {work_directory}"

    async def patiently(self, seconds: float, work: Awaitable[T]) -> T:
        """Tell from time to time that it goes on. Ends with whoever waits for it."""
        working, gone = asyncio.ensure_future(work), asyncio.create_task(self.passage.gone.wait())
        try:
            for passed in range(0, int(seconds) + 1, PROGRESS_SECONDS) if seconds else ():
                await self.progress(passed, seconds, "no task yet")
                await asyncio.wait({working, gone}, timeout=PROGRESS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if working.done() or gone.done():
                    break
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ConnectionResetError("nobody waits for the answer")
            return working.result()
        finally:
            for job in (working, gone):
                job.cancel()

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
