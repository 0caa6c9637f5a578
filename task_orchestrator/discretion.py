"""The list of processes is for everybody to read: what is secret in our command line is taken out of it."""

import ctypes
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

KEY_OPTION = b"--api-key"
PASSWORDS = (
    re.compile(rb"^[A-Za-z-]*=?[a-z]+://[^/:@]*:([^/?#]+)@[^@]*$"),
    re.compile(rb"^[A-Za-z-]*=?[a-z]+://[^?]*\?(?:[^#]*&)?password=([^&#]+)"),
)
BLANK = b"*"
START_FIELD, END_FIELD = 48, 49  # of /proc/self/stat, from 1: where the arguments lie in memory


def secret_spans(arguments: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Where secrets stand, in bytes, in arguments that follow each other with one byte between them."""
    at, is_key = 0, False
    for argument in arguments:
        if is_key:
            yield at, at + len(argument)
        elif argument.startswith(KEY_OPTION + b"="):
            yield at + len(KEY_OPTION) + 1, at + len(argument)
        else:
            yield from ((at + it.start(1), at + it.end(1)) for pattern in PASSWORDS if (it := pattern.match(argument)))
        is_key = argument == KEY_OPTION
        at += len(argument) + 1


def blank_command_line() -> None:
    """On Linux; elsewhere, and where the system does not let us, the secrets stay to be seen. They were so for a
    moment in any case: they belong into the environment or a file."""
    if sys.platform != "linux":
        return
    with suppress(OSError, ValueError, IndexError):
        whole = Path("/proc/self/cmdline").read_bytes()
        spans = list(secret_spans(whole.split(b"\0")))
        if not spans:
            return
        # The second field is a name in parentheses that may have anything in it.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        begin, end = (int(fields[number - 3]) for number in (START_FIELD, END_FIELD))
        if end - begin == len(whole):
            for first, last in spans:
                ctypes.memset(begin + first, BLANK[0], last - first)
