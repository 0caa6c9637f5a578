"""What a worker is told with its tasks: also what came of those they depended on."""

from collections.abc import Sequence
from typing import Any

from dispatcher.task import Task
from web.codec import encode
from web.service import Service
from web.views import claimed, dependency

RESULTS_BYTES_MAX = 16 * 1024 * 1024  # of parents' results in one answer; those beyond are omitted, and it says so


async def briefing(service: Service, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Each claimed task as its worker gets it. Raises RecordFailed."""
    wanted = {task_id for task in tasks for task_id in task.depends_on}
    parents = await service.record.tasks(wanted) if wanted else {}
    room = RESULTS_BYTES_MAX
    briefed = []
    for task in tasks:
        dependencies = []
        for task_id in task.depends_on:
            parent = parents.get(task_id)
            size = len(encode(parent.result)) if parent else 0
            dependencies.append(dependency(task_id, parent, with_result=size <= room))
            room -= size if size <= room else 0
        briefed.append(claimed(task, dependencies))
    return briefed
