"""How long tasks take, as far as the tasks of late tell."""

from collections import OrderedDict

from dispatcher.task import Status, Task

DIRECTORIES_MAX = 1024  # that are remembered; beyond, the least recent ones are forgotten
WEIGHT = 0.2  # of the latest task, against all before it


class Pace:
    def __init__(self) -> None:
        self._attempt_seconds: OrderedDict[str, float] = OrderedDict()  # a moving average by work directory

    def note(self, task: Task) -> None:
        """A task is worked on no longer."""
        if task.status is not Status.COMPLETED or task.started_at is None or task.completed_at is None:
            return
        seconds = (task.completed_at - task.started_at) / 1000
        before = self._attempt_seconds.pop(task.work_directory, seconds)
        self._attempt_seconds[task.work_directory] = before + WEIGHT * (seconds - before)
        if len(self._attempt_seconds) > DIRECTORIES_MAX:
            self._attempt_seconds.popitem(last=False)

    def attempt_seconds(self, work_directory: str) -> float | None:
        """None if no task has been completed there lately."""
        return self._attempt_seconds.get(work_directory)
