"""Whose turn it was: what one server must keep to, and what several are excused for."""

from math import inf
from typing import Any

import pytest

from .ledger import Claim, Creation, Effect, Ledger, Touch
from .replay import Course
from .turns import PASSES_MAX, Turns

HERE, THERE = "/srv/here", "/srv/there"


class Hall:
    """Tasks wait, claims come; all that happens has a time on the clients' clock."""

    def __init__(self, *, shared: bool = True) -> None:
        self.ledger = Ledger()
        self.seqs: dict[str, int] = {}
        self.turns = Turns(self.ledger, lambda effect: self.seqs.get(effect.key), shared)

    def task(self, name: str, *, asked: float, answered: float | None = None, **others: Any) -> Course:
        """It is asked for at one moment, and at another that is answered; the history has it in any case."""
        course = Course(name, len(self.seqs) + 1, name, HERE, frozenset(), **{"priority": 1} | others)
        self.seqs[name] = course.since = len(self.seqs) + 1
        self.ledger.creations[name] = Creation({}, asked)
        if answered is not None:
            self.ledger.effects.append(Effect("created", name, asked, answered))
        self.turns.shelf(HERE, course.priority).add(course)
        return course

    def claim(self, began: float, ended: float, tags: frozenset[str] = frozenset()) -> Claim:
        claim = Claim(f"claim at {began}", (HERE, THERE), tags, began, ended=ended)
        touch = Touch(began, claim, ended)
        for directory in claim.directories:
            self.ledger.touches[directory].append(touch)
        return claim


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_one_server_hands_out_nothing_but_the_first() -> None:
    hall = Hall(shared=False)
    first, second = hall.task("first", asked=1), hall.task("second", asked=2)
    assert hall.turns.unfair(first, hall.claim(3, 4)) is None
    assert hall.turns.unfair(second, hall.claim(3, 4)) is first


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_more_urgent_comes_first(shared: bool) -> None:
    hall = Hall(shared=shared)
    usual = hall.task("usual", asked=1, answered=2)
    urgent = hall.task("urgent", asked=3, answered=4, priority=2)
    assert hall.turns.unfair(urgent, hall.claim(5, 6)) is None
    assert hall.turns.unfair(usual, hall.claim(7, 8)) is urgent


def test_a_claim_that_is_alone_passes_over_nothing_that_was_answered(hall: Hall) -> None:
    first, second = hall.task("first", asked=1, answered=2), hall.task("second", asked=3, answered=4)
    hall.claim(4, 4.5)  # is over before
    assert hall.turns.unfair(second, hall.claim(5, 6)) is first


def test_a_task_may_be_passed_over_that_was_not_there_for_certain(hall: Hall) -> None:
    """Its creation was answered when the claim was under way."""
    hall.task("first", asked=1, answered=5.5)
    second = hall.task("second", asked=1, answered=2)
    assert hall.turns.unfair(second, hall.claim(5, 6)) is None


def test_a_later_answer_proves_what_lies_before_it_in_the_history(hall: Hall) -> None:
    first = hall.task("first", asked=1)
    second = hall.task("second", asked=3, answered=4)
    assert hall.turns.unfair(second, hall.claim(5, 6)) is first


def test_a_claim_that_waited_has_seen_what_was_there_before_its_task_was_asked_for(hall: Hall) -> None:
    waiting = hall.claim(0, 6)
    first, second = hall.task("first", asked=1, answered=2), hall.task("second", asked=3, answered=4)
    assert hall.turns.unfair(second, waiting) is first


@pytest.mark.parametrize("ended", [5.5, 7, inf])
def test_a_task_may_be_passed_over_that_another_claim_was_busy_with(hall: Hall, ended: float) -> None:
    hall.task("first", asked=1, answered=2)
    second = hall.task("second", asked=3, answered=4)
    hall.claim(4.5, ended)
    assert hall.turns.unfair(second, hall.claim(5, 6)) is None
    assert hall.turns.passes == 1


def test_a_claim_that_cannot_want_the_task_is_no_excuse(hall: Hall) -> None:
    first, second = hall.task("first", asked=1, answered=2), hall.task("second", asked=3, answered=4)
    hall.claim(4.5, 7, tags=frozenset({"fast"}))
    assert hall.turns.unfair(second, hall.claim(5, 6)) is first


@pytest.mark.parametrize(("about", "excused"), [("first", True), ("second", False)])
def test_a_call_about_the_task_itself_is_an_excuse(hall: Hall, about: str, excused: bool) -> None:
    first, second = hall.task("first", asked=1, answered=2), hall.task("second", asked=3, answered=4)
    hall.ledger.touches[about].append(Touch(4.5, None, 5.5))
    assert hall.turns.unfair(second, hall.claim(5, 6)) is (None if excused else first)


def test_a_task_that_is_passed_over_again_and_again_is_forgotten(hall: Hall) -> None:
    first, second = hall.task("first", asked=1, answered=2), hall.task("second", asked=3, answered=4)
    hall.claim(4.5, inf)
    found = [hall.turns.unfair(second, hall.claim(5 + n, 5.5 + n)) for n in range(PASSES_MAX + 1)]
    assert found == [None] * PASSES_MAX + [first]
