"""The changes are written all or none."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from task_orchestrator.kit.parts import Change, Unfit


def write(directory: Path, changes: Sequence[Change]) -> None:
    """Raises Unfit, and has changed nothing then. Folders that are left empty go, too."""
    for change in changes:
        _check(change.path)
    done: list[Change] = []
    try:
        for change in changes:
            done.append(change)
            _set(change.path, change.after)
    except OSError as error:
        for change in reversed(done):
            with suppress(OSError):
                _set(change.path, change.before)
        _tidy(directory, [it.path for it in done if it.before is None])
        raise Unfit(f"{done[-1].path}: {(error.strerror or str(error)).lower()}") from None
    _tidy(directory, [it.path for it in changes if it.after is None])


def _check(path: Path) -> None:
    place = path
    while not place.exists():
        place = place.parent
    if place != path and not place.is_dir():
        raise Unfit(f"{place}: is not a directory")
    if not os.access(place, os.W_OK):
        raise Unfit(f"{place}: is not writable")


def _set(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    elif path.exists():
        _replace(path.resolve(), content)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _replace(path: Path, content: bytes) -> None:
    """At once, with the same owner and mode."""
    status = path.stat()
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            os.fchmod(number, status.st_mode & 0o7777)
            with suppress(PermissionError):
                os.fchown(number, status.st_uid, status.st_gid)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _tidy(directory: Path, gone: Sequence[Path]) -> None:
    for path in gone:
        with suppress(OSError):
            while (path := path.parent) != directory:
                path.rmdir()
