"""`task-orchestrator watch`."""

import sys
from asyncio import get_running_loop, sleep
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from task_orchestrator.backoff import pause_after, pauses
from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import complain, refuse_usage, say_json, show_event
from task_orchestrator.errors import Refused, Unreachable
from task_orchestrator.patience import RESTART_SECONDS, patiently
from task_orchestrator.submit import absolute

if TYPE_CHECKING:
    from task_orchestrator.client import Client
    from task_orchestrator.sse import Event


async def watch(
    task_id: str | None = None,
    /,
    *,
    after: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    types: str | None = None,
    work_directory: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Print what happens, as it happens: to one task until nothing more will, or to everything until you stop it.

    Parameters
    ----------
    task_id
        Only this task, from its creation on.
    after
        Begin behind the event of this number (`seq`); 0 for all that is on record.
    types
        Only events of these types, separated by commas, such as task.created,task.failed.
    work_directory
        Only what happens in this directory.
    json
        Print each event as JSON.
    """
    if task_id is not None and (types is not None or work_directory is not None):
        refuse_usage("--types and --work-directory choose from everything, not from what happens to one task")
    only: dict[str, Any] = {"types": types and types.split(",")}
    only["work_directory"] = None if work_directory is None else absolute(work_directory)
    async with connection.open() as client, aclosing(follow(client, task_id, after, **only)) as events:
        async for event in events:
            data = event.json()
            if event.type == "gap":
                _show_gap(data, json)
            elif json:
                say_json(data)
            else:
                show_event(data, about=task_id is None)
            sys.stdout.flush()
            if task_id is not None and await _has_failed_for_now(client, task_id, data):
                return


async def follow(
    client: "Client", task_id: str | None = None, after: int | None = None, **only: Any
) -> AsyncGenerator["Event", None]:
    """The event feed, taken up where it was whenever it ends or breaks. It ends when the task it is about is over.

    Raises what went wrong last when the server has been away for RESTART_SECONDS, or was not there to begin with; and
    at once what no trying again will mend.
    """
    clock = get_running_loop().time
    is_open = was_open = is_over = False
    gone_at: float | None = None
    went_wrong: Refused | Unreachable | None
    waits = pauses()

    def opened() -> None:
        nonlocal is_open, was_open, gone_at, waits
        is_open, was_open, gone_at, waits = True, True, None, pauses()

    def stands_at(id: str) -> None:
        nonlocal after
        after = int(id)

    while True:
        is_open, went_wrong = False, None
        try:
            stream = client.events(task_id, after=after, opened=opened, stands_at=stands_at, **only)
            async with aclosing(stream) as events:
                async for event in events:
                    yield event
                    after, is_over = int(event.id), is_over or _is_end(event)
            if task_id is not None and (is_over or not is_open):
                return
        except (Refused, Unreachable) as error:
            if not was_open or (isinstance(error, Refused) and not error.temporary):
                raise
            if gone_at is None:
                gone_at = clock()
                complain(f"{error}; trying again for {RESTART_SECONDS:.0f} s")
            elif clock() - gone_at > RESTART_SECONDS:
                raise
            went_wrong = error
        await sleep(pause_after(went_wrong, waits))


def _is_end(event: "Event") -> bool:
    """Of the task that it is about."""
    return event.type in ("task.completed", "task.cancelled", "task.deleted")


async def _has_failed_for_now(client: "Client", task_id: str, event: dict[str, Any]) -> bool:
    """It may be retried, but nobody knows whether it will be."""
    if event.get("status") != "failed" or event["type"] == "task.deleted":
        return False
    try:
        history = await patiently(partial(client.history, task_id))
    except Refused as refusal:
        if refusal.code != "TASK_NOT_FOUND":
            raise
        return False  # the feed will tell
    return bool(history) and bool(history[-1]["seq"] == event["seq"])


def _show_gap(gap: dict[str, int], json: bool) -> None:
    if json:
        say_json({"type": "gap", **gap})
    else:
        complain(f"events {gap['from']} to {gap['to']} are not on record")
