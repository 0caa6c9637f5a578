"""What a worker is told with its tasks: also what came of those they depended on."""

from collections.abc import Sequence

from dispatcher.task import Task
from web.service import Service
from web.views import ClaimedTask, claimed, dependency

RESULTS_BYTES_MAX = 16 * 1024 * 1024  # of parents' results in one answer; those beyond are omitted, and it says so


async def briefing(service: Service, tasks: Sequence[Task]) -> list[ClaimedTask]:
    """Each claimed task as its worker gets it. Raises RecordFailed and TimeoutError."""
    wanted = dict.fromkeys(task_id for task in tasks for task_id in task.depends_on)
    parents = await service.record.outcomes(wanted, RESULTS_BYTES_MAX) if wanted else {}
    return [claimed(task, [dependency(task_id, parents.get(task_id)) for task_id in task.depends_on]) for task in tasks]
