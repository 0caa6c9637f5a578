"""Bodies on their way in: how much of them is held at once, and how many values they may be made of.

What is small costs little and is not counted. What is long waits in memory until it is whole, and a JSON text is many
times as large once it is taken apart.
"""

import asyncio
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from aiohttp import StreamReader
from attrs import define, field

from web.answers import RETRY_AFTER_SECONDS, Failure
from web.codec import Fault, Invalid, Malformed

T = TypeVar("T")

SMALL_BYTES = 64 * 1024  # of each body that are not counted
HELD_BYTES_MAX = 128 * 2**20  # of all bodies that are not decoded yet; but two of the largest there always are
VALUES_MAX = 600_000  # in one body: more than the largest result has, if it is all numbers of one digit
PIECE_BYTES = 256 * 1024  # unpacked at a time
CANNOT_BE_UNPACKED = "it cannot be unpacked or is cut off"

# A string, of which the end may be missing, or what stands before a value.
_STEP = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([,\[{])', re.DOTALL)
_BEFORE_VALUES = (b",", b"[", b"{")


class TooLong(Exception):
    """The body is longer than it may be."""


@define(eq=False)
class Intake:
    """Of one server."""

    held_bytes: int = field(default=0, init=False)
    _thread: ThreadPoolExecutor = field(factory=lambda: ThreadPoolExecutor(1, "decoding"), init=False)

    @contextmanager
    def holding(self, body_bytes_max: int) -> Iterator["Held"]:
        held = Held(self, max(HELD_BYTES_MAX, 2 * body_bytes_max))
        try:
            yield held
        finally:
            self.held_bytes -= held.bytes

    async def decode(self, body: bytearray, read: Callable[[bytearray], T]) -> T:
        """Long bodies are taken apart one after the other: together they would take no less time, but more memory."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _read_checked, body, read)


@define(eq=False)
class Held:
    """What one body takes of what there is for all."""

    intake: Intake
    bytes_max: int
    bytes: int = field(default=0, init=False)

    def grow(self, to: int) -> None:
        """Raises a 503 Failure if that is too much for all together."""
        more = max(0, to - SMALL_BYTES) - self.bytes
        if more > 0:
            if self.intake.held_bytes + more > self.bytes_max:
                message = "too many long bodies are on their way"
                raise Failure(503, "UNAVAILABLE", message, {}, {"Retry-After": RETRY_AFTER_SECONDS}, closes=True)
            self.bytes += more
            self.intake.held_bytes += more


async def read(content: StreamReader, coding: str, bytes_max: int, held: Held) -> bytearray:
    """The whole body, unpacked: it comes as it was sent, and no more of it is unpacked than `bytes_max` allows. Raises
    TooLong, or Malformed if it cannot be unpacked."""
    if coding == "identity":
        return await _read_plain(content, bytes_max, held)
    packed = await _read_plain(content, bytes_max, held)
    body, unpacking = bytearray(), _unpacking(coding, packed)
    rest: bytes | bytearray = packed
    while rest and not unpacking.eof:
        try:
            body += unpacking.decompress(rest, PIECE_BYTES)
        except zlib.error:
            raise Malformed(CANNOT_BE_UNPACKED) from None
        rest = unpacking.unconsumed_tail
        if len(body) > bytes_max:
            raise TooLong
        held.grow(len(packed) + len(body))
        await asyncio.sleep(0)  # others get their turn
    if not unpacking.eof or unpacking.unused_data:
        raise Malformed(CANNOT_BE_UNPACKED)
    return body


async def _read_plain(content: StreamReader, bytes_max: int, held: Held) -> bytearray:
    body = bytearray()
    try:
        while chunk := await content.readany():
            body += chunk
            if len(body) > bytes_max:
                raise TooLong
            held.grow(len(body))
    except BaseException:
        body.clear()  # the error may be kept for a while, and this function's variables with it
        raise
    return body


def _unpacking(coding: str, packed: bytearray) -> "zlib._Decompress":
    if coding == "gzip":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    is_bare = packed[:1] and packed[0] & 0x0F != zlib.DEFLATED  # as some send it, though it should have a head
    return zlib.decompressobj(-zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS)


def check_values(body: bytes | bytearray) -> None:
    """Raises Invalid if the text is made of too many values; it need not be JSON."""
    if sum(map(body.count, _BEFORE_VALUES)) <= VALUES_MAX:  # of which many may be in strings
        return
    values = 0
    for step in _STEP.finditer(body):
        if step[1]:
            values += 1
            if values > VALUES_MAX:
                raise Invalid([Fault("body", f"must be made of at most {VALUES_MAX} values")])


def _read_checked(body: bytearray, read: Callable[[bytearray], T]) -> T:
    check_values(body)
    return read(body)
