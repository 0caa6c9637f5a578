"""All that a record holds, as rows that are the same wherever it is kept: so it can be moved, and compared.

Left out is what belongs to the place or to running servers: the index of the prompts, who serves the record, and what
else they agree on. What deleted tasks have left behind, and is yet to be removed, lies in the work directory ''.
"""

from collections.abc import AsyncGenerator, Iterable
from hashlib import blake2b
from typing import Any, Protocol

import orjson
from attrs import asdict, define, evolve, field, frozen

from storage.rows import AUDIT, CONFIG, DIRECTORIES, HISTORY, KEYS, TASKS
from storage.tallies import NUMBERS

Row = tuple[Any, ...]
Key = tuple[int | str, ...]

COUNTS = ("waiting", "working", "completed", "failed", "cancelled")
TABLES: dict[str, tuple[str, ...]] = {
    "config_versions": tuple(CONFIG.columns),
    "keys": tuple(KEYS.columns),
    "audit": tuple(AUDIT.columns),
    "work_directories": (*COUNTS, *DIRECTORIES.columns),
    "tasks": (*TASKS.columns, "due_at", "folded"),
    "idempotency_keys": ("key", "work_directory", "arrival"),
    "ready_tags": ("work_directory", "tag", "priority", "arrival"),
    "task_tags": ("work_directory", "tag", "arrival"),
    "dependencies": ("parent_id", "work_directory", "arrival"),
    "history": tuple(HISTORY.columns),
    "task_logs": ("work_directory", "arrival", "number", "attempt", "at", "line"),
    "logs_left": ("work_directory", "arrival"),
    "rollups": ("work_directory", "span", "at", *NUMBERS, "waiting", "processing"),
    "additions": ("number", "tallies"),
    "webhook": ("seq",),
    "last_numbers": ("arrival", "seq"),
}


@frozen
class Part:
    """Some rows of a table, in the order in which they are read there, and the key of the last; `characters`: of all
    their texts."""

    rows: list[Row]
    last: Key
    characters: int


def characters(row: Row) -> int:
    return sum(len(value) for value in row if isinstance(value, str))


@frozen
class Origin:
    """Which record is moved. `identity` tells it from others; `state`, what it was like: that changes with any change
    that a server makes."""

    name: str
    identity: str
    state: str


@frozen
class Place:
    """How far a move has come: the tables that are complete with their number of rows, and of the next one the rows
    that have been written and the key of the last."""

    origin: Origin
    done: dict[str, int] = field(factory=dict)
    rows: int = 0
    after: Key | None = None

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @staticmethod
    def from_json(text: str) -> "Place":
        values = orjson.loads(text)
        after = values["after"]
        return Place(
            Origin(**values["origin"]), values["done"], values["rows"], None if after is None else tuple(after)
        )

    def behind(self, part: Part) -> "Place":
        return evolve(self, rows=self.rows + len(part.rows), after=part.last)

    def end_of(self, table: str) -> "Place":
        return evolve(self, done={**self.done, table: self.rows}, rows=0, after=None)


@define
class Checksum:
    """Of rows in any order: the sum of their digests."""

    rows: int = 0
    total: int = 0

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.total += int.from_bytes(blake2b(orjson.dumps(row), digest_size=16).digest(), "big")
            self.rows += 1
        self.total %= 1 << 128

    def __str__(self) -> str:
        return f"{self.total:032x}"


class End(Protocol):
    """A record that a move goes from or to. No server uses it, nor will one before this end is closed."""

    @property
    def name(self) -> str:
        """For people: without a password."""
        ...

    async def origin(self) -> Origin: ...

    async def count(self, table: str) -> int:
        """How many rows, or about so many."""
        ...

    def read(self, table: str, after: Key | None) -> AsyncGenerator[Part, None]:
        """All rows behind that key. A part is small enough to be held in memory."""
        ...

    async def is_empty(self) -> bool: ...

    async def place(self) -> Place | None:
        """Of the move that has not been completed."""
        ...

    async def prepare(self, place: Place, *, is_new: bool) -> None:
        """Bring it to the present schema. If the move is new, what an unfinished one has written is removed; from then
        on it is marked as unfinished. Raises StorageError without having touched anything."""
        ...

    async def write(self, table: str, rows: list[Row], place: Place) -> None:
        """All of it in one transaction."""
        ...

    async def finish(self) -> None:
        """From now on servers may use it."""
        ...
