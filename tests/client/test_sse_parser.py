"""From bytes to events, as the HTML standard has it."""

import pytest

from task_orchestrator import sse
from task_orchestrator.sse import Event, EventParser

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b'event: task\r\ndata: {"n": 1}\r\nid: 7\r\n\r\n'
    b"data: first\rdata:second\rdata:  third\r\r"
    b"retry: 100\nunknown: field\nnothing\n\n"
    b"event: cancel\n\n"
    b"data: gr\xc3\xb6\xc3\x9fer \xf0\x9f\x99\x82\n\n"
    b"id\ndata\n\n"
    b"data: never finished\n"
)
EVENTS = [
    Event("task", '{"n": 1}', "7"),
    Event("message", "first\nsecond\n third", "7"),
    Event("message", "größer 🙂", "7"),
    Event("message", "", ""),
]


def test_fields_line_ends_comments_and_ids():
    """A stream in one piece gives its events; an event without data or without its empty line is none."""
    assert EventParser().feed(STREAM) == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_however_it_is_cut(size):
    """Pieces of any size give the same events, also when they cut a character or a CR LF in two."""
    parser = EventParser()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_cut_in_two_anywhere(at):
    """There is no place where a cut changes anything."""
    parser = EventParser()
    assert parser.feed(STREAM[:at]) + parser.feed(b"") + parser.feed(STREAM[at:]) == EVENTS


def test_an_event_is_given_as_soon_as_it_is_whole():
    """A lone CR ends a line: the parser does not wait to see whether an LF follows."""
    parser = EventParser()
    assert parser.feed(b"data: x\r\r") == [Event("message", "x")]
    assert parser.feed(b"\ndata: y\n\n") == [Event("message", "y")]


def test_an_id_with_nul_is_ignored():
    """The last good id stays."""
    assert EventParser().feed(b"id: 1\ndata: a\n\nid: \0\ndata: b\n\n")[1] == Event("message", "b", "1")


def test_bytes_that_are_not_utf8_are_replaced():
    """Bad bytes do not end the stream."""
    assert EventParser().feed(b"data: \xff\n\n") == [Event("message", "\ufffd")]


def test_data_as_json():
    """json() decodes the data, and says so when there is nothing to decode."""
    assert Event("task", '{"n": [1]}').json() == {"n": [1]}
    with pytest.raises(ValueError, match="Expecting value"):
        Event("task", "").json()


def test_an_event_too_large_is_refused(monkeypatch):
    """Memory is bounded, whether the event has one long line or many, and comments do not count."""
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 100)
    quiet = EventParser()
    for _ in range(100):
        assert quiet.feed(b": still here\n") == []
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        EventParser().feed(b"data: " + b"x" * 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        EventParser().feed(b"data: x\n" * 20)
