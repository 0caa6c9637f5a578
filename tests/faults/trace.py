"""What a server asked of the system, in order, from strace: writes, syncs and answers."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

CALLS = "fsync,fdatasync,write,writev,pwrite64,pwritev,sendto,sendmsg"
MISSING = "strace is needed to see what the server asks of the system: apt-get install strace"

_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. )?(?P<call>\w+)(?:\((?P<what>.*)| resumed>(?P<rest>.*))")


def strace(output: Path) -> tuple[str, ...]:
    """A command that runs another one, as its child would; raises FileNotFoundError."""
    if shutil.which("strace") is None:
        raise FileNotFoundError(MISSING)
    return ("strace", "-D", "-f", "-y", "-s", "1000", "-e", f"trace={CALLS}", "-o", str(output))


@frozen
class Event:
    """A system call; it began with one line of the trace and ended with the same or a later one."""

    call: str
    what: str  # its arguments, file names and contents among them
    began: int
    ended: int

    @property
    def is_sync(self) -> bool:
        return self.call in ("fsync", "fdatasync")


def events(output: Path) -> Iterator[Event]:
    """In the order in which they ended."""
    begun: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(output.read_text(errors="replace").splitlines()):
        if not (match := _LINE.match(line)):
            continue  # a signal, or an exit
        if match["what"] is None:
            what, began = begun.pop(match["thread"])
            yield Event(match["call"], what + match["rest"], began, number)
        elif match["what"].endswith("<unfinished ...>"):
            begun[match["thread"]] = match["what"], number
        else:
            yield Event(match["call"], match["what"], number, number)
