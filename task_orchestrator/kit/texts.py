"""What an agent is told of the queue."""

ABOUT = (
    "Work with the Task Orchestrator queue: claim the next task of this project, work on it and report, or hand work "
    "out as tasks. Use when asked to work off the queue, to take the next task, or to plan work for several agents."
)

WORK_LOOP = """\
# The task queue

Tasks for this project wait in a queue; other agents work them off beside you. The tools are those of the MCP server
`task-orchestrator`.{presence}
The `work_directory` is `{directory}`, unless you are told another one.

## To work tasks off

1. `claim_next_task` with the `work_directory`. Leave `worker_id` out: you have a name already. If `task` is missing and
   `retry` is true, claim again; if nothing comes twice, you are done: say so. `why` tells the reason. Subagents have
   your name, and would get your task: claim yourself.
2. With `resumed: true` you have held the task before: look at what is already there (`git status`) and go on with it.
3. `prompt` is all you are to do, and all there is to know; `dependencies` has the results of the tasks before this one,
   `previous_error` what went wrong the last time: do it differently.
4. Work on it.
   {heartbeat}
   `LEASE_LOST`, from whatever tool, means that the task is no longer yours: stop, change nothing more, do not report.
5. End it with exactly one of these, and with its `task_id` and `lease_token`:
   - `complete_task`: it is done. `result` says what you did, which files you changed, and how you know that it works.
   - `fail_task`: it cannot be done. `error_message` is for whoever tries next; `retryable: true` if that may help.
   - `release_task`: it is not for you, or you are told to stop. Nothing is lost by that.
6. Go on with 1, until nothing is left or you are told to stop. Hold no task while you wait for a person: release it.

## To hand work out

`create_task`, or `create_tasks` for several at once: give each a `ref`, and name those that must be done before it in
`depends_on` as `ref:NAME`. A `prompt` must stand on its own: whoever works on it knows nothing else. Small tasks that
touch different files can be worked on at the same time. `list_tasks`, `get_task` and `queue_stats` tell how it goes.
"""

BY_HOOK = """\
Each tool that you use renews the lease by itself, for 15 minutes. Before what takes longer in one go, call
   `heartbeat_task` with a longer `lease_seconds`; with `progress` it tells people how far you are."""

BY_HOOK_ONCE_TRUSTED = """\
The hook in `.codex/hooks.json` renews the lease, for 15 minutes, whenever you run a command, apply a patch
   or call an MCP tool, if the user has trusted it. Every 10 minutes call `heartbeat_task` all the same, with
   `progress`, and with a longer `lease_seconds` before what takes longer in one go."""


AT_ONCE = ""
A_MOMENT_LATER = " They may come a moment after you have begun: if you do not see them, run `sleep 2` once."


def work_loop(directory: str, presence: str, heartbeat: str) -> str:
    return WORK_LOOP.format(directory=directory, presence=presence, heartbeat=heartbeat)
