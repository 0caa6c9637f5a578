"""The worker behind `task-orchestrator worker`: runs a command for every task of one work directory.

stream ──task──► Attempt: run, heartbeat, report      (at most `concurrency` commands at a time)
       ──cancel─► the attempt it names is lost
       ──drain──► reconnect, after a pause
"""

import logging
import os
import secrets
import socket
from asyncio import FIRST_COMPLETED, Event, Semaphore, Task, create_task, get_running_loop, shield, sleep, wait
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn
from uuid import uuid4

from task_orchestrator.attempt import Attempt, Notice
from task_orchestrator.backoff import LONGEST_SECONDS, pause_after, pauses
from task_orchestrator.client import Client
from task_orchestrator.errors import Refused, Unreachable

CLAIM_WAIT_SECONDS = 50
SURPLUS_DELAY_SECONDS = 1  # or a server that miscounts would hand the same task back and forth without a pause
WIND_UP_SECONDS = 15.0  # for stopping commands and releasing their tasks; then the leases must run out

_log = logging.getLogger(__name__)


def default_worker_id() -> str:
    """`<host>-<pid>-<random>`: readable, and never the same twice."""
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(3)}"


def _log_notice(event: str, /, **facts: object) -> None:
    _log.info("%s %s", event, facts)


class Worker:
    """Claims the tasks of `work_directory`, runs `command` for each and reports what came of it.

    The command runs in the task's directory as `/bin/sh -c command`, with the prompt on standard input and TASK_ID,
    TASK_ATTEMPT, TASK_PRIORITY, TASK_TAGS and TASK_DEPENDENCIES (comma-separated), TASK_WORK_DIRECTORY, TASK_WORKER_ID,
    TASK_LEASE_TOKEN and TASK_ORCHESTRATOR_URL in its environment, but no API key. A task ends when its command ends:
    what it left running in its process group is stopped, too. With `tags` only tasks that bear all of them are taken.
    With `logs` what the command prints is sent to the task's log meanwhile, as far as the server keeps up. Of an agent
    that prints JSON lines the progress is told, too, and its session: the next attempt has it in TASK_SESSION_ID.
    The client stays the caller's to close.
    Raises ValueError and NotADirectoryError for arguments that cannot be.
    """

    def __init__(
        self,
        client: Client,
        work_directory: str,
        command: str,
        *,
        concurrency: int = 1,
        once: bool = False,
        lease_seconds: float = 60,
        worker_id: str | None = None,
        tags: Sequence[str] = (),
        logs: bool = True,
        notice: Notice = _log_notice,
    ) -> None:
        if concurrency < 1 or lease_seconds < 1:
            raise ValueError("concurrency and lease_seconds are at least 1")
        if not os.path.isdir(work_directory):
            raise NotADirectoryError(f"the work directory does not exist: {work_directory}")
        self._client, self._command, self._notice = client, command, notice
        self._work_directory = os.path.abspath(work_directory)
        self._concurrency, self._once, self._lease_seconds = concurrency, once, lease_seconds
        self.worker_id = worker_id or default_worker_id()
        self._tags, self._logs = tuple(tags), logs
        self._slots = Semaphore(concurrency)
        self._attempts: dict[Attempt, Task[None]] = {}
        self._succeeded = False  # the last attempt that ended
        self._stopping = Event()

    async def run(self) -> int:
        """Until stop(), or for one task if `once`. Returns the exit code: 1 if that one task did not succeed, else 0.

        Raises Refused when the server will never let this worker in.
        """
        taking: Task[None] = create_task(self._take_one() if self._once else self._take_all())
        stopping = create_task(self._stopping.wait())
        try:
            await wait({taking, stopping}, return_when=FIRST_COMPLETED)
            if taking.done():
                taking.result()
        finally:
            stopping.cancel()
            taking.cancel()
            await wait({taking})
            await self._wind_up()
        return int(self._once and not self._succeeded)

    def stop(self) -> None:
        """Take nothing more, stop what runs, release its tasks; then run() returns."""
        self._stopping.set()

    def kill(self) -> None:
        """SIGKILL to all that runs, for those who cannot wait."""
        for attempt in self._attempts:
            attempt.kill()

    async def _take_one(self) -> None:
        # A claim takes exactly one. A stream would be assigned the next task the moment this one is reported, or has
        # been closed a moment too late. The price: a cancel is heard of at the next heartbeat only.
        await shield(self._begin(await self._claim()))

    async def _claim(self) -> dict[str, Any]:
        waits, claim_id = pauses(), str(uuid4())
        while True:
            try:
                tasks = await self._client.claim(
                    work_directory=self._work_directory,
                    worker_id=self.worker_id,
                    wait_seconds=CLAIM_WAIT_SECONDS,
                    lease_seconds=self._lease_seconds,
                    tags=self._tags or None,
                    claim_id=claim_id,  # the same until an answer comes: a lost one loses no task
                )
            except (Refused, Unreachable) as error:
                await self._pause(pause_after(error, waits), error)
                continue
            if tasks:
                return tasks[0]
            waits, claim_id = pauses(), str(uuid4())

    async def _take_all(self) -> NoReturn:
        clock, waits = get_running_loop().time, pauses()
        while True:
            connected_at, error = clock(), None
            try:
                await self._listen()
            except (Refused, Unreachable) as failure:
                error = failure
            if clock() - connected_at > LONGEST_SECONDS:
                waits = pauses()
            await self._pause(pause_after(error, waits), error)

    async def _pause(self, seconds: float, error: Refused | Unreachable | None) -> None:
        if isinstance(error, Refused) and not error.temporary:
            raise error
        reason = str(error or "the server closed the stream")
        self._notice("reconnecting", reason=reason, pause_seconds=round(seconds, 1))
        await sleep(seconds)

    async def _listen(self) -> None:
        """Follow one stream until it ends or the server drains. Its capacity counts what we hold already."""
        stream = self._client.stream(
            work_directory=self._work_directory,
            worker_id=self.worker_id,
            capacity=self._concurrency,
            lease_seconds=self._lease_seconds,
            tags=self._tags,
            opened=partial(self._notice, "waiting", work_directory=self._work_directory, url=self._client.url),
        )
        async with aclosing(stream) as events:
            async for event in events:
                if event.type == "task":
                    self._offer(event.json())
                elif event.type == "cancel":
                    self._cancel(**event.json())
                elif event.type == "drain":
                    return

    def _offer(self, task: dict[str, Any]) -> None:
        if any(attempt.lease_token == task["lease_token"] for attempt in self._attempts):
            return  # told twice
        full = sum(not attempt.ending for attempt in self._attempts) >= self._concurrency
        self._begin(task, surplus=full)

    def _begin(self, task: dict[str, Any], surplus: bool = False) -> Task[None]:
        attempt = Attempt(
            self._client,
            task,
            self._command,
            worker_id=self.worker_id,
            lease_seconds=self._lease_seconds,
            logs=self._logs,
            notice=self._notice,
        )
        if surplus:
            attempt.give_back("the worker is full", SURPLUS_DELAY_SECONDS)
        running = self._attempts[attempt] = create_task(self._run(attempt))
        running.add_done_callback(lambda _: self._attempts.pop(attempt))
        return running

    async def _run(self, attempt: Attempt) -> None:
        self._succeeded = await attempt.run(self._slots)

    def _cancel(self, task_id: str, reason: str | None = None, **_: Any) -> None:
        for attempt in self._attempts:
            if attempt.task_id == task_id:
                attempt.lose(reason or "cancelled")

    async def _wind_up(self) -> None:
        for attempt in self._attempts:
            attempt.give_back("the worker is stopping")
        if not (running := set(self._attempts.values())):
            return
        _, late = await wait(running, timeout=WIND_UP_SECONDS)
        for attempt, task in self._attempts.items():
            if task in late:
                attempt.kill()
                self._notice("abandoned", task_id=attempt.task_id)
                task.cancel()
        if late:
            await wait(late)
