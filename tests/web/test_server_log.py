"""The log: a line for each request, nothing that callers said, and nobody ever waits for it."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from io import FileIO
from select import select

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import PATIENCE_SECONDS, TASKS, connected, raw, refused_start, text_of, until
from tests.web.inside import inside
from web import lines
from web.lines import Lines
from web.server_log import Log
from web.settings import Logging, SettingsError

KEY = "correct-horse-battery-staple"
FIELDS = {"timestamp", "level", "event", "request_id", "method", "route", "status", "duration_ms", "client"}


def lines_of(file):
    """But those of the audit log, which are told at any level."""
    lines = [json.loads(line) for line in file.read_text().rpartition("\n")[0].splitlines()]
    return [line for line in lines if line.get("logger") != "audit"]


def requests_in(file):
    return [line for line in lines_of(file) if line["event"] == "request"]


async def told(file, number):
    """The lines of so many requests, as soon as they are there."""
    return await until(lambda: len(found := requests_in(file)) >= number and found)


async def test_each_request_has_a_line(server, directory):
    async with connected(server) as api:
        task = await api.create(directory)
        shown = await api.get(f"{TASKS}/{task['task_id']}")
        lost = await api.call("GET", f"{TASKS}/none", headers={"X-Request-Id": "my-own"})
        await api.get("/nowhere")
        made, found, missing, nowhere = await told(server.log, 4)
    assert made.keys() == nowhere.keys() == FIELDS
    assert found.keys() == FIELDS | {"task_id"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made["timestamp"])
    assert (made["level"], made["method"], made["route"], made["status"]) == ("info", "POST", TASKS, 201)
    assert (found["route"], found["task_id"], found["status"]) == (TASKS + "/{task_id}", task["task_id"], 200)
    assert found["request_id"] == shown.headers["X-Request-Id"] != made["request_id"]
    assert (missing["request_id"], missing["status"]) == ("my-own", 404) == (lost.headers["X-Request-Id"], lost.status)
    assert (nowhere["route"], nowhere["status"]) == (None, 404)
    assert all(line["client"] == "127.0.0.1" and line["duration_ms"] > 0 for line in (made, found, missing, nowhere))


async def test_a_request_whose_caller_has_left_has_a_line_too(server, directory):
    """Without a status, for nobody was there to be told."""
    async with connected(server) as api:
        poll = asyncio.create_task(api.get(f"{TASKS}/next", work_path=directory, wait_seconds=30))
        await api.busy_with(1)
        poll.cancel()

        async def told_of_it():
            return [line for line in requests_in(server.log) if line["route"] == f"{TASKS}/next"]

        (line,) = await until(told_of_it)
        assert line["status"] is None


async def test_every_line_is_written_before_the_server_ends(server, directory):
    async with connected(server) as api:
        answers = await asyncio.gather(*(api.get(f"{TASKS}/next", work_path=directory) for _ in range(300)))
    assert await asyncio.to_thread(server.terminate) == 0
    names = [line["request_id"] for line in requests_in(server.log)]
    assert sorted(names) == sorted(answer.headers["X-Request-Id"] for answer in answers)


async def test_requests_are_told_at_level_info_only(tmp_path, directory):
    server = ServerProcess(tmp_path, environ={"LOG_LEVEL": "warning"}).start()
    async with connected(server) as api:
        await api.create(directory)
    assert server.terminate() == 0
    assert lines_of(server.log) == []


SECRETS = {name: f"do-not-tell-{name}" for name in ("prompt", "tag", "result", "metadata", "error", "worker", "path")}


async def tell_secrets(server, directory):
    """Everything a caller can say, well and badly; the tokens that came of it."""
    async with connected(server, Authorization=f"Bearer {KEY}") as api:
        it = SECRETS
        made = {"prompt": it["prompt"], "tags": [it["tag"]], "metadata": {it["metadata"]: it["metadata"]}}
        tasks = [await api.claimed(f"{directory}/{it['path']}/{n}", lease_seconds=1000, **made) for n in range(3)]
        await api.tell(tasks[0], "complete", result=it["result"], original_prompt=it["prompt"])
        await api.tell(tasks[1], "fail", error_message=it["error"])
        await api.tell(tasks[2], "heartbeat", progress={"message": it["error"]})
        await api.get(f"{TASKS}/{it['path']}")
        await api.get(f"/{it['path']}?{it['path']}={it['path']}")
        await api.get(f"{TASKS}/next", work_path=f"/{it['path']}", worker_id=it["worker"])
        await api.post(TASKS, {"prompt": [it["prompt"]], it["prompt"]: 1})
        await api.post(TASKS, b'{"' + it["prompt"].encode())
        async with api.stream(directory, worker_id=it["worker"]):
            pass
    for headers in ({"Authorization": f"Bearer {KEY}x"}, {"X_API_Key": f"{KEY}x"}, {"Cookie": it["tag"]}):
        await raw(server, text_of("GET", TASKS, **headers))
    for nonsense in (f"GET / HTTP/1.1\r\nAuthorization {KEY}\r\n\r\n", f"{it['path']}\r\n\r\n"):
        await raw(server, nonsense.encode())
    return [task["lease_token"] for task in tasks]


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_nothing_that_callers_say_is_in_the_log(tmp_path, level):
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": KEY, "LOG_LEVEL": level}).start()
    tokens = await tell_secrets(server, "/somewhere/private")
    assert await asyncio.to_thread(server.terminate) == 0
    log = server.log.read_text()
    assert len(requests_in(server.log)) > 15
    assert [line["status"] for line in lines_of(server.log) if line["event"] == "not a request"] == [400, 400]
    assert "do-not-tell" not in log
    assert not [secret for secret in (KEY, "/somewhere/private", *tokens) if secret in log]


async def test_without_redaction_paths_are_shown(tmp_path):
    """But no queries, and nothing that could end the line."""
    server = ServerProcess(tmp_path, environ={"APP_LOGGING_REDACT": "false"}).start()
    async with connected(server) as api:
        await api.get("/no/where%0Aevil?secret=1")
        (line,) = await told(server.log, 1)
    assert server.terminate() == 0
    assert (line["path"], line["method"], line["route"]) == ("/no/where\\nevil", "GET", None)
    assert "secret" not in server.log.read_text()


@pytest.mark.parametrize("redact", [True, False])
async def test_an_error_nobody_foresaw_has_one_id_in_answer_and_log(tmp_path, redact):
    """Its text may quote a caller, so it is told only if that is wanted; its place always is."""

    async def fail(*_):
        try:
            raise ZeroDivisionError("do-not-tell")
        except ZeroDivisionError as error:
            raise KeyError("do-not-tell") from error

    async with inside(tmp_path, APP_LOGGING_REDACT=str(redact).lower()) as (api, _service, store):
        store.record.task = fail
        answer = await api.call("GET", f"{TASKS}/x", headers={"X-Request-Id": "my-own"})
        error_id = answer.refused(500, "INTERNAL_ERROR")["error_id"]
        await told(tmp_path / "log", 1)
        (line,) = [line for line in lines_of(tmp_path / "log") if line["event"] != "request"]
    assert (line["level"], line["error_id"], line["request_id"]) == ("error", error_id, "my-own")
    assert "in fail" in line["exception"]
    assert line["exception"].index("ZeroDivisionError") < line["exception"].index("KeyError")
    assert ("do-not-tell" in line["exception"].replace('("do-not-tell")', "")) is not redact


async def test_an_error_outside_of_any_handler_has_an_id_too(tmp_path, monkeypatch):
    """It ends the connection, and the log says why."""

    def fail(*_):
        raise ZeroDivisionError

    async with inside(tmp_path) as (api, *_):
        monkeypatch.setattr("web.app.witness", fail)
        error_id = (await api.get("/health/live")).refused(500, "INTERNAL_ERROR")["error_id"]
    assert [line["error_id"] for line in lines_of(tmp_path / "log") if "error_id" in line] == [error_id]


async def test_a_request_that_is_refused_before_its_body_has_a_line(server):
    answer = await raw(server, text_of("POST", TASKS, {}, Expect="the-moon"))
    (line,) = await told(server.log, 1)
    assert (line["status"], line["request_id"]) == (417, answer.headers["X-Request-Id"])


async def test_whatever_is_said_during_a_request_bears_its_name(tmp_path):
    """And what is said outside of any does not."""
    said = logging.getLogger("anybody")

    async def speak(*_):
        said.info("I looked for %s", "it")

    async with inside(tmp_path) as (api, _service, store):
        store.record.task = speak
        await api.call("GET", f"{TASKS}/x", headers={"X-Request-Id": "one"})
        await api.call("GET", f"{TASKS}/x", headers={"X-Request-Id": "two"})
        said.warning("nobody asked", extra={"figure": 3})
    spoken = [line for line in lines_of(tmp_path / "log") if line.get("logger") == "anybody"]
    assert [line.get("request_id") for line in spoken] == ["one", "two", None]
    assert spoken[0]["event"] == "I looked for it"
    assert (spoken[2]["level"], spoken[2]["figure"]) == ("warning", 3)


async def test_pretty_lines_are_for_people(tmp_path, directory):
    server = ServerProcess(tmp_path, "--log-format", "pretty").start()
    async with connected(server) as api:
        task = await api.create(directory)
        await api.show(task)
    assert server.terminate() == 0
    told = [line for line in server.log.read_text().splitlines() if "[audit]" not in line]
    _, made, shown, _ = told  # between its start and its end
    assert re.match(r"\S+Z \[info     \] request +request_id=\w+ method=POST route=/api/v1/tasks status=201 ", made)
    assert shown.endswith(f"task_id={task['task_id']}")


@contextmanager
def saying_to(stderr, directory):
    """A server that writes its log there."""
    command = [sys.executable, "-m", "task_orchestrator", "serve", "--port", "0"]
    command += ["--database", f"sqlite:///{directory}/tasks.db"]
    server = ServerProcess(directory)
    server.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    os.close(stderr)
    try:
        server.url = server.process.stdout.readline().split()[-1]
        yield server
    finally:
        if server.process.poll() is None:
            server.terminate()
        server.process.stdout.close()


async def test_the_form_is_pretty_on_a_terminal_if_nothing_is_said(tmp_path):
    terminal, theirs = os.openpty()
    with saying_to(theirs, tmp_path) as server:
        async with connected(server) as api:
            await api.get("/health/live")
        said = b""
        while b"Z [info     ] request " not in said:
            assert select([terminal], [], [], PATIENCE_SECONDS)[0], said
            said += os.read(terminal, 4096)
    os.close(terminal)


async def test_the_log_may_go_to_a_file(tmp_path, directory):
    file = tmp_path / "file.log"
    file.write_text("what was there\n")
    server = ServerProcess(tmp_path, environ={"APP_LOGGING_FILE": str(file)}).start()
    async with connected(server) as api:
        await api.create(directory)
    assert server.terminate() == 0
    before, _, _, line, *_ = file.read_text().splitlines()  # behind the start, and its entry in the audit log
    assert (before, json.loads(line)["status"]) == ("what was there", 201)
    assert server.log.read_text() == ""


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    refused = refused_start(tmp_path / "tasks.db", APP_LOGGING_FILE=str(tmp_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("logging.file: ")
    assert str(tmp_path) in line


def test_it_can_be_configured_again_and_a_mistake_changes_nothing(tmp_path):
    log, said = Log(), logging.getLogger("anybody")
    first, second = tmp_path / "first", tmp_path / "second"
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        log.configure(Logging(format="json", file=str(first)))
        said.info("one")
        said.debug("hush")
        with pytest.raises(SettingsError):
            log.configure(Logging(file=str(tmp_path)))
        said.info("two")
        first.rename(tmp_path / "moved")
        log.configure(Logging(format="json", file=str(first)))
        said.info("three")
        log.configure(Logging(format="pretty", file=str(second), level="debug"))
        said.debug("four")
    finally:
        log.close()
        root.setLevel(before[0])
    assert root.handlers == before[1]
    assert [line["event"] for line in lines_of(tmp_path / "moved")] == ["one", "two"]
    assert [line["event"] for line in lines_of(first)] == ["three"]
    assert "four" in second.read_text()


async def test_nobody_waits_while_the_log_is_set_up_anew_though_it_cannot_be_written(tmp_path, monkeypatch):
    """Neither for another level, which holds at once and costs no line, nor for a file that is opened again."""
    ours, theirs = os.pipe()
    monkeypatch.setattr("web.server_log.STDERR", theirs)
    log, said, root = Log(), logging.getLogger("anybody"), logging.getLogger()
    level = root.level
    try:
        log.configure(Logging(format="json"))
        said.info("x" * 2**17)  # more than a pipe holds
        first = await asyncio.to_thread(os.read, ours, 2**10)  # it is being written
        began = time.monotonic()
        log.adopt(Logging(format="json", level="debug"))
        said.debug("one")
        log.adopt(Logging(format="json", level="error"))
        said.info("hush")
        log.configure(Logging(format="json", level="info"))
        said.info("two")
        assert time.monotonic() - began < 0.5
        written = first
        while b'"one"' not in written or b'"two"' not in written:
            written += await asyncio.to_thread(os.read, ours, 2**16)
    finally:
        log.close()
        root.setLevel(level)
        os.close(ours)
        os.close(theirs)
    assert b"hush" not in written
    assert log.lost == 0


async def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path, directory):
    """Its pipe is full, and the server answers as before, and ends when it is told."""
    ours, theirs = os.pipe()
    with saying_to(theirs, tmp_path) as server:
        async with connected(server) as api:
            for _ in range(10):
                answers = await asyncio.gather(*(api.get("/health/live") for _ in range(100)))
                assert {answer.status for answer in answers} == {200}
        began = time.monotonic()
        assert await asyncio.to_thread(server.terminate) == 0
        assert time.monotonic() - began < 3
    os.close(ours)


async def test_of_too_many_lines_the_oldest_are_lost_and_it_is_told_how_many(monkeypatch):
    """While nobody reads; the others come in order once somebody does."""
    monkeypatch.setattr(lines, "LINES_MAX", 100)
    ours, theirs = os.pipe()
    log = Lines(FileIO(theirs, "wb"), lambda line: line, lambda lost: b"lost %d\n" % lost)
    log.put(b"x" * 2**17 + b"\n")  # more than a pipe holds
    written = b""
    while len(written) < 2**10:  # it is being written
        written += await asyncio.to_thread(os.read, ours, 2**10)
    for number in range(250):
        log.put(b"%d\n" % number)
    assert log.lost == 150
    while not written.endswith(b"\n249\n"):
        written += await asyncio.to_thread(os.read, ours, 2**16)
    log.close()
    os.close(ours)
    assert written.splitlines()[1:] == [b"lost 150", *(b"%d" % number for number in range(150, 250))]


async def test_a_log_whose_reader_has_gone_is_counted_as_lost():
    ours, theirs = os.pipe()
    os.close(ours)
    log = Lines(FileIO(theirs, "wb"), lambda line: line, lambda lost: b"")
    for _ in range(5):
        log.put(b"x\n")
    await until(lambda: log.lost == 5)
    log.close()
