"""What the server says of itself when it is well, when it has too much to do, and when it cannot write."""

import asyncio
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import RecordFailed
from dispatcher.mailbox import BATCH_MAX
from dispatcher.medium import Room
from dispatcher.messages import Create
from tests.web.conftest import until
from tests.web.inside import Gate, inside
from web.health import MAILBOX_CROWDED
from web.pulse import LATE_SECONDS, MEMORY_SECONDS, RECENT, Pulse


async def health(api):
    answer = await api.get("/health")
    return answer.status, answer.json["status"], {n for n, it in answer.json["components"].items() if not it["healthy"]}


WELL = (200, "healthy", set())


async def test_a_server_that_is_well_says_how_each_part_is(api):
    said = (await api.get("/health")).json["components"]
    assert said.keys() == {"database", "dispatcher", "disk", "event_loop", "memory", "backups", "webhooks"}
    assert said["database"]["response_time_ms"] > 0
    assert said["dispatcher"].keys() == {"healthy", "mailbox", "oldest_message_ms", "batches", "messages"}
    assert said["dispatcher"]["oldest_message_ms"] == 0
    assert 0 < said["disk"]["free_percent"] <= 100
    assert said["event_loop"].keys() == {"healthy", "lag_ms", "max_lag_ms"}
    assert 0 < said["memory"]["resident_bytes"] < said["memory"]["limit_bytes"]
    assert said["backups"] == {"healthy": True, "configured": False}


async def test_while_messages_wait_too_long_it_is_degraded(tmp_path, directory):
    """Nothing is wrong but the time that a commit takes; afterwards all is well."""
    async with inside(tmp_path) as (api, _, store):
        assert await health(api) == WELL
        gate = Gate(store, "commit")
        held = asyncio.create_task(api.create(directory))

        async def degraded():
            return await health(api) == (200, "degraded", {"dispatcher"})

        await until(degraded)
        assert (await api.get("/health")).json["components"]["dispatcher"]["oldest_message_ms"] >= 2000
        gate.opened.set()
        await held
        assert await health(api) == WELL


async def test_while_the_mailbox_is_nearly_full_it_is_degraded(tmp_path, directory):
    async with inside(tmp_path) as (api, service, store):
        gate = Gate(store, "commit")
        create = Create(work_directory=directory, prompt="x")
        asked = [asyncio.create_task(service.dispatcher.ask(create)) for _ in range(BATCH_MAX)]
        await until(lambda: gate.came)
        asked += [asyncio.create_task(service.dispatcher.ask(create)) for _ in range(MAILBOX_CROWDED)]
        await asyncio.sleep(0)
        assert (await api.get("/health")).json["components"]["dispatcher"]["mailbox"] == MAILBOX_CROWDED
        assert await health(api) == (200, "degraded", {"dispatcher"})
        gate.opened.set()
        await asyncio.gather(*asked)
        assert await health(api) == WELL


async def test_a_record_that_cannot_be_written_is_no_good(tmp_path):
    """It can be read all the while, and the process is alive; once it can be written again all is well."""
    async with inside(tmp_path) as (api, _, store):
        probe = store.probe

        async def fail():
            raise RecordFailed("the disk is at fault")

        store.probe = fail
        assert await health(api) == (503, "unhealthy", {"database"})
        said = (await api.get("/health")).json
        assert (said["database"], said["metrics"]["queue_size"]) == ("not writable", 0)
        assert (await api.get("/health/live")).status == 200
        store.probe = probe
        await until(lambda: _is_well(api))


async def _is_well(api):
    return await health(api) == WELL


async def test_a_record_that_hangs_is_no_good_and_nobody_waits_long_to_hear_it(tmp_path):
    """One probe hangs; those who ask meanwhile start no other and are told at once."""
    async with inside(tmp_path) as (api, _, store):
        gate = Gate(store, "probe")
        async with asyncio.timeout(10):
            assert await health(api) == (503, "unhealthy", {"database"})
            async with asyncio.timeout(1):
                for _ in range(3):
                    assert await health(api) == (503, "unhealthy", {"database"})
        assert gate.came == 1
        gate.opened.set()
        await until(lambda: _is_well(api))


