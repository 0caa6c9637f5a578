"""Who is connected to a server, as it tells the others that share its record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from attrs import evolve, frozen

Connection = Literal["stream", "poll", "mcp", "none"]
CLOSEST_FIRST: Sequence[Connection] = ("stream", "mcp", "poll", "none")


@frozen(kw_only=True)
class Worker:
    worker_id: str
    work_directories: tuple[str, ...]
    working: tuple[str, ...] = ()  # the tasks it holds, by their ids
    last_seen_at: int
    connection: Connection


@frozen
class Waiting:
    """So many claims wait in the directory for a task that bears all of these tags."""

    work_directory: str
    tags: tuple[str, ...]
    claims: int


@frozen
class Presence:
    waiting: tuple[Waiting, ...] = ()
    workers: tuple[Worker, ...] = ()  # `working` is not told: the record knows it

    def waiting_in(self, work_directory: str, tags: Iterable[str] | None = None) -> int:
        """How many wait for a task of the directory; with tags, for one that bears them."""
        borne = None if tags is None else set(tags)
        here = (it for it in self.waiting if it.work_directory == work_directory)
        return sum(it.claims for it in here if borne is None or borne.issuperset(it.tags))


def together(presences: Iterable[Presence], held: Mapping[str, Sequence[str]]) -> list[Worker]:
    """The workers of all servers, by name. `held`: the tasks that each holds."""
    found: dict[str, Worker] = {}
    for worker in (worker for presence in presences for worker in presence.workers):
        known = found.get(worker.worker_id)
        found[worker.worker_id] = _both(known, worker) if known else worker
    return [evolve(worker, working=tuple(sorted(held.get(name, ())))) for name, worker in sorted(found.items())]


def _both(one: Worker, other: Worker) -> Worker:
    return Worker(
        worker_id=one.worker_id,
        work_directories=tuple(sorted({*one.work_directories, *other.work_directories})),
        last_seen_at=max(one.last_seen_at, other.last_seen_at),
        connection=min(one.connection, other.connection, key=CLOSEST_FIRST.index),
    )
