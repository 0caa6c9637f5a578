"""Where ready tasks lie in memory: lanes, and the shelves they form.

Memory does not grow with the backlog. A shelf holds what claims on one directory with one tag filter may get:
a lane per priority. A lane keeps the *oldest* ready tasks, in order of arrival, at most `window` of them. Its
edge is the arrival number from which on the rest lies on disk; no edge means that everything is here. A shelf
nobody has asked for is not here at all, which is the same as three empty lanes with their edge at 0.
"""

from bisect import bisect_left
from itertools import islice

from attrs import define, field, frozen

from dispatcher.fields import Priority
from dispatcher.messages import Claim, Ticket
from dispatcher.ports import Run
from dispatcher.task import Task


@define
class Lane:
    tasks: list[Task] = field(factory=list)
    edge: int | None = 0

    def add(self, task: Task, window: int) -> int:
        """How many more tasks are here than before."""
        if self.edge is not None and task.arrival >= self.edge:
            return 0  # it lies behind the edge, where a later slice will find it
        before = len(self.tasks)
        self.tasks.insert(self._place(task), task)
        while len(self.tasks) > window:
            self.edge = self.tasks.pop().arrival
        return len(self.tasks) - before

    def discard(self, task: Task) -> int:
        """How many fewer tasks are here than before."""
        place = self._place(task)
        if place == len(self.tasks) or self.tasks[place].arrival != task.arrival:
            return 0
        del self.tasks[place]
        return 1

    def count(self, most: int, now: int) -> int:
        """How many tasks here can be handed out, up to `most`."""
        live = (1 for task in self.tasks if task.expires_at is None or task.expires_at > now)
        return sum(islice(live, most))

    def extend(self, run: Run) -> None:
        self.tasks.extend(run.tasks)
        self.edge = run.edge

    def _place(self, task: Task) -> int:
        return bisect_left(self.tasks, task.arrival, key=lambda other: other.arrival)


@frozen(eq=False)
class Waiter:
    """A parked claim. `until` is when its caller wants an answer at the latest, None for never."""

    ticket: Ticket
    claim: Claim
    until: int | None


@define
class Shelf:
    lanes: dict[Priority, Lane] = field(factory=lambda: {priority: Lane() for priority in Priority})
    waiters: dict[Ticket, Waiter] = field(factory=dict)  # in turn

    def empty(self) -> None:
        """Nothing is known of what lies there any more."""
        self.lanes = {priority: Lane() for priority in Priority}

    def __len__(self) -> int:
        return sum(len(lane.tasks) for lane in self.lanes.values())

    @property
    def bare(self) -> bool:
        """Nothing is here, and nothing lies behind an edge."""
        return all(not lane.tasks and lane.edge is None for lane in self.lanes.values())

    @property
    def first_waiter(self) -> Waiter | None:
        return next(iter(self.waiters.values()), None)
