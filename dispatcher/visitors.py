"""What a batch has learnt from the record about what the board does not hold. It stays for this batch only."""

from attrs import define, evolve, field

from dispatcher.ports import Found, Lease, Run
from dispatcher.task import Task


@define
class Visitors:
    tasks: dict[str, Task | None] = field(factory=dict)  # in their newest form; None: no such task
    parents: dict[str, Task | None] = field(factory=dict)  # of new ones, or of many; completed ones without result
    leases: dict[tuple[str, str], Lease | None] = field(factory=dict)
    keys: dict[str, str | None] = field(factory=dict)  # idempotency keys: the id of the task each stands for
    dependants: dict[str, Run] = field(factory=dict)
    overdue: tuple[Task, ...] | None = None  # None: not asked for
    have_learnt: bool = False

    def learn(self, found: Found) -> None:
        self.have_learnt = True
        self.tasks.update(found.tasks)
        self.parents.update(found.parents)
        self.leases.update(found.leases)
        self.dependants.update(found.dependants)
        others = [task for run in found.dependants.values() for task in run.tasks]
        for name, task in found.keys.items():
            self.keys[name] = task.task_id if task else None
            others += [task] if task else []
        for task in others:
            self.tasks.setdefault(task.task_id, task)
        if found.due is not None:
            self.overdue = found.due

    def note_late_result(self, task_id: str, token: str) -> Lease | None:
        """The lease that it came too late for, if it is the first one."""
        lease = self.leases[task_id, token]
        if lease is None or lease.has_late_result:
            return None
        self.leases[task_id, token] = evolve(lease, has_late_result=True)
        return lease
