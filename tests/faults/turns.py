"""Whose turn it is: whoever claims is given the most urgent and oldest of the tasks that were ready and asked for.

One server keeps to that strictly. Of several each decides on what it sees, and sees no task that another one is busy
with at that moment. So a claim may pass over a task, but only one

- of which nobody can prove that it was ready when the claim was decided: the history holds it, but nothing that came
  as late in the history had been answered before; or
- that another call was about meanwhile: one about the task itself, or a claim of what is in its directory; and this
  seldom happens to one and the same task.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from attrs import define, field

from .ledger import Claim, Effect, Ledger, Touch

if TYPE_CHECKING:
    from .replay import Course

URGENT_FIRST = (2, 1, 0)
TOUCH_SECONDS_MAX = 120  # no call about a task or directory is under way for longer
PASSES_MAX = 40  # over the same task, though each had an excuse


@define(eq=False)
class Shelf:
    """The ready tasks of one directory and priority, in order of arrival."""

    courses: list[tuple[int, Course]] = field(factory=list)

    def add(self, course: Course) -> None:
        insort(self.courses, (course.arrival, course), key=lambda item: item[0])

    def discard(self, course: Course) -> None:
        self.courses = [item for item in self.courses if item[1] is not course]

    def before(self, arrival: float) -> list[tuple[int, Course]]:
        return self.courses[: bisect_left(self.courses, arrival, key=lambda item: item[0])]


@define(eq=False)
class Turns:
    ledger: Ledger
    seq_of: Callable[[Effect], int | None]
    shared: bool  # several servers hand tasks out
    passes: int = 0  # how often a task was passed over for a good reason
    most_passes: int = 0  # of these, over the same one
    _shelves: dict[tuple[str, int], Shelf] = field(factory=dict)
    _proofs: list[tuple[float, int]] = field(factory=lambda: [(0.0, 0)])  # by then so much of the history was there
    _effects: int = 0  # of the ledger, that are among the proofs

    def shelf(self, work_directory: str, priority: int) -> Shelf:
        return self._shelves.setdefault((work_directory, priority), Shelf())

    def unfair(self, course: Course, claim: Claim) -> Course | None:
        """A task that should have been given to this claim, instead of this one."""
        began = max(claim.began, self.ledger.creations[course.prompt].began)
        for other in self._before(course, claim):
            if not self.shared:
                return other
            if other.since <= self._known(began) and not self._excused(other, claim, began):
                return other
        return None

    def _before(self, course: Course, claim: Claim) -> Iterator[Course]:
        """The ready tasks that the claim asked for, too, and whose turn is before that of the one it was given."""
        for priority in (rank for rank in URGENT_FIRST if rank >= course.priority):
            until = course.arrival if priority == course.priority else float("inf")
            for directory in claim.directories:
                for _, other in self.shelf(directory, priority).before(until):
                    if claim.tags <= other.tags:
                        yield other

    def _known(self, moment: float) -> int:
        """Up to which number the history was certainly there at a moment."""
        effects = self.ledger.effects
        while self._effects < len(effects) and effects[self._effects].ended < moment:
            seq = self.seq_of(effects[self._effects]) or 0
            self._proofs.append((effects[self._effects].ended, max(seq, self._proofs[-1][1])))
            self._effects += 1
        return self._proofs[bisect_right(self._proofs, moment, key=lambda proof: proof[0]) - 1][1]

    def _excused(self, other: Course, claim: Claim, began: float) -> bool:
        keys = (other.task_id, other.prompt, other.work_directory)
        if not any(self._busy(key, other, claim, began) for key in keys):
            return False
        other.passes += 1
        self.passes += 1
        self.most_passes = max(self.most_passes, other.passes)
        return other.passes <= PASSES_MAX

    def _busy(self, key: str, other: Course, claim: Claim, began: float) -> bool:
        for touch in reversed(self.ledger.touches.get(key, ())):
            if touch.began < began - TOUCH_SECONDS_MAX:
                return False
            if touch.began < claim.ended and touch.ended > began and _may_concern(touch, other, claim):
                return True
        return False


def _may_concern(touch: Touch, course: Course, claim: Claim) -> bool:
    return touch.claim is None or (touch.claim is not claim and touch.claim.tags <= course.tags)
