"""What a command prints, listened to for what an agent says in it of itself."""

import json
from collections.abc import Callable

from task_orchestrator.dialects import Account, Dialect, opened_by

LINE_BYTES_MAX = 512 * 1024  # a longer one is passed over
_OPENINGS = (b'"session_id"', b'"thread_id"')


class Transcript:
    """Feed it the standard output as it comes; `changed` is called when there is more to be known.

    `account` stays None for whatever is not an agent that prints JSON lines.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.account: Account | None = None
        self._dialect: Dialect | None = None
        self._changed = changed
        self._line = bytearray()  # whose end has not come yet
        self._is_too_long = False

    def feed(self, piece: bytes) -> None:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._add(part)
            self.close()
        self._add(rest)

    def close(self) -> None:
        """A line ends here."""
        if self._line and not self._is_too_long:
            self._take(bytes(self._line).strip())
        self._line.clear()
        self._is_too_long = False

    def _add(self, part: bytes) -> None:
        if self._is_too_long or len(self._line) + len(part) > LINE_BYTES_MAX:
            self._is_too_long = True
            self._line.clear()
        else:
            self._line += part

    def _take(self, line: bytes) -> None:
        if not (line.startswith(b"{") and line.endswith(b"}")):
            return
        if self.account is None and not any(opening in line for opening in _OPENINGS):
            return
        try:
            said = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            return
        if self.account is None and (opened := opened_by(said)):
            self.account, self._dialect = opened
        if self.account is not None and self._dialect is not None:
            self._dialect(said, self.account)
            self._changed()
