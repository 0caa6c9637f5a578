"""Every call and its answer, with their times, one JSON line each: what is looked at when something is wrong."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from attrs import define

from .wire import Answer

LINES_MAX = 60  # of those about one thing, the last ones


@define
class Calls:
    """Kept in the file, if there is one, and counted."""

    file: IO[str] | None = None
    total: int = 0
    unanswered: int = 0

    @classmethod
    @contextmanager
    def kept_in(cls, directory: Path) -> Iterator["Calls"]:
        with (directory / "calls.jsonl").open("w") as file:
            yield cls(file)

    def note(self, who: str, method: str, path: str, body: Any, began: float, answer: Answer | None) -> None:
        """`answer` is None where the connection ended first."""
        self.total += 1
        self.unanswered += answer is None
        status, said, ended = (answer.status, answer.body, answer.ended) if answer else (None, None, None)
        self.say(who, call=f"{method} {path}", body=body, began=began, ended=ended, status=status, answer=said)

    def say(self, who: str, **what: Any) -> None:
        if self.file:
            self.file.write(json.dumps({"who": who, **what}) + "\n")

    def about(self, what: str) -> Iterator[str]:
        """The last lines that mention it."""
        if self.file:
            self.file.flush()
            with Path(self.file.name).open() as file:
                yield from [line.rstrip() for line in file if what in line][-LINES_MAX:]
