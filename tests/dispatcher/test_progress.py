"""What workers say of their progress, and how much of it the history keeps."""

from dispatcher.decisions.reports import PROGRESS_LINE_SECONDS
from dispatcher.messages import Claim, Create, Heartbeat, Progress, Release
from dispatcher.task import Task
from tests.dispatcher.world import World

CLAIM = Claim(work_directories=("/w",))


async def test_the_history_tells_of_progress_once_in_a_while_and_the_task_of_the_latest() -> None:
    """Once more for each attempt; what is said a thousand times over makes no line but the first."""
    world = await World().start()

    async def say(task: Task, percent: float) -> None:
        beat = Heartbeat(task_id="task-1", lease_token=task.lease_token or "", progress=Progress(percent=percent))
        after = await world.ask(beat)
        assert after.progress == {"percent": percent, "message": None}

    await world.ask(Create(work_directory="/w", prompt="x"))
    (task,) = await world.ask(CLAIM)
    for number in range(3):
        await say(task, number)
    world.now += 1000 * PROGRESS_LINE_SECONDS - 1
    await say(task, 3)
    world.now += 1
    for number in (4, 5, 6):
        await say(task, number)
    await world.ask(Release(task_id="task-1", lease_token=task.lease_token or ""))
    (again,) = await world.ask(CLAIM)
    await say(again, 7)
    await world.stop()
    told = "select details ->> '$.percent' from history where type = 'task.progress' order by seq"
    assert [percent for (percent,) in world.journal.db.execute(told)] == [0, 4, 7]
    world.journal.db.close()
