"""What the kit has to say to each file of a project, and what becomes of the files by that."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen


class Unfit(Exception):
    """A file, or what is in it, is not such that we could write there; with a sentence that says why."""


@frozen
class Part:
    """Something to be put into the file at `path`, below the project, and to be taken out of it again.

    Both are given the text, `put` also None where there is no file; `take` returns None where none is to be left.
    """

    path: str
    put: Callable[[str | None], str]
    take: Callable[[str], str | None]


@frozen
class Change:
    """What becomes of a file; None stands for no file."""

    path: Path
    name: str
    before: bytes | None
    after: bytes | None

    @property
    def kind(self) -> str:
        if self.before is None:
            return "create"
        return "delete" if self.after is None else "update"

    def diff(self) -> str:
        before, after = _lines(self.before), _lines(self.after)
        old = f"a/{self.name}" if self.before is not None else "/dev/null"
        new = f"b/{self.name}" if self.after is not None else "/dev/null"
        return "".join(map(_ended, difflib.unified_diff(before, after, old, new)))


def changes(directory: Path, parts: Sequence[Part], remove: bool) -> Iterator[Change]:
    """Only where something changes. Raises Unfit."""
    for part in parts:
        path = directory / part.path
        try:
            before = _read(path)
            text = before.decode() if before is not None else None
            after = _without(part, text) if remove else part.put(text)
        except UnicodeDecodeError:
            raise Unfit(f"{path}: is not UTF-8") from None
        except OSError as error:
            raise Unfit(f"{path}: {(error.strerror or str(error)).lower()}") from None
        except Unfit as reason:
            raise Unfit(f"{path}: {reason}") from None
        if after != text:
            yield Change(path, part.path, before, after.encode() if after is not None else None)


def _without(part: Part, text: str | None) -> str | None:
    return part.take(text) if text is not None else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _lines(content: bytes | None) -> list[str]:
    return content.decode().splitlines(keepends=True) if content else []


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
