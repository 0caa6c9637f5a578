"""How far a caller reaches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.caller import ANYONE, Caller, Reach
from dispatcher.errors import OutOfReach

PATH = st.text(st.sampled_from("/ab*?[]!\\.é"), max_size=12)


def by_the_book(pattern: str, path: str) -> bool:
    """Letter by letter."""
    if not pattern:
        return not path
    if pattern[0] == "*":
        return any(by_the_book(pattern[1:], path[skipped:]) for skipped in range(len(path) + 1))
    return bool(path) and pattern[0] in ("?", path[0]) and by_the_book(pattern[1:], path[1:])


@given(st.lists(PATH, min_size=1, max_size=3), PATH)
def test_a_reach_covers_what_matches_any_of_its_patterns(patterns: list[str], path: str) -> None:
    assert Reach(tuple(patterns)).covers(path) == any(by_the_book(pattern, path) for pattern in patterns)


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("/srv/app", ["/srv/app"], ["/srv/app/x", "/srv/ap", "/srv/appx", "/SRV/app"]),
        ("/srv/*", ["/srv/a", "/srv/a/b", "/srv/"], ["/srv", "/srvx", "/x/srv/a"]),
        ("/srv/app[1]", ["/srv/app[1]"], ["/srv/app1"]),
        ("/srv/!x", ["/srv/!x"], ["/srv/y"]),
        ("C:\\work\\*", ["C:\\work\\a", "C:\\work\\a\\b"], ["C:\\work", "D:\\work\\a"]),
        ("*/app", ["/app", "/srv/app", "C:\\x/app"], ["/srv/app/x", "app\n"]),
        ("/a?c", ["/abc", "/a/c"], ["/ac", "/abbc"]),
        ("/a\n", ["/a\n"], ["/a"]),
    ],
)
def test_star_and_question_mark_are_all_there_is(pattern: str, inside: list[str], outside: list[str]) -> None:
    reach = Reach((pattern,))
    assert [path for path in inside + outside if reach.covers(path)] == inside


def test_a_pattern_of_many_stars_is_matched_at_once() -> None:
    """However it is made, for it may be an attacker's path that is matched: naively it would take for ever."""
    assert not Reach(("*a" * 250 + "b",) * 100).covers("/" + "a" * 511)


def test_who_has_no_reach_may_go_everywhere() -> None:
    ANYONE.enter("/anywhere")
    with pytest.raises(OutOfReach, match="/elsewhere"):
        Caller("ann", frozenset(), Reach(("/srv/*",))).enter("/elsewhere")


def test_no_scope_includes_another_but_admin_all() -> None:
    scopes = ("submit", "work", "read", "operate", "admin", "payload")
    for own in scopes:
        caller = Caller("ann", frozenset({own}))
        assert [scope for scope in scopes if caller.may(scope)] == ([*scopes] if own == "admin" else [own])


def test_on_a_claimed_task_reports_who_claimed_it_and_who_may_do_everything() -> None:
    ann, bob = (Caller(name, frozenset({"work"})) for name in ("ann", "bob"))
    assert ann.may_report("ann")
    assert ann.may_report(None)
    assert not bob.may_report("ann")
    assert Caller("bob", frozenset({"admin"})).may_report("ann")


def test_without_patterns_nothing_is_in_reach():
    assert not Reach(()).covers("/srv")
    assert not Reach(()).covers("")
