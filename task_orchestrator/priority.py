"""`task-orchestrator priority`."""

import sys
from typing import Literal

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import complain, refuse_usage, say, say_json

REFUSED = 1


async def priority(
    level: Literal["low", "medium", "high"],
    /,
    *task_ids: str,
    reason: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Give tasks another priority: those that wait, and those that failed.

    Parameters
    ----------
    level
        What they get.
    task_ids
        Which tasks.
    reason
        Why; kept in the tasks' histories.
    json
        Print the server's answer as JSON.
    """
    if not task_ids:
        refuse_usage("which tasks? give at least one id")
    ids = list(dict.fromkeys(task_ids))
    async with connection.open() as client:
        answer = await client.steer_many("priority", ids=ids, priority=level, reason=reason)
    skipped = {skip["task_id"]: skip["code"] for skip in answer["skipped"]}
    if json:
        say_json(answer)
    else:
        for task_id in ids:
            if task_id in skipped:
                complain(f"refused ({skipped[task_id]}): {task_id}")
            else:
                say(f"{task_id} {level}")
    if skipped:
        sys.exit(REFUSED)
