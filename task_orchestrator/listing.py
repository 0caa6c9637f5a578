"""`list`: the tasks that match what is asked for."""

from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say_json, show_tasks
from task_orchestrator.submit import absolute

Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "priority", "-priority"]


async def list_(
    *,
    status: str | None = None,
    work_directory: Annotated[Sequence[str] | None, Parameter(negative="")] = None,
    priority: str | None = None,
    tags: str | None = None,
    tag_mode: Literal["all", "any"] | None = None,
    worker_id: str | None = None,
    created_after: str | None = None,
    created_before: str | None = None,
    search: Annotated[str | None, Parameter(name=["--search", "--q"])] = None,
    sort: Annotated[Sort, Parameter(allow_leading_hyphen=True)] = "-created_at",
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 100,
    offset: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """List tasks that match everything asked for: id, status, priority, time of creation, prompt.

    Parameters
    ----------
    status
        Of any of these statuses, separated by commas: waiting, working, completed, failed, cancelled.
    work_directory
        Of this directory; may be given several times.
    priority
        Of any of these priorities, separated by commas: low, medium, high.
    tags
        That bear all of these tags, separated by commas.
    tag_mode
        all: every one of the tags; any: one of them will do.
    worker_id
        That any of these workers has, or had last, separated by commas.
    created_after
        Created later than this, such as 2026-01-01T00:00:00Z.
    created_before
        Created earlier than this.
    search
        With this text in the prompt, in small or capital letters.
    sort
        created_at, updated_at, or priority (the most urgent first); with - in front the other way round.
    limit
        At most so many, 1 to 1000.
    offset
        Leave out so many at the beginning.
    json
        Print the server's answer as JSON.
    """
    async with connection.open() as client:
        page = await client.list(
            status=status,
            work_directory=work_directory and [absolute(directory) for directory in work_directory],
            priority=priority,
            tags=tags,
            tag_mode=tag_mode,
            worker_id=worker_id,
            created_after=created_after,
            created_before=created_before,
            q=search,
            sort=sort,
            limit=limit,
            offset=offset or None,
        )
    if json:
        say_json(page)
    else:
        show_tasks(page["tasks"], page.get("total"))
