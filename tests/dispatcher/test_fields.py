"""The rules of the fields, each by itself."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.fields import Priority, distinct, instant, not_blank, text, work_directory


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a", "/a"),
        ("/a/./b//", "/a/b"),
        ("/a/...", "/a/..."),
        ("/a b/ü", "/a b/ü"),
        ("/a\\b", "/a\\b"),
        ("C:\\", "C:\\"),
        ("c:/", "C:\\"),
        ("C:\\app\\", "C:\\app"),
        ("c:/app//x\\.\\y/", "C:\\app\\x\\y"),
    ],
)
def test_a_work_directory_has_one_normal_form(path, normal):
    """Different spellings of a directory name the same queue."""
    assert work_directory(path) == normal


@pytest.mark.parametrize("path", ["", "a", "./a", "~/a", "C:", "C:app", "\\app", "\\\\host\\share", "1:\\a", " /a"])
def test_a_work_directory_is_absolute(path):
    """A relative path means nothing to another machine."""
    with pytest.raises(ValueError, match="must be an absolute path"):
        work_directory(path)


@pytest.mark.parametrize("path", ["/..", "/a/../b", "C:\\a\\..", "c:/../a"])
def test_a_work_directory_does_not_climb(path):
    """With `..` one directory would have many names."""
    with pytest.raises(ValueError, match=r"must not contain '\.\.'"):
        work_directory(path)


@pytest.mark.parametrize("path", ["/a\n", "\0/a", "/a\x7f", "C:\\a\x85"])
def test_a_work_directory_has_no_control_characters(path):
    """Control characters are refused before anything else is looked at."""
    with pytest.raises(ValueError, match="control characters"):
        work_directory(path)


@settings(deadline=None)
@given(st.sampled_from(["/", "C:\\", "d:/"]), st.text(alphabet=string.ascii_letters + "./\\ :"))
def test_a_normal_form_is_its_own_normal_form(root, rest):
    """Normalising a work directory twice changes nothing more, and never makes it longer."""
    try:
        normal = work_directory(root + rest)
    except ValueError:
        return
    assert work_directory(normal) == normal
    assert len(normal) <= len(root + rest)


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u2003"])
def test_white_space_is_not_a_prompt(blank):
    """A prompt that only looks like one is refused; another keeps its white space."""
    assert not_blank(f"a{blank}") == f"a{blank}"
    with pytest.raises(ValueError, match="must not be blank"):
        not_blank(blank)


def test_text_holds_no_nul():
    """Everything else passes unchanged."""
    assert text("a\n\x01 \U0001f600") == "a\n\x01 \U0001f600"
    with pytest.raises(ValueError, match="NUL"):
        text("a\0b")


def test_a_tag_given_twice_is_named():
    """The first repeated value is in the reason, and order is kept otherwise."""
    assert distinct(("b", "a")) == ("b", "a")
    with pytest.raises(ValueError, match="must not contain 'a' twice"):
        distinct(("b", "a", "c", "a", "b"))


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00.0019999999Z", 1),
        ("1970-01-01t01:00:00.5+01:00", 500),
        ("1970-01-01 00:00:00z", 0),
        ("2026-01-01T00:00:00-00:30", 1_767_227_400_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_an_instant_is_milliseconds_since_the_epoch(written, ms):
    """Any offset leads to UTC, and finer digits are cut."""
    assert instant(written) == ms


@pytest.mark.parametrize(
    "written",
    [
        "",
        "now",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00 02:00",
        "2026-01-01T00:00:00+0200",
        "2026-01-01T00:00:00Z\n",
        "٢٠٢٦-01-01T00:00:00Z",
    ],
)
def test_an_instant_has_the_form_of_rfc_3339(written):
    """Other ways to write a time are refused, those without an offset above all."""
    with pytest.raises(ValueError, match="must be an RFC 3339 time with an offset"):
        instant(written)


@pytest.mark.parametrize(
    "written", ["2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2016-12-31T23:59:60Z", "2026-01-01T00:00:00+24:00"]
)
def test_an_instant_is_on_the_calendar(written):
    """The form alone is not enough."""
    with pytest.raises(ValueError, match="must be a time that exists"):
        instant(written)


@pytest.mark.parametrize("written", ["0001-01-01T00:00:00+01:00", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00"])
def test_an_instant_is_between_1970_and_9999(written):
    """The offset counts: what is past the end only in UTC is refused too."""
    with pytest.raises(ValueError, match="between the years 1970 and 9999"):
        instant(written)


def test_priorities_are_ranked():
    """The more urgent, the higher the rank."""
    assert [priority.rank for priority in (Priority.LOW, Priority.MEDIUM, Priority.HIGH)] == [0, 1, 2]
