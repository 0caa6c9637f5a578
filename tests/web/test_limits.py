"""A limit on how many tasks are worked on at once, over all directories."""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, on_record, until
from tests.web.test_directories import awaited, background, end_somehow, listed, rule

ON_EVERY_RECORD = True

LIMIT = 3
CLAIMERS, CROWD_TASKS = 30, 60


@pytest.fixture(scope="module")
def shared(tmp_path_factory, record):
    """A server that has no more than so many tasks worked on; each test leaves none behind."""
    environ = {"APP_TASK_MAX_CONCURRENT_TASKS": str(LIMIT)}
    server = ServerProcess(tmp_path_factory.mktemp("limited"), environ=environ, record=record).start()
    yield server
    assert server.terminate() == 0


@pytest.fixture(autouse=True)
async def cleaned(api):
    """Nothing is held and nothing waits when the next test begins."""
    yield
    for task in (await api.get(TASKS, limit=1000)).data["tasks"]:
        if task["status"] in ("waiting", "working"):
            await api.post(f"{TASKS}/{task['task_id']}/cancel", {"force": True})
    await until(lambda: nobody_works(api))


async def nobody_works(api):
    return await at_work(api) == 0


async def at_work(api):
    return (await api.get("/health")).json["active_tasks"]


async def fill(api, directory, **first):
    """As many held tasks as there may be, each in a directory of its own; the first one with these fields."""
    return [await api.claimed(f"{directory}/{number}", **({} if number else first)) for number in range(LIMIT)]


async def test_no_more_are_handed_out_than_there_may_be_wherever_they_are(api, directory):
    held = await fill(api, directory)
    assert None not in held
    for place in (f"{directory}/0", f"{directory}/new"):
        await api.create(place)
        assert await api.next(place) is None
    assert await at_work(api) == LIMIT
    await api.tell(held[0], "complete")
    assert await api.next(f"{directory}/new") is not None
    assert await api.next(f"{directory}/0") is None


async def test_a_claim_of_many_gets_what_is_left(api, directory):
    await api.claimed(f"{directory}/first")
    for number in range(5):
        await api.create(f"{directory}/{number % 2}", f"{number}")
    claim = {"work_directories": [f"{directory}/0", f"{directory}/1"], "limit": 5}
    claimed = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert [task["prompt"] for task in claimed] == ["0", "1"]


async def test_who_completes_a_task_may_go_on_with_the_next_one(api, directory):
    held = await fill(api, directory)
    made = await api.create(directory)
    told = (await api.tell(held[0], "complete", claim_next={"work_directory": directory})).data["next"]
    assert told["task_id"] == made["task_id"]
    assert await at_work(api) == LIMIT


@pytest.mark.parametrize("how", ["complete", "fail", "release", "cancel", "expire"])
async def test_a_slot_set_free_goes_to_whoever_waited_first_whatever_for(api, directory, how):
    """A slot is bound to the lease: who is not heard of any more takes none."""
    held = await fill(api, f"{directory}/held", max_retries=0)
    waiting = []
    for number in range(3):
        waiting.append(background(api.next(f"{directory}/{number}", wait_seconds=20)))
        await api.busy_with(number + 1)
    tasks = [await api.create(f"{directory}/{number}") for number in (2, 1, 0)][::-1]
    assert not any(poll.done() for poll in waiting)
    if how == "expire":
        await api.tell(held[0], "heartbeat", lease_seconds=0.05)
    else:
        said = {"fail": {"error_message": "no"}, "cancel": {"force": True, "lease_token": None}}.get(how, {})
        assert (await api.tell(held[0], how, **said)).status == 200
    assert (await waiting[0])["task_id"] == tasks[0]["task_id"]
    assert await at_work(api) == LIMIT
    for place, poll in enumerate(waiting[1:], start=1):
        assert not poll.done()
        await api.tell(held[place], "complete")
        assert (await poll)["task_id"] == tasks[place]["task_id"]


