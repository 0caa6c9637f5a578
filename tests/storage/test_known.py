"""The names that the record knows are those that looking at every task would yield, whatever they are read from."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.caller import Reach
from dispatcher.messages import Create, Regulate
from dispatcher.record import Names
from storage.postgres import known as postgres_known
from storage.sqlite import known
from tests.dispatcher.test_board import Desk
from tests.storage.conftest import ReaderOf

PATHS = ("/a", "/a/b", "/A/B", "/a[1]", "/a%b_c", "/aXbYc", "/a?c", r"C:\app", r"C:\app\a%", "/ä/日本", "/z a/b")
TAGS = ("a", "ab", "aB", "a%", "a_", "Ab", "b", "ä", "日本", "~")
PATTERNS = (
    "*",
    "/a",
    "/a/*",
    "/a?1]",
    "/a[1]",
    "/a%*",
    "/a?b?c",
    "C:\\*",
    r"C:\app",
    "*b*",
    "/ä*",
    "",
    "/a\0*",
    "/\ud800*",
)
TEXTS = ("", "a", "A", "/a", "b", "%", "_", "?", "*", "[", "\\", "c:\\", "ä", "本", "nothing", "'")

texts, limits = st.sampled_from(TEXTS), st.sampled_from([1, 2, 100])
reaches = st.one_of(st.none(), st.lists(st.sampled_from(PATTERNS), max_size=2).map(lambda it: Reach(tuple(it))))
tasks = st.lists(st.tuples(st.sampled_from(PATHS), st.lists(st.sampled_from(TAGS), unique=True)), max_size=12)


def filled(made: list[tuple[str, list[str]]]) -> sqlite3.Connection:
    desk = Desk()
    for path, tags in made:
        desk.say(Create(work_directory=path, prompt="do it", tags=tuple(tags)), 0)
    return desk.db


def lower(text: str) -> str:
    """Its Latin letters."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


@settings(max_examples=60)
@given(tasks, reaches, texts, limits)
def test_directories_hold_the_text_and_lie_within_the_reach(
    reader_of: ReaderOf, made: list[tuple[str, list[str]]], reach: Reach | None, text: str, limit: int
) -> None:
    db = filled(made)
    reader = reader_of(db)
    visible = sorted({path for path, _ in made if reach is None or reach.covers(path)})
    found = [path for path in visible if lower(text) in lower(path)]
    found.sort(key=lambda path: (not lower(path).startswith(lower(text)), path))
    assert reader.directories_like(text, limit, reach) == Names(tuple(found[:limit]), len(found))
    assert reader.directories_after(text, limit, reach) == [path for path in visible if path > text][:limit]
    db.close()


@settings(max_examples=60)
@given(tasks, reaches, texts, limits)
def test_tags_begin_with_the_text_and_are_borne_within_the_reach(
    reader_of: ReaderOf, made: list[tuple[str, list[str]]], reach: Reach | None, text: str, limit: int
) -> None:
    db = filled(made)
    borne = {tag for path, tags in made for tag in tags if reach is None or reach.covers(path)}
    found = sorted(tag for tag in borne if tag.startswith(text))
    assert reader_of(db).tags_like(text, limit, reach) == Names(tuple(found[:limit]), len(found))
    db.close()


def test_no_more_tags_are_looked_at_than_the_bound(reader_of: ReaderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (known, postgres_known):
        monkeypatch.setattr(module, "TAGS_MAX", 3)
    reader = reader_of(filled([("/a", ["a1", "a2"]), ("/b", ["a3", "a4", "b1"])]))
    assert reader.tags_like("a", 2, None) == Names(("a1", "a2"), 4, total_is_exact=False)
    assert reader.tags_like("b", 2, None) == Names(("b1",), 1)
    assert reader.tags_like("a", 2, Reach(("/b",))) == Names(("a3", "a4"), 2, total_is_exact=False)


def test_a_directory_is_known_once_it_has_had_a_task_or_rules(reader_of: ReaderOf) -> None:
    desk = Desk()
    desk.say(Create(work_directory="/task", prompt="do it"), 0)
    desk.say(Regulate(work_directory="/rules", max_working=1), 0)
    reader = reader_of(desk.db)
    assert [reader.directory(path).is_known for path in ("/task", "/rules", "/neither")] == [True, True, False]
