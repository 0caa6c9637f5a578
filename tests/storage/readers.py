"""The record on either database, asked by tests that do not care which: each says the same of the same rows."""

import sqlite3
from asyncio import Runner
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dispatcher.task import Task
from storage.postgres.reading import see_one_moment
from storage.postgres.record import PostgresRecord
from storage.sqlite import known, lists, matching, queries, traces
from storage.sqlite.statistics import statistics
from tests.postgres import Cluster
from tests.storage import pg_rows


class OnSqlite:
    """In this thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __getattr__(self, name: str) -> Callable[..., Any]:
        others: dict[str, Callable[..., Any]] = {
            "task": queries.task_by_id,
            "place": queries.place_of,
            "history": queries.entries_of,
            "page": lists.page,
            "last_arrival": matching.last_arrival,
            "matching": matching.matching,
            "sightings": traces.sightings,
            "directories_after": known.directories_after,
            "directories_like": known.directories_like,
            "tags_like": known.tags_like,
            "statistics": statistics,
        }
        ask = others.get(name) or getattr(queries, name)
        return lambda *args, **kwargs: ask(self._db, *args, **kwargs)

    def log(self, task_id: str, after: int, limit: int, attempt: int | None = None) -> Any:
        return traces.log(self._db, task_id, after, limit, attempt)

    def run(self, statement: str) -> None:
        self._db.execute(statement)


class OnPostgres:
    """In a loop of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._name = cluster, cluster.create_database()
        self.url = cluster.url(self._name)
        self._runner = Runner()
        self.pool = self._runner.run(pg_rows.connect(self.url))
        self.record = PostgresRecord(self.pool, 30)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        ask = getattr(self.record, name)
        return lambda *args, **kwargs: self._runner.run(ask(*args, **kwargs))

    def fill(self, source: sqlite3.Connection) -> "OnPostgres":
        self._runner.run(self._with(lambda db: pg_rows.copy(source, db)))
        return self

    def put(self, tasks: Iterable[Task]) -> None:
        """These, and nothing else."""
        self._runner.run(self._with(pg_rows.clear))
        self._runner.run(self._with(lambda db: pg_rows.put_tasks(db, tasks)))
        self.run(pg_rows.COUNT_TASKS)

    def run(self, statement: str) -> None:
        self._runner.run(self._with(lambda db: db.execute(statement)))

    def overheard(self, *reads: Callable[[Any], Awaitable[object]]) -> list[Any]:
        """What these ask."""
        asked: list[Any] = []

        async def listened(db: Any) -> None:
            with db.query_logger(asked.append):
                for read in reads:
                    await read(db)
                    await db.execute("rollback")

        self._runner.run(self._with(listened))
        return asked

    def plan(self, query: str, args: Sequence[Any]) -> list[str]:
        """As a page's."""

        async def explained(db: Any) -> list[str]:
            await see_one_moment(db)
            steps = [row[0] for row in await db.fetch(f"explain {query}", *args)]
            await db.execute("rollback")
            return steps

        found: list[str] = self._runner.run(self._with(explained))
        return found

    async def _with(self, work: Callable[[Any], Any]) -> Any:
        async with self.pool.acquire() as db:
            return await work(db)

    def close(self) -> None:
        self._runner.run(self.pool.close())
        self._runner.close()
        self._cluster.drop_database(self._name)


Reader = OnSqlite | OnPostgres


@contextmanager
def on_postgres(cluster: Cluster) -> Iterator[OnPostgres]:
    reader = OnPostgres(cluster)
    try:
        yield reader
    finally:
        reader.close()
