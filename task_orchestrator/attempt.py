"""One claimed task, from the claim to the report: run the command, keep the lease, say what came of it."""

import os
from asyncio import Future, Semaphore, create_task, get_running_loop, sleep, wait
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

from task_orchestrator.backoff import pause_after, pauses
from task_orchestrator.client import Client
from task_orchestrator.dialects import SESSION_ID
from task_orchestrator.errors import Refused, Unreachable
from task_orchestrator.lease import Lease, News
from task_orchestrator.outcome import complaint, result
from task_orchestrator.printing import Printing
from task_orchestrator.process import ProcessGroup, deaf
from task_orchestrator.transcript import Transcript


class Notice(Protocol):
    """How a worker tells what it does: `event` is one word, `facts` are JSON values."""

    def __call__(self, event: str, /, **facts: object) -> None: ...


class _End(Enum):
    EXITED = auto()
    LOST = auto()
    GIVEN_BACK = auto()


class Attempt:
    """The one run of a claimed task that our lease entitles us to.

    It ends in one of three ways, and the first decides: the command exits, the lease is lost, or we give it back.
    """

    def __init__(
        self,
        client: Client,
        task: dict[str, Any],
        command: str,
        *,
        worker_id: str,
        lease_seconds: float,
        logs: bool,
        notice: Notice,
    ) -> None:
        self.task_id: str = task["task_id"]
        self.lease_token: str = task["lease_token"]
        self._client, self._task, self._command = client, task, command
        self._worker_id, self._session_id = worker_id, _session(task)
        self._notice: Callable[..., None] = partial(notice, task_id=self.task_id, attempt=task["attempt"])
        self._is_futile = False  # nothing was said in the session, if there is one; it is not to be gone on with
        told = News(session_id=self._session_id)
        self._lease = Lease(client, task, lease_seconds, told=told, news=self._news, lose=self.lose)
        self._transcript = Transcript(self._lease.stir)
        self._end: Future[_End] = get_running_loop().create_future()
        self._group: ProcessGroup | None = None
        self._why = ""  # it was lost or given back, or could not be started
        self._delay_seconds: float | None = None
        self._printing = Printing(self._log) if logs else None

    @property
    def ending(self) -> bool:
        """The command has ended or is about to: the server may count this task as no longer held."""
        return self._end.done()

    def lose(self, reason: str) -> None:
        """The lease is not ours any more: stop the command and report nothing."""
        self._decide(_End.LOST, reason)

    def give_back(self, reason: str, delay_seconds: float | None = None) -> None:
        """Stop the command and release the task, to be claimed again not before `delay_seconds` have passed."""
        self._delay_seconds = delay_seconds
        self._decide(_End.GIVEN_BACK, reason)

    def kill(self) -> None:
        """SIGKILL to all that runs, at once."""
        if self._group is not None:
            self._group.kill()

    async def run(self, slots: Semaphore) -> bool:
        """Returns whether the command succeeded and the server took note of it."""
        jobs = [create_task(self._lease.keep())]
        if self._printing:
            jobs.append(create_task(self._printing.run()))
        try:
            if not self.ending:
                async with slots:  # the one before us may still be dying
                    await self._execute()
            if self._printing and self._end.result() is not _End.LOST:
                await self._printing.finish()
            return await self._report()
        finally:
            for job in jobs:
                job.cancel()

    async def _log(self, lines: list[str]) -> None:
        await self._client.log(self.task_id, lines, lease_token=self.lease_token)

    def _decide(self, end: _End, why: str = "") -> None:
        if not self._end.done():
            self._why = why
            self._end.set_result(end)

    async def _execute(self) -> None:
        if self.ending:
            return
        directory = self._task["work_directory"]
        try:
            self._group = await ProcessGroup.start(
                self._command,
                directory=directory,
                environment=self._environment(),
                input_text=self._task["prompt"],
                hear_stdout=self._hear,
                hear_stderr=self._printing.stderr.feed if self._printing else deaf,
            )
        except OSError as error:
            return self._decide(_End.EXITED, _obstacle(directory, error))
        self._notice("started")
        exited = create_task(self._group.wait())
        exited.add_done_callback(lambda _: self._decide(_End.EXITED))
        await wait({self._end})
        await self._group.stop()
        self._transcript.close()

    def _hear(self, piece: bytes) -> None:
        self._transcript.feed(piece)
        if self._printing:
            self._printing.stdout.feed(piece)

    def _news(self) -> News:
        if (account := self._transcript.account) is None:
            return News(session_id=self._session_id)
        session_id = None if self._is_futile else account.session_id or self._session_id
        return News(account.percent, account.message, session_id)

    def _environment(self) -> dict[str, str]:
        return {
            "TASK_ID": self.task_id,
            "TASK_ATTEMPT": str(self._task["attempt"]),
            "TASK_PRIORITY": self._task["priority"],
            "TASK_TAGS": ",".join(self._task["tags"]),
            "TASK_DEPENDENCIES": ",".join(parent["task_id"] for parent in self._task.get("dependencies", ())),
            "TASK_WORK_DIRECTORY": self._task["work_directory"],
            "TASK_WORKER_ID": self._worker_id,
            "TASK_LEASE_TOKEN": self.lease_token,
            "TASK_ORCHESTRATOR_URL": self._client.url,
            **({"TASK_SESSION_ID": self._session_id} if self._session_id else {}),
        }

    async def _report(self) -> bool:
        end = self._end.result()
        if end is _End.LOST:
            self._notice("lost", reason=self._why)
            return False
        if end is _End.GIVEN_BACK:
            release = partial(self._client.release, reason=self._why, delay_seconds=self._delay_seconds)
            await self._deliver("released", partial(release, self.task_id, self.lease_token), reason=self._why)
            return False
        if self._group is None:
            return await self._fail(self._why)
        account = self._transcript.account
        outcome = result(self._group, account)
        if (reason := complaint(self._group, account)) is not None:
            self._is_futile = account is not None and not account.turns
            return await self._fail(reason, outcome if account else None)
        complete = partial(self._client.complete, self.task_id, lease_token=self.lease_token, result=outcome)
        return await self._deliver("completed", complete, duration_seconds=outcome["duration_seconds"])

    async def _fail(self, reason: str, outcome: dict[str, Any] | None = None) -> bool:
        """What the failure of an agent has cost is worth knowing, too."""
        report = partial(self._client.fail, self.task_id, reason, lease_token=self.lease_token)
        if outcome:
            said = {"status": "failed", "error_message": reason, "result": outcome}
            report = partial(self._client.complete, self.task_id, lease_token=self.lease_token, **said)
        await self._deliver("failed", report, reason=reason.partition("\n")[0])
        return False

    async def _deliver(self, event: str, report: Callable[[], Awaitable[object]], **facts: object) -> bool:
        """Repeat a report until the server accepts or refuses it: with the same lease token a repeat does no harm."""
        waits = pauses()
        while True:
            await self._lease.tell()
            try:
                await report()
            except (Refused, Unreachable) as error:
                if isinstance(error, Refused) and not error.temporary:
                    self._notice("refused", report=event, reason=str(error))
                    return False
                pause = pause_after(error, waits)
                self._notice("retrying", report=event, reason=str(error), pause_seconds=round(pause, 1))
                await sleep(pause)
            else:
                self._notice(event, **facts)
                return True


def _session(task: Mapping[str, Any]) -> str | None:
    """That of the attempt before, or one that whoever submitted the task wants gone on with."""
    name = (task.get("metadata") or {}).get("session_id")
    return name if isinstance(name, str) and SESSION_ID.fullmatch(name) else None


def _obstacle(directory: str, error: OSError) -> str:
    if not os.path.isdir(directory):
        return f"the work directory does not exist: {directory}"
    return f"the command could not be started: {error}"
