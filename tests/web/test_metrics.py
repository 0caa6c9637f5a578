"""What Prometheus is told: true figures, in its own form, with labels that nobody can make many of."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.errors import RecordFailed
from dispatcher.ports import Entry, Notice
from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, raw, text_of, until
from tests.web.inside import inside
from web.metrics import Metrics

KEY = "correct-horse-battery-staple"
ABOUT_THE_RECORD = ("disk_free_bytes", "database_log_bytes", "waiting_tasks", "oldest_waiting_seconds")
PROMTOOL = Path(__file__).parents[2] / ".venv/bin/promtool"


async def scraped(api):
    """Every sample by its name and its labels."""
    answer = await api.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.content.decode())
    return {(it.name, *sorted(it.labels.values())): it.value for family in families for it in family.samples}


async def busy(api, directory):
    """A bit of everything: 7 tasks are made, of which 1 ends well and 1 badly."""
    good, bad, again, mine = [await api.claimed(f"{directory}/{number}", lease_seconds=1000) for number in range(4)]
    await api.tell(good, "complete", result="done")
    await api.tell(bad, "fail", error_message="no")
    await api.tell(again, "release")
    gone, _ = await api.create(directory), await api.create(directory)
    await api.post(f"{TASKS}/{gone['task_id']}/cancel", {})
    await api.post(f"{TASKS}/{mine['task_id']}/cancel", {"force": True})
    assert (await api.tell(mine, "complete")).status == 409
    await api.create(f"{directory}/later", delay_seconds=1000)
    for path in (TASKS, f"{TASKS}/nobody", "/nowhere", "/api/v1/work-directories", "/health"):
        await api.get(path)


async def test_what_happens_to_tasks_is_counted(server, directory):
    async with connected(server) as api:
        await busy(api, directory)
        told = await scraped(api)
    events = {
        "created": 7,
        "claimed": 4,
        "completed": 1,
        "failed": 1,
        "released": 1,
        "cancelled": 2,
        "late_result": 1,
        "retried": 0,
        "lease_expired": 0,
        "deleted": 0,
    }
    assert {event: told[f"task_{event}_total",] for event in events} == events
    assert (told["task_waiting_seconds_count",], told["task_processing_seconds_count",]) == (4, 2)
    assert (told["active_tasks",], told["waiting_tasks",]) == (0, 3)
    assert told["oldest_waiting_seconds",] > 0
    assert {(name,) for name in ABOUT_THE_RECORD} <= told.keys()


async def test_a_lost_lease_is_counted(server, directory):
    async with connected(server) as api:
        server.kill()
        server.environ["APP_TASK_RESTART_GRACE_SECONDS"] = "0"
        server.start()
        await api.claimed(directory, lease_seconds=0.1)

        async def lost():
            told = await scraped(api)
            return told["task_lease_expired_total",] == told["task_claimed_total",] == 1

        await until(lost)


async def test_commits_are_measured(server, directory):
    async with connected(server) as api:
        await asyncio.gather(*(api.create(directory) for _ in range(50)))
        told, health = await scraped(api), (await api.get("/health")).json
    batches = health["components"]["dispatcher"]["batches"]
    for name in ("commit_seconds", "commit_fsync_seconds", "commit_changes"):
        assert told[f"{name}_count",] == batches > 0
    assert told["commit_changes_sum",] == 50
    assert told["commit_seconds_sum",] > told["commit_fsync_seconds_sum",] > 0
    assert told["database_log_bytes",] > 0
    assert told["disk_free_bytes",] > 0
    assert told["process_resident_memory_bytes",] > 1e6


async def test_who_waits_and_who_reads_is_counted(server, directory):
    async with connected(server) as api, api.stream(directory), api.stream(directory, mode="notify"):
        poll = asyncio.create_task(api.next(f"{directory}/poll", wait_seconds=10))
        await api.busy_with(3)

        async def parked():
            return (await scraped(api))["parked_claims",] == 2

        await until(parked)
        told = await scraped(api)
        assert (told["stream_readers", "worker"], told["stream_readers", "feed"]) == (2, 0)
        assert told["requests_in_flight",] == 4
        await api.create(f"{directory}/poll")
        await poll
    async with connected(server) as api:
        await api.busy_with(0)
        told = await scraped(api)
        assert (told["stream_readers", "worker"], told["parked_claims",], told["active_tasks",]) == (0, 0, 1)


async def test_open_streams_are_counted_by_their_kind_and_are_so_many_at_most(tmp_path, directory, monkeypatch):
    """Of each kind: one more is told to come again later, and those of other kinds are none the worse for it."""
    monkeypatch.setattr("web.service.STREAMS_MAX", 1)
    async with inside(tmp_path) as (api, _service, _), AsyncExitStack() as stack:
        task = await api.claimed(directory)
        worker = {"work_path": directory, "mode": "notify"}
        paths = {"worker": f"{TASKS}/stream", "feed": "/api/v1/events", "logs": f"{TASKS}/{task['task_id']}/logs"}
        queries = {"worker": worker, "feed": {}, "logs": {"follow": "true"}}
        for kind, path in paths.items():
            open_stream = api.session.get(api.url + path, params=queries[kind])
            assert (await stack.enter_async_context(open_stream)).status == 200
        told = await scraped(api)
        assert [told["stream_readers", kind] for kind in (*paths, "export")] == [1, 1, 1, 0]
        for kind, path in paths.items():
            answer = await api.get(path, **queries[kind])
            answer.refused(503, "UNAVAILABLE")
            assert answer.headers["Retry-After"] == "1"
        export = await api.call("GET", f"{TASKS}?status=working", headers={"Accept": "application/x-ndjson"})
        assert export.status == 200
        await stack.aclose()
        await api.busy_with(0)
        told = await scraped(api)
        assert [told["stream_readers", kind] for kind in (*paths, "export")] == [0, 0, 0, 0]


def test_times_are_those_that_the_history_tells():
    """As the statistics have them: there are no two ways to measure."""
    metrics = Metrics()
    for type, details in (("claimed", {"waiting_seconds": 3}), ("failed", {"processing_seconds": 4}), ("released", {})):
        about = {"task_id": "x", "work_directory": "/w", "priority": None, "status": None}
        metrics.committed([Notice(Entry(seq=1, type=f"task.{type}", at=0, details=details, **about))])
    told = metrics.text([]).decode()
    assert "task_waiting_seconds_sum 3.0" in told
    assert "task_processing_seconds_sum 4.0" in told


async def test_answers_are_timed_by_their_route(server, directory):
    async with connected(server) as api:
        for _ in range(3):
            task = await api.create(directory)
            await api.get(f"{TASKS}/{task['task_id']}")
        await api.get(f"{TASKS}/{task['task_id']}x")
        told = await scraped(api)

        def count(method, route, status):
            return told["response_time_seconds_count", *sorted((method, route, status))]

        assert count("POST", TASKS, "2xx") == 3
        assert count("GET", TASKS + "/{task_id}", "2xx") == 3
        assert count("GET", TASKS + "/{task_id}", "4xx") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="scripts/setup brings promtool on Linux only")
async def test_promtool_finds_nothing_to_complain_of(server, directory):
    async with connected(server) as api, api.stream(directory):
        await busy(api, directory)
        text = (await api.get("/metrics")).content
    promtool = await asyncio.create_subprocess_exec(
        PROMTOOL, "check", "metrics", stdin=-1, stdout=-1, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await promtool.communicate(text)
    assert (promtool.returncode, said) == (0, b"")


async def test_hostile_callers_cannot_make_labels(server):
    """Neither by methods nor by paths, ids or directories: however many they try, the samples are as many as before."""
    methods = ("PROPFIND", "MKCOL", "COPY", "LOCK", "SEARCH", "PURGE", "REPORT", "TRACE")

    def attempts(number):
        for method in ("GET", "POST", f"X{number}", methods[number % len(methods)], "OPTIONS", "HEAD"):
            yield text_of(method, f"/{number}", Connection="close")
            yield text_of(method, f"{TASKS}/{number}/%22%0Aevil_total%201", Connection="close")
            yield text_of(method, f"/metrics?{number}", Connection="close")
        yield text_of("POST", TASKS, {"work_directory": f'/"\n{number}', "prompt": "x"})
        yield text_of("POST", TASKS, {"work_directory": f"/{number}", "prompt": "x"})

    async def attack(numbers):
        for number in numbers:
            for request in attempts(number):
                if not request.startswith((b"HEAD", b"OPTIONS")):  # they are answered without a length
                    await raw(server, request)

    async with connected(server) as api:
        await attack(range(1))
        await scraped(api)
        before = (await scraped(api)).keys()
        await attack(range(1, 30))
        after = await scraped(api)
        assert after.keys() == before
        assert after["response_time_seconds_count", *sorted(("other", "/metrics", "4xx"))] > 2 * 29


@pytest.mark.parametrize("is_open", [False, True])
async def test_metrics_are_for_those_with_the_key_unless_they_are_opened(tmp_path, is_open):
    environ = {"API_SECRET_KEY": KEY, "APP_SECURITY_OPEN_METRICS": str(is_open).lower()}
    server = ServerProcess(tmp_path, environ=environ).start()
    try:
        async with connected(server) as stranger, connected(server, Authorization=f"Bearer {KEY}") as api:
            answer = await stranger.get("/metrics")
            assert answer.status == (200 if is_open else 401)
            for path in (TASKS, "/metrics/", "/metrics/x", "//metrics"):
                assert (await stranger.get(path)).status == 401
            assert (await api.get("/metrics", x=1)).faults() == ["x"]
            told = await scraped(api)
            assert told["requests_refused_total", "unauthorized"] == 4 + (not is_open)
            assert told["requests_refused_total", "forbidden"] == 0
            await stranger.call("GET", "/health", headers={"Origin": "https://evil.example"})
            assert (await scraped(api))["requests_refused_total", "forbidden"] == 1
    finally:
        assert server.terminate() == 0


async def test_what_cannot_be_told_is_left_out_and_the_rest_is_told(tmp_path):
    """A disk that fails and a record that hangs do not make the server blind."""

    async def fail():
        raise RecordFailed("stale file handle")

    async def hang(*_):
        await asyncio.Event().wait()

    async with inside(tmp_path) as (api, _service, store):
        store.room, store.record.waiting, store.record.oldest_waiting = fail, hang, hang
        told = await scraped(api)
        assert not [name for name in ABOUT_THE_RECORD if (name,) in told]
        assert told["active_tasks",] == 0


async def test_the_error_nobody_foresaw_is_counted(tmp_path):
    async def fail(*_):
        raise ZeroDivisionError

    async with inside(tmp_path) as (api, _service, store):
        store.record.task = fail
        (await api.get(f"{TASKS}/x")).refused(500, "INTERNAL_ERROR")
        assert (await scraped(api))["internal_errors_total",] == 1
