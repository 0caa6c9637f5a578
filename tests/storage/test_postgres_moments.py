"""What is read together is read as of one moment, whatever is committed meanwhile."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy

from dispatcher.fields import Priority
from dispatcher.messages import Claim, Complete, Create
from dispatcher.ports import Configured
from dispatcher.record import EventFilter, Filter, Record
from dispatcher.task import Status
from storage.rows import TASKS
from storage.sqlite import journal as sqlite
from storage.sqlite.rollups import add_up
from storage.tallies import HOUR, MINUTE
from tests.dispatcher.test_board import Desk
from tests.storage import pg_rows
from tests.storage.readers import OnPostgres
from tests.storage.test_reads import CONFIG, line_of_settings


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Some tasks, some of them done; a part of the rollups is not added up yet."""
    desk = Desk()
    for number in range(12):
        now = number * 10 * MINUTE
        desk.say(Create(work_directory="/w", prompt=f"Number {number}", priority=list(Priority)[number % 3]), now)
        if number % 2:
            (task,) = desk.say(Claim(work_directories=("/w",)), now)
            desk.say(Complete(task_id=task.task_id, result="x" * 20), now + 5000)
        if number == 6:
            add_up(desk.db)
    sqlite.commit(desk.db, [Configured(line_of_settings(900), CONFIG[0])])
    yield desk
    desk.db.close()


@pytest.fixture
def interrupted(on_pg: OnPostgres, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on everything is deleted whenever a read has been answered something; what it asked."""
    asked: list[str] = []

    def deleting(fetch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def fetched(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
            answer = await fetch(self, query, *args, **kwargs)
            asked.append(query)
            beside = await asyncpg.connect(on_pg.url)
            await pg_rows.clear(beside)
            await beside.close()
            return answer

        return fetched

    for name in ("fetch", "fetchrow", "fetchval"):
        monkeypatch.setattr(PoolConnectionProxy, name, deleting(getattr(PoolConnectionProxy, name)))
    return asked


READS: dict[str, Callable[[Record], Any]] = {
    "events": lambda record: record.events(0, 100, EventFilter()),
    "statistics": lambda record: record.statistics(None, 0, 2 * HOUR, HOUR),
    "page": lambda record: record.page(Filter(), "-created_at", 3, offset=4),
    "filtered page": lambda record: record.page(Filter(statuses=(Status.WAITING,)), "priority", 3, offset=1),
    "search": lambda record: record.page(Filter(text="NUMBER 1"), "updated_at", 3),
    "outcomes": lambda record: record.outcomes([f"task-{number}" for number in range(15)], 100),
    "config versions": lambda record: record.config_versions(1, 0),
}


@pytest.mark.parametrize("name", [*READS, "place"])
def test_what_is_read_together_is_read_as_of_one_moment(
    on_pg: OnPostgres, desk: Desk, name: str, request: pytest.FixtureRequest
) -> None:
    ready = next(map(TASKS.value, desk.db.execute(f"{TASKS.select} where ready order by arrival desc")))
    read = READS.get(name, lambda record: record.place(ready, 60))
    on_pg.fill(desk.db)
    expected = read(on_pg)
    asked = request.getfixturevalue("interrupted")
    on_pg.fill(desk.db)
    asked.clear()
    assert read(on_pg) == expected
    assert len(asked) > 1
    assert read(on_pg) != expected
