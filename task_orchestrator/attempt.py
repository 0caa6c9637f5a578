"""One claimed task, from the claim to the report: run the command, keep the lease, say what came of it."""

import os
import signal
from asyncio import Future, Semaphore, create_task, get_running_loop, sleep, timeout, wait
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

from task_orchestrator.backoff import pause_after, pauses
from task_orchestrator.client import Client
from task_orchestrator.errors import Refused, Unreachable
from task_orchestrator.printing import Printing
from task_orchestrator.process import ProcessGroup, deaf

ERROR_MESSAGE_BYTES_MAX = 16 * 1024  # as bytes it holds whichever way the limit is counted
OUTPUT_HEAD = b"\n--- output ---\n"
_LEASE_IS_GONE = frozenset({404, 409})


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
        self._worker_id, self._lease_seconds = worker_id, lease_seconds
        self._notice: Callable[..., None] = partial(notice, task_id=self.task_id, attempt=task["attempt"])
        self._clock = get_running_loop().time
        self._held_until = self._clock() + lease_seconds
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
        jobs = [create_task(self._keep_lease())]
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
                hear_stdout=self._printing.stdout.feed if self._printing else deaf,
                hear_stderr=self._printing.stderr.feed if self._printing else deaf,
            )
        except OSError as error:
            return self._decide(_End.EXITED, _obstacle(directory, error))
        self._notice("started")
        exited = create_task(self._group.wait())
        exited.add_done_callback(lambda _: self._decide(_End.EXITED))
        await wait({self._end})
        await self._group.stop()

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
        }

    async def _keep_lease(self) -> None:
        third = self._lease_seconds / 3
        waits, pause = pauses(), third
        while True:
            await sleep(min(pause, self._held_until - self._clock()))
            sent_at = self._clock()
            if sent_at >= self._held_until:
                return self.lose("no heartbeat got through before the lease ran out")
            try:
                async with timeout(min(third, self._held_until - sent_at)):
                    await self._client.heartbeat(self.task_id, self.lease_token, lease_seconds=self._lease_seconds)
            except Refused as refusal:
                if refusal.status in _LEASE_IS_GONE:
                    return self.lose(refusal.details.get("reason") or str(refusal))
                pause = pause_after(refusal, waits)
            except (Unreachable, TimeoutError):
                pause = next(waits)
            else:
                self._held_until = sent_at + self._lease_seconds
                waits, pause = pauses(), third

    async def _report(self) -> bool:
        end = self._end.result()
        if end is _End.LOST:
            self._notice("lost", reason=self._why)
            return False
        if end is _End.GIVEN_BACK:
            release = partial(self._client.release, reason=self._why, delay_seconds=self._delay_seconds)
            await self._deliver("released", partial(release, self.task_id, self.lease_token), reason=self._why)
            return False
        group = self._group
        if group is None or group.exit_code != 0:
            message = _complaint(group, self._why)
            fail = partial(self._client.fail, self.task_id, message, lease_token=self.lease_token)
            await self._deliver("failed", fail, reason=message.partition("\n")[0])
            return False
        complete = partial(self._client.complete, self.task_id, lease_token=self.lease_token, result=_result(group))
        return await self._deliver("completed", complete, duration_seconds=round(group.duration_seconds, 3))

    async def _deliver(self, event: str, report: Callable[[], Awaitable[object]], **facts: object) -> bool:
        """Repeat a report until the server accepts or refuses it: with the same lease token a repeat does no harm."""
        waits = pauses()
        while True:
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


def _result(group: ProcessGroup) -> dict[str, Any]:
    return {
        "exit_code": group.exit_code,
        "duration_seconds": round(group.duration_seconds, 3),
        "output": group.stdout.text(),
        "truncated": group.stdout.truncated,
    }


def _obstacle(directory: str, error: OSError) -> str:
    if not os.path.isdir(directory):
        return f"the work directory does not exist: {directory}"
    return f"the command could not be started: {error}"


def _complaint(group: ProcessGroup | None, why: str) -> str:
    """How it ended and the end of what it wrote: standard error first, then as much of its output as has room."""
    if group is None:
        return why
    errors, output = group.stderr.text().strip(), group.stdout.text().strip()
    message = f"{_ending(group.exit_code or 0)}\n".encode()
    message += _tail(errors or output, ERROR_MESSAGE_BYTES_MAX - len(message))
    room = ERROR_MESSAGE_BYTES_MAX - len(message) - len(OUTPUT_HEAD)
    if errors and output and room > 0:
        message += OUTPUT_HEAD + _tail(output, room)
    return message.decode(errors="ignore").strip()


def _tail(text: str, size: int) -> bytes:
    return text.encode(errors="replace")[-size:]


def _ending(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {_signal_name(-exit_code)}"
    if exit_code > 128:  # how a shell passes on the death of its child
        return f"exit code {exit_code} ({_signal_name(exit_code - 128)})"
    return f"exit code {exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
