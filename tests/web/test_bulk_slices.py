"""Many tasks in very small slices, on a real record: what is true however much happens between two of them."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import orjson
import pytest
from aiohttp.web import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.fields import Priority
from dispatcher.messages import Claim, Complete, Create, CreateMany, Draft, Edit, Message, Retry, SteerMany
from dispatcher.record import Filter
from dispatcher.task import Status
from storage.sqlite.store import open_store
from tests.web.conftest import until
from web import bulk
from web.bodies import Many, ManyOfPriority
from web.composition import compose
from web.filters import TaskFilter
from web.server_log import Log
from web.service import Service
from web.sources import gather

ON_EVERY_RECORD = True

HANDLERS = {"cancel": bulk.cancel, "retry": bulk.retry, "delete": bulk.delete, "priority": bulk.priority}
SEVERAL = st.integers(1, 3)


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            open_store(Path(directory) / "tasks.db", synchronous="normal") as store,
            compose(gather({}, {}, None), store, Log()) as (service, _),
        ):
            yield service


async def steer(service: Service, verb: str, **said: Any) -> Any:
    asked = ManyOfPriority(priority=Priority.HIGH, **said) if verb == "priority" else Many(**said)
    response = await HANDLERS[verb](service, asked, Mock(Request))
    assert isinstance(response.body, bytes)
    return orjson.loads(response.body)["data"]


def told(matched: int, changed: int, skipped: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    return {"matched": matched, "changed": changed, "skipped": list(skipped), "skipped_count": len(skipped)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SLICE", 1)
    monkeypatch.setattr(bulk, "DELETED_SLICE", 1)
    monkeypatch.setattr(bulk, "STRETCH", 3)


@contextmanager
def after_the_first_slice(what: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """It happens once."""
    ask, done = Service.ask, []

    async def asking(self: Service, message: Message[Any]) -> Any:
        reply = await ask(self, message)
        if isinstance(message, SteerMany) and not done:
            done.append(True)
            await what()
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "ask", asking)
        yield
    assert done


async def failed(service: Service, count: int) -> list[str]:
    for number in range(count):
        await service.ask(Create(work_directory="/a", prompt=f"{number}"))
    tasks = await service.ask(Claim(work_directories=("/a",), limit=count))
    for task in tasks:
        await service.ask(Complete(task_id=task.task_id, lease_token=task.lease_token, status="failed"))
    return [task.task_id for task in tasks]


async def standing(service: Service, task_id: str) -> Status:
    task = await service.record.task(task_id)
    assert task is not None
    return task.status


@pytest.mark.usefixtures("small")
async def test_a_task_that_has_become_something_else_is_left_alone() -> None:
    """To cancel all that failed does not hit one that waits again, though a waiting task could be cancelled."""
    async with serving() as service:
        ids = await failed(service, 3)
        with after_the_first_slice(lambda: service.ask(Retry(task_id=ids[0]))):
            answer = await steer(service, "cancel", filter=TaskFilter(status=(Status.FAILED,)))
        assert answer == told(2, 2)
        assert await standing(service, ids[0]) == "waiting"


@pytest.mark.usefixtures("small")
async def test_a_task_whose_priority_was_raised_already_is_not_hit_by_its_old_one() -> None:
    async with serving() as service:
        made = [await service.ask(Create(work_directory="/a", prompt="x", priority=Priority.LOW)) for _ in range(3)]
        ids = [created.task.task_id for created in made]
        with after_the_first_slice(lambda: service.ask(Edit(task_id=ids[0], priority=Priority.MEDIUM))):
            answer = await steer(service, "cancel", filter=TaskFilter(priority=(Priority.LOW,)))
        assert answer == told(2, 2)
        assert await standing(service, ids[0]) == "waiting"


@pytest.mark.usefixtures("small")
async def test_a_task_that_was_named_is_meant_whatever_it_has_become() -> None:
    """If it may no longer be done to it, it is skipped."""
    async with serving() as service:
        ids = await failed(service, 3)
        with after_the_first_slice(lambda: service.ask(Retry(task_id=ids[0]))):
            assert await steer(service, "cancel", ids=tuple(ids)) == told(3, 3)
        ids = await failed(service, 3)
        with after_the_first_slice(lambda: service.ask(Retry(task_id=ids[1]))):
            answer = await steer(service, "delete", ids=tuple(reversed(ids)))
        assert answer == told(3, 2, [{"task_id": ids[1], "code": "INVALID_STATE"}])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("verb", ["priority", "cancel"])
async def test_a_task_made_meanwhile_is_not_meant(verb: str) -> None:
    """Whichever end the call begins at."""
    async with serving() as service:
        await failed(service, 4)
        with after_the_first_slice(lambda: service.ask(Create(work_directory="/a", prompt="late"))):
            assert await steer(service, verb, filter=TaskFilter(work_directory=("/a",))) == told(4, 4)
        (task,) = (await service.record.page(Filter(work_directories=("/a",)), "-created_at", 1)).tasks
        assert (task.prompt, task.version, task.status) == ("late", 1, "waiting")


# A dry run tells the truth


drafts = st.builds(
    Draft,
    work_directory=st.sampled_from(["/a", "/a", "/b"]),
    prompt=st.sampled_from(["do it", "Test it"]),
    priority=st.sampled_from(Priority),
    tags=st.sampled_from([(), ("x",), ("x", "y")]),
    max_retries=st.sampled_from([0, 1, 3]),
    on_dependency_failure=st.sampled_from(["wait", "cancel", "run"]),
)


@st.composite
def populations(draw: st.DrawFn) -> tuple[tuple[Draft, ...], list[str]]:
    """Tasks, of which some depend on earlier ones; and what becomes of those that are claimed."""
    tasks = []
    for place, draft in enumerate(draw(st.lists(drafts, min_size=1, max_size=10))):
        back = draw(st.lists(st.integers(1, 3), max_size=2, unique=True))
        depends_on = tuple(f"ref:{place - steps}" for steps in back if steps <= place)
        tasks.append(Draft(**{**_fields(draft), "ref": f"{place}", "depends_on": depends_on}))
    ends = draw(st.lists(st.sampled_from(["completed", "failed", "failed", "working"]), max_size=6))
    return tuple(tasks), ends


def _fields(draft: Draft) -> dict[str, Any]:
    names = ("work_directory", "prompt", "priority", "tags", "max_retries", "on_dependency_failure")
    return {name: getattr(draft, name) for name in names}


filters = st.builds(
    TaskFilter,
    status=st.none() | st.lists(st.sampled_from(Status), min_size=1, unique=True).map(tuple),
    work_directory=st.sampled_from([None, ("/a",), ("/b",)]),
    priority=st.none() | st.lists(st.sampled_from(Priority), min_size=1, unique=True).map(tuple),
    tags=st.sampled_from([None, None, ("y",)]),
    q=st.sampled_from([None, None, "test"]),
)
steps = st.lists(st.tuples(st.sampled_from(sorted(HANDLERS)), filters | st.none()), min_size=1, max_size=4)


@given(population=populations(), steps=steps, slice=SEVERAL, stretch=SEVERAL)
@settings(max_examples=60)
def test_a_dry_run_tells_what_would_come_of_it(population: Any, steps: Any, slice: int, stretch: int) -> None:
    """The very same answer, and nothing changes by it; what is not skipped has one line of history more."""

    async def run() -> None:
        async with serving() as service:
            ids = await live(service, *population)
            for verb, only in steps:
                which = {"filter": only, "all": True} if only else {"ids": (*ids, "nobody")}
                await all_is_told(service)
                before = await service.record.page(Filter(), "-created_at", 100)
                dry = await steer(service, verb, dry_run=True, **which)
                assert await service.record.page(Filter(), "-created_at", 100) == before
                real = await steer(service, verb, reason=f"{uuid4()}", **which)
                assert real == dry
                assert real["matched"] == real["changed"] + len(real["skipped"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "SLICE", slice)
        patch.setattr(bulk, "DELETED_SLICE", slice)
        patch.setattr(bulk, "STRETCH", stretch)
        asyncio.run(run())


async def live(service: Service, tasks: tuple[Draft, ...], ends: list[str]) -> list[str]:
    """The ids of tasks that were made, and as far as they could be claimed came to these ends."""
    made = await service.ask(CreateMany(tasks))
    for end in ends:
        for task in await service.ask(Claim(work_directories=("/a", "/b"))):
            if end == "completed":
                await service.ask(Complete(task_id=task.task_id, lease_token=task.lease_token))
            elif end == "failed":
                await service.ask(Complete(task_id=task.task_id, lease_token=task.lease_token, status="failed"))
    return [created.task.task_id for created in made]


async def all_is_told(service: Service) -> None:
    """Nobody has yet to hear of the end of another task."""

    async def told() -> bool:
        tasks = (await service.record.page(Filter(), "-created_at", 100)).tasks
        return all(task.tell_from is None for task in tasks)

    await until(told)
