"""Claims of agents: each gets what it already holds, and otherwise the most urgent task."""

from dispatcher.messages import Claim, Heartbeat
from dispatcher.task import Status, Task
from web.briefing import briefing
from web.mcp.answers import Claimed, claimed
from web.mcp.bodies import AnotherTask
from web.mcp.call import Call


async def claim(call: Call, asked: AnotherTask, after: str | None = None) -> Claimed:
    """`after`: the lease of the report that comes before, by which the same call is known again if its agent has no
    name."""
    call.enter(asked.work_directory)  # or it would be seen there
    service, began = call.service, call.service.clock()
    worker_id = asked.worker_id or call.worker_id
    agent = call.agent(asked.worker_id, asked.work_directory)
    wait_seconds = call.patience(asked.wait_seconds)
    message = Claim(
        work_directories=(asked.work_directory,),
        worker_id=worker_id,
        wait_seconds=wait_seconds,
        lease_seconds=asked.lease_seconds or service.settings.mcp.lease_seconds,
        tags=asked.tags,
        claim_id=agent or (f"mcp after {after}" if after else None),
    )

    async def get() -> tuple[Task, ...]:
        """They are known to be on their way as soon as they are claimed."""
        tasks = await service.ask(message)
        call.passage.claimed += tasks
        return tasks

    with service.dispatcher.roll.present("mcp", worker_id, asked.work_directory, service.clock):
        tasks = await call.patiently(wait_seconds, get())
    if not tasks:
        return {
            "task": None,
            "resumed": False,
            "retry": not service.draining.is_set(),
            "why": await _nothing(call, asked),
        }
    task = tasks[0]
    resumed = task.started_at is not None and task.started_at < began
    if resumed and task.lease_token:
        task = await service.ask(Heartbeat(task_id=task.task_id, lease_token=task.lease_token))
    view = claimed((await briefing(service, [task]))[0])
    return {"task": view, "resumed": resumed, "retry": False, "why": _why(task, resumed)}


def _why(task: Task, resumed: bool) -> str:
    if resumed:
        return "you hold it already: go on with it, or release_task"
    tries = f"; attempt {task.attempt}, see previous_error" if task.error_message else ""
    return f"the most urgent that is ready here: {task.priority} priority, the oldest of these{tries}"


async def _nothing(call: Call, asked: AnotherTask) -> str:
    """Why nothing came."""
    if call.service.draining.is_set():
        return "the server is stopping: claim again in a minute"
    found = await call.service.record.directory(asked.work_directory)
    rules, waiting = found.rules, found.tasks[Status.WAITING]
    if rules.paused or rules.draining:
        return f"the directory is {'paused' if rules.paused else 'being drained'}; {waiting} tasks wait there"
    if waiting:
        return f"none of the {waiting} tasks that wait there may be worked on yet, or they lack the tags"
    return "no task waits there"
