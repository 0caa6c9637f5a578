"""The table of the tools."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

from attrs import frozen

from dispatcher.caller import Scope
from dispatcher.messages import Cancel, Fail, Heartbeat, Release, Retry
from web.mcp import handlers, schemas
from web.mcp.answers import Briefs, Claimed, Created, Done, ManyMade, Outcome, Renewed, Stats, Whole
from web.mcp.bodies import AboutStats, Listing, Look, NewTask, NewTasks, NextTask, Report
from web.mcp.call import Call
from web.schemas import Schema


@frozen(slots=False)
class Tool:
    """`asks` and `says` as of a Route. `names_task`: by `task_id`. What it does to the queue: `reads` only, `destroys`
    something, or does the same if it is called again (`repeats`)."""

    handler: Callable[[Call, Any], Awaitable[Any]]
    title: str
    description: str
    asks: type
    says: type
    scope: Scope
    names_task: bool = False
    reads: bool = False
    destroys: bool = False
    repeats: bool = False

    @property
    def name(self) -> str:
        return self.handler.__name__

    @cached_property
    def takes(self) -> Schema:
        return schemas.of_request(self.asks, names_task=self.names_task)

    @cached_property
    def gives(self) -> Schema:
        return schemas.of_answer(self.says)


_TOOLS = (
    Tool(
        handlers.queue_stats,
        "Queue statistics",
        "How many tasks wait, are worked on and are over, in all and per work directory, the busiest first.",
        AboutStats,
        Stats,
        "read",
        reads=True,
    ),
    Tool(
        handlers.list_tasks,
        "List tasks",
        "Find tasks, with a summary of each. get_task tells all of one.",
        Listing,
        Briefs,
        "read",
        reads=True,
    ),
    Tool(
        handlers.get_task,
        "Look at a task",
        "All of a task; with until=terminal once it is over or wait_seconds have passed.",
        Look,
        Whole,
        "read",
        names_task=True,
        reads=True,
    ),
    Tool(
        handlers.create_task,
        "Submit a task",
        "Hand out a task to whoever works in the work directory.",
        NewTask,
        Created,
        "submit",
    ),
    Tool(
        handlers.create_tasks,
        "Submit tasks",
        "Up to 1000 tasks, all or none unless atomic is false. Each has the fields of create_task, and a ref by which "
        'others of the batch may depend on it: depends_on ["ref:NAME"].',
        NewTasks,
        ManyMade,
        "submit",
    ),
    Tool(
        handlers.claim_next_task,
        "Claim a task",
        "Get the most urgent task of a work directory to work on, or the one you hold already; waits for it. "
        "worker_id is your own name, always the same. Keep the lease_token; renew with heartbeat_task, and end with "
        "complete_task, fail_task or release_task.",
        NextTask,
        Claimed,
        "work",
        repeats=True,
    ),
    Tool(
        handlers.heartbeat_task,
        "Renew a lease",
        "Say that you still work on a task, and how far you are. LEASE_LOST means: stop, it is no longer yours.",
        Heartbeat,
        Renewed,
        "work",
        names_task=True,
        repeats=True,
    ),
    Tool(
        handlers.complete_task,
        "Complete a task",
        "Report the result of the task you hold. Any JSON; say what you did and how you know that it works.",
        Report,
        Done,
        "work",
        names_task=True,
        repeats=True,
    ),
    Tool(
        handlers.fail_task,
        "Fail a task",
        "Report that the attempt failed, and why, so that the next one does better.",
        Fail,
        Outcome,
        "work",
        names_task=True,
        repeats=True,
    ),
    Tool(
        handlers.release_task,
        "Give a task back",
        "Give back a task that is not for you: it waits for somebody else, and no retry is burnt.",
        Release,
        Outcome,
        "work",
        names_task=True,
    ),
    Tool(
        handlers.cancel_task,
        "Cancel a task",
        "Nobody is to work on it any more. Final.",
        Cancel,
        Outcome,
        "operate",
        names_task=True,
        destroys=True,
    ),
    Tool(
        handlers.retry_task,
        "Retry a task",
        "Let a failed task be tried once more.",
        Retry,
        Outcome,
        "operate",
        names_task=True,
    ),
)
TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in _TOOLS}
