"""Server-sent events: from the bytes of a stream to its events. No I/O.

The rules are those of https://html.spec.whatwg.org/multipage/server-sent-events.html; `retry` is ignored,
because when to reconnect is the caller's decision.
"""

import json
import re
from typing import Any

from attrs import frozen

EVENT_BYTES_MAX = 64 * 1024 * 1024  # beyond it feed() raises: whoever sends that does not speak our contract

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@frozen
class Event:
    """One event. `id` is the last one the stream has named so far, or empty."""

    type: str
    data: str
    id: str = ""

    def json(self) -> Any:
        """The data, decoded. Raises ValueError if it is not JSON."""
        return json.loads(self.data)


class EventParser:
    """Feed it whatever arrives, however it is cut; it gives back each event as soon as it is whole."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the pieces of a line whose end has not come yet
        self._size = 0  # bytes held for an event that is not whole yet
        self._after_return = False
        self._first_line = True
        self._id = ""
        self._type = ""
        self._data: list[str] = []

    @property
    def id(self) -> str:
        """The last one the stream has named, perhaps without an event; empty if it has named none."""
        return self._id

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises ValueError when an event grows beyond EVENT_BYTES_MAX."""
        if self._after_return and chunk.startswith(b"\n"):  # CR LF cut in two is one line's end
            chunk, self._after_return = chunk[1:], False
        if not chunk:
            return []
        self._after_return = chunk.endswith(b"\r")
        *ends, rest = _LINE_END.split(chunk)
        events = []
        for end in ends:
            self._hold(end)
            line, self._line = b"".join(self._line), []
            if (event := self._take(line)) is not None:
                events.append(event)
        self._hold(rest)
        return events

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > EVENT_BYTES_MAX:
            raise ValueError(f"an event is larger than {EVENT_BYTES_MAX} bytes")
        self._line.append(piece)

    def _take(self, line: bytes) -> Event | None:
        if self._first_line:
            line, self._first_line = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            return self._dispatch()
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            return None
        self._size -= len(line)  # nothing of it is kept, and a quiet stream is comments for days
        if name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._type or "message", "\n".join(self._data), self._id) if self._data else None
        self._type, self._data, self._size = "", [], 0
        return event