async def test_streams_are_held_to_the_limit_and_filled_as_slots_are_set_free(api, directory):
    async with AsyncExitStack() as stack:
        streams = []
        for number in range(2):
            await rule(api, f"{directory}/{number}", max_working=10)
            streams.append(await stack.enter_async_context(api.stream(f"{directory}/{number}", capacity=5)))
            await awaited(api, f"{directory}/{number}", 1)
        for number in range(6):
            await api.create(f"{directory}/{number % 2}", f"{number}")
        held = [await streams[number % 2].task() for number in range(LIMIT)]
        assert [task["prompt"] for task in held] == ["0", "1", "2"]
        news = [background(events.task()) for events in streams]
        await api.tell(held[0], "complete")
        done, left = await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert len(done) == 1
        assert await at_work(api) == LIMIT
        for reading in left:
            reading.cancel()


async def test_both_limits_hold(api, directory):
    """That of a directory leaves the rest to the others."""
    await rule(api, f"{directory}/small", max_working=1)
    for _ in range(5):
        await api.create(f"{directory}/small", priority="high")
        await api.create(f"{directory}/large")
    claim = {"work_directories": [f"{directory}/small", f"{directory}/large"], "limit": 10}
    claimed = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert [task["work_directory"].rpartition("/")[2] for task in claimed] == ["small", "large", "large"]


async def test_a_crowd_never_exceeds_the_limit(api, shared, directory):
    """Parked over several directories, in streams and in polls, ending in every way there is."""
    places = [f"{directory}/{name}" for name in "abcde"]
    batch = [{"work_directory": places[number % 5], "prompt": f"{number}"} for number in range(CROWD_TASKS)]
    over = asyncio.Event()

    async def claimer(number):
        chance = random.Random(number)
        wanted = chance.sample(places, 1 + number % 5)
        claim = {"work_directories": wanted, "wait_seconds": 0.3, "lease_seconds": 0.1, "limit": 1 + number % 3}
        while not over.is_set():
            for task in (await api.post(f"{TASKS}/claim", claim)).data["tasks"]:
                await end_somehow(api, task, chance)

    async def all_ended():
        views = [await listed(api, place) for place in places]
        return all(views) and not any(view["waiting"] + view["working"] for view in views)

    async with asyncio.TaskGroup() as group:
        for number in range(CLAIMERS):
            group.create_task(claimer(number))
        assert (await api.post(f"{TASKS}/batch", {"tasks": batch})).status == 201
        await until(all_ended)
        over.set()
    assert most_of_all(shared) == LIMIT


def most_of_all(server, after=0):
    """How many tasks were ever worked on at the same time behind that seq, as the history tells it."""
    working, most = set(), 0
    for task_id, status in on_record(
        server, f"select task_id, status from history where task_id is not null and seq > {after} order by seq"
    ):
        (working.add if status == "working" else working.discard)(task_id)
        most = max(most, len(working))
    return most


async def test_what_is_held_counts_over_a_restart(tmp_path, own_record, directory):
    server = ServerProcess(tmp_path, environ={"APP_TASK_MAX_CONCURRENT_TASKS": str(LIMIT)}, record=own_record).start()
    async with connected(server) as api:
        held = await fill(api, directory)
        await api.create(directory)
    server.kill()
    server.start()
    async with connected(server) as api:
        assert await api.next(directory) is None
        await api.tell(held[0], "complete")
        assert await api.next(directory) is not None
    assert server.terminate() == 0


async def test_a_lower_limit_at_the_next_start_stops_nobody(tmp_path, own_record, directory):
    server = ServerProcess(tmp_path, record=own_record).start()
    async with connected(server) as api:
        held = await fill(api, directory)
        await api.create(directory)
    assert server.terminate() == 0
    server.environ = {"APP_TASK_MAX_CONCURRENT_TASKS": "1"}
    server.start()
    async with connected(server) as api:
        for task in held:
            assert await api.next(directory) is None
            assert (await api.tell(task, "complete")).status == 200
        assert await api.next(directory) is not None
    assert server.terminate() == 0
