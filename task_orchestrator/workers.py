"""`task-orchestrator workers`."""

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say_json, show_table

STYLES = {True: "working", False: ""}


async def workers(*, json: Flag = False, connection: Connection = Connection()) -> None:  # noqa: B008
    """List the workers seen in the last hour: how connected, when last seen, their tasks, their directories."""
    async with connection.open() as client:
        found = await client.workers()
    if json:
        say_json({"workers": found})
        return
    rows = [
        [
            it["worker_id"],
            it["connection"],
            it["last_seen_at"],
            ",".join(it["working"]) or "-",
            ",".join(it["work_directories"]),
        ]
        for it in found
    ]
    if rows:
        heads = ["worker", "connection", "seen", "working", "directories"]
        show_table(heads, rows, [STYLES[bool(it["working"])] for it in found])