async def test_however_many_ask_the_record_is_probed_once_a_second(tmp_path):
    async with inside(tmp_path) as (api, _service, store):
        gate = Gate(store, "probe")
        gate.opened.set()
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            answers = await asyncio.gather(*(health(api) for _ in range(20)))
            assert answers == [WELL] * 20
        lasted = asyncio.get_running_loop().time() - began
        assert 1 <= gate.came <= 1 + lasted


@pytest.mark.parametrize("room", [Room(free_bytes=2**20, total_bytes=2**30, log_bytes=0), None])
async def test_little_room_on_the_disk_is_told_before_there_is_none(tmp_path, room):
    """Also when the disk does not say."""

    async def told():
        if room is None:
            raise RecordFailed("stale file handle")
        return room

    async with inside(tmp_path) as (api, _, store):
        store.room = told
        assert await health(api) == (200, "degraded", {"disk"})


async def test_a_small_share_of_a_large_disk_is_room_enough(tmp_path):
    async def told():
        return Room(free_bytes=2**35, total_bytes=2**42, log_bytes=0)

    async with inside(tmp_path) as (api, _, store):
        store.room = told
        assert await health(api) == WELL


async def test_an_event_loop_that_is_always_late_is_degraded(tmp_path):
    async with inside(tmp_path) as (api, service, _):
        for beat in range(RECENT):
            service.pulse.beat(beat / 1000, LATE_SECONDS)
        answer = (await api.get("/health")).json
        assert (answer["status"], answer["components"]["event_loop"]["healthy"]) == ("degraded", False)


async def test_the_pulse_feels_a_loop_that_is_held_up(tmp_path):
    async with inside(tmp_path) as (_, service, _):
        time.sleep(0.3)  # noqa: ASYNC251 - that is the fault
        await until(lambda: service.pulse.worst_seconds > 0.15)


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 5)), min_size=1, max_size=40))
def test_the_worst_of_the_last_minute_is_remembered(beats):
    pulse, now, all_beats = Pulse(), 0.0, deque()
    for pause, late in beats:
        now += pause
        all_beats.append((now, late))
        pulse.beat(now, late)
        assert pulse.worst_seconds == max(lag for at, lag in all_beats if at > now - MEMORY_SECONDS)
        assert pulse.lag_seconds == late
        recent = [lag for _, lag in list(all_beats)[-RECENT:]]
        assert pulse.keeps_up == (len(recent) < RECENT or min(recent) < LATE_SECONDS)


def test_the_load_is_that_of_the_last_minute():
    pulse = Pulse()
    assert pulse.cpu_percent == 0
    for second in range(1000):  # busy at first, then at rest but for a tenth of the time
        pulse.spend(float(second), min(second, 500) + max(0, second - 500) / 10)
    assert pulse.cpu_percent == pytest.approx(10)


async def test_a_busy_server_says_so(tmp_path):
    async with inside(tmp_path) as (api, service, _):
        await until(lambda: service.pulse.cpu_percent > 0)
        service.pulse = Pulse()
        service.pulse.spend(0, 0)
        service.pulse.spend(10, 5)
        assert (await api.get("/health")).json["metrics"]["cpu_usage"] == 50


async def test_without_its_dispatcher_it_is_neither_well_nor_ready(tmp_path):
    async with inside(tmp_path) as (api, service, _):
        assert (await api.get("/health/ready")).status == 200
        service.dispatcher.close()
        assert (await health(api))[:2] == (503, "unhealthy")
        assert (await api.get("/health/ready")).status == 503
        assert (await api.get("/health/live")).status == 200


async def test_while_it_drains_it_is_not_ready(tmp_path, directory):
    """What is under way goes on, but a balancer sends nobody new."""
    async with inside(tmp_path) as (api, service, _):
        service.draining.set()
        answer = await api.get("/health/ready")
        assert (answer.status, answer.json) == (503, {"status": "draining"})
        assert (await api.get("/health/live")).status == 200
