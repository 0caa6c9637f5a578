"""What the attempts at a task print: who may add to it, how it is read, and how it is followed."""

import asyncio
from contextlib import asynccontextmanager, closing
from sqlite3 import connect

import pytest

from task_orchestrator.sse import EventParser
from tests.conftest import ServerProcess
from tests.web.conftest import PATIENCE_SECONDS, TASKS, connected, on_record, text_of, until, wire
from tests.web.inside import inside

ON_EVERY_RECORD = ON_ENCRYPTED_RECORD = True

LINE_BYTES_MAX = 8192


def lines_path(task):
    return f"{TASKS}/{task['task_id']}/logs"


async def printed(api, task, *lines):
    return (await api.tell(task, "logs", lines=list(lines))).data


async def log_of(api, task, **query):
    return (await api.get(lines_path(task), **query)).data


def texts(lines):
    return [line["line"] for line in lines]


class Following:
    """The events of a followed log: type, data and id."""

    def __init__(self, response) -> None:
        self.response, self._parser, self._ready = response, EventParser(), []

    async def next(self):
        """None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._ready:
                chunk = await self.response.content.readany()
                if not chunk:
                    return None
                self._ready += self._parser.feed(chunk)
        return self._ready.pop(0)

    async def lines(self, number):
        """So many lines, each under its number."""
        events = [await self.next() for _ in range(number)]
        assert all((event.type, event.id) == ("log", str(event.json()["number"])) for event in events), events
        return [event.json() for event in events]

    async def end(self):
        event = await self.next()
        assert event.type == "end", event
        assert await self.next() is None
        return event.json()


@asynccontextmanager
async def following(api, task, headers=None, **query):
    params = {"follow": "true", **{name: str(value) for name, value in query.items()}}
    async with api.session.get(api.url + lines_path(task), params=params, headers=headers) as response:
        assert response.status == 200, await response.read()
        yield Following(response)


async def test_who_does_not_take_what_was_asked_for_is_told(api, directory):
    """A stream for who follows, else a page; before the log is looked for."""
    task = await api.claimed(directory)
    takes = {"application/json": (406, 200), "text/event-stream": (200, 406), "*/*": (200, 200), "text/csv": (406, 406)}
    for accept, statuses in takes.items():
        for follow, status in zip(("true", "false"), statuses, strict=True):
            path = f"{api.url}{lines_path(task)}?follow={follow}"
            async with api.session.get(path, headers={"Accept": accept}) as response:
                assert response.status == status, (accept, follow)
                if status == 406 and accept != "text/csv":
                    (offered,) = (await response.json())["error"]["details"]["offered"]
                    assert offered == ("text/event-stream" if follow == "true" else "application/json")


# Adding to it


async def test_lines_are_numbered_over_all_attempts(api, directory):
    first = await api.claimed(directory)
    said = await printed(api, first, "one", "")
    assert said == {"task_id": first["task_id"], "accepted": 2, "last_number": 2}
    await api.tell(first, "release")
    second = await api.next(directory)
    assert (await printed(api, second, "\u00fcber \U0001f4a9"))["last_number"] == 3
    log = await log_of(api, first)
    assert log.keys() == {"task_id", "lines", "next_after"}
    assert (log["task_id"], log["next_after"]) == (first["task_id"], 3)
    assert [(line["number"], line["attempt"], line["line"]) for line in log["lines"]] == [
        (1, 1, "one"),
        (2, 1, ""),
        (3, 2, "\u00fcber \U0001f4a9"),
    ]
    assert all(line.keys() == {"number", "attempt", "at", "line"} for line in log["lines"])
    assert [line["at"] for line in log["lines"]] == sorted(line["at"] for line in log["lines"])


async def test_it_changes_nothing_but_the_log(api, directory):
    """No version, no line of history, and no more time for the lease."""
    task = await api.claimed(directory, lease_seconds=60)
    before, history = await api.show(task), await api.history(task)
    await printed(api, task, "one")
    assert await api.show(task) == before
    assert await api.history(task) == history


async def test_only_who_holds_the_lease_adds_to_it(api, directory):
    """A lost lease is refused with what became of it."""
    first = await api.claimed(directory)
    path = lines_path(first)
    await printed(api, first, "mine")
    unknown = await api.post(path, {"lines": ["no"], "lease_token": "unknown"})
    assert unknown.refused(409, "LEASE_LOST")["reason"] == "unknown_token"
    await api.tell(first, "release")
    released = await api.tell(first, "logs", lines=["no"])
    assert released.refused(409, "LEASE_LOST") == {"reason": "released", "status": "waiting", "attempt": 1}
    assert (await api.post(path, {"lines": ["no"]})).refused(409, "INVALID_STATE")["status"] == "waiting"
    second = await api.next(directory)
    assert (await api.tell(first, "logs", lines=["no"])).refused(409, "LEASE_LOST")["reason"] == "reassigned"
    await api.tell(second, "complete")
    assert (await api.tell(second, "logs", lines=["no"])).refused(409, "LEASE_LOST")["reason"] == "finished"
    assert texts((await log_of(api, first))["lines"]) == ["mine"]


async def test_without_a_token_it_is_believed_unless_the_server_wants_one(api, directory, tmp_path, own_record):
    task = await api.claimed(directory)
    assert (await api.post(lines_path(task), {"lines": ["a"]})).data["accepted"] == 1
    strict = ServerProcess(tmp_path, environ={"APP_TASK_REQUIRE_LEASE_TOKEN": "true"}, record=own_record).start()
    async with connected(strict) as caller:
        task = await caller.claimed(directory)
        assert (await caller.post(lines_path(task), {"lines": ["a"]})).faults() == ["lease_token"]
        assert (await printed(caller, task, "a"))["accepted"] == 1
    assert strict.terminate() == 0


@pytest.mark.parametrize("verb", ["get", "post"])
async def test_there_is_no_log_of_a_task_that_does_not_exist(api, verb):
    path = f"{TASKS}/nobody/logs"
    answer = await (api.get(path) if verb == "get" else api.post(path, {"lines": ["a"]}))
    answer.refused(404, "TASK_NOT_FOUND")
    (await api.get(path, follow="true")).refused(404, "TASK_NOT_FOUND")


async def test_a_call_takes_a_thousand_lines_of_8_kib(api, directory):
    task = await api.claimed(directory)
    longest, widest = "x" * LINE_BYTES_MAX, "\u00e9" * (LINE_BYTES_MAX // 2)
    assert (await printed(api, task, *[longest] * 999, widest))["last_number"] == 1000
    assert texts((await log_of(api, task, after=998))["lines"]) == [longest, widest]
    assert len((await log_of(api, task))["lines"]) == 1000
    for too_long in (longest + "x", widest + "x"):
        assert (await api.tell(task, "logs", lines=[too_long])).faults() == ["lines[0]"]
    assert (await api.tell(task, "logs", lines=["x"] * 1001)).faults() == ["lines"]


async def test_a_task_has_a_hundred_thousand_lines_and_no_more(api, directory):
    """The call that would go beyond is refused whole; the task goes on."""
    task = await api.claimed(directory)
    for _ in range(99):
        await printed(api, task, *["x"] * 1000)
    await printed(api, task, *["x"] * 999)
    full = (await api.tell(task, "logs", lines=["y", "y"])).refused(413, "PAYLOAD_TOO_LARGE")
    assert full == {"log_lines_max": 100_000, "log_lines": 99_999, "log_bytes_max": 16 * 2**20, "log_bytes": 99_999}
    assert (await printed(api, task, "last"))["last_number"] == 100_000
    (await api.tell(task, "logs", lines=["y"])).refused(413, "PAYLOAD_TOO_LARGE")
    assert texts((await log_of(api, task, after=99_998))["lines"]) == ["x", "last"]
    assert (await api.tell(task, "complete")).data["status"] == "completed"


async def test_it_is_there_after_a_crash_and_gone_with_its_task(server):
    async with connected(server) as api:
        task = await api.claimed("/w")
        await printed(api, task, "a", "b")
    server.kill()
    server.start()
    async with connected(server) as api:
        assert (await printed(api, task, "c"))["last_number"] == 3
        assert texts((await log_of(api, task))["lines"]) == ["a", "b", "c"]
        await api.tell(task, "complete")
        assert (await api.call("DELETE", f"{TASKS}/{task['task_id']}")).status == 200
        (await api.get(lines_path(task))).refused(404, "TASK_NOT_FOUND")
        await until(lambda: on_record(server, "select 'left' from task_logs limit 1") == [])


async def test_on_a_workers_stream_it_is_a_sign_of_life(api, directory):
    """Else the stream would end with the second lease in a row that nobody renewed."""
    await api.create(directory)
    async with api.stream(directory, lease_seconds=1) as events:
        await events.task()
        assert (await events.next())[0] == "cancel"
        await printed(api, await events.task(), "still here")
        assert (await events.next())[0] == "cancel"
        assert (await events.task())["attempt"] == 3


# Reading it


async def test_pages_follow_each_other_until_there_is_nothing_more(api, directory):
    task = await api.claimed(directory)
    assert await log_of(api, task) == {"task_id": task["task_id"], "lines": [], "next_after": 0}
    await printed(api, task, *map(str, range(1, 8)))
    after, read = 0, []
    while (page := await log_of(api, task, after=after, limit=3))["lines"]:
        assert len(page["lines"]) == min(3, 7 - after)
        read += texts(page["lines"])
        after = page["next_after"]
    assert (read, page["next_after"]) == (list("1234567"), 7)
    assert (await log_of(api, task, after=2**63 - 1))["lines"] == []


async def test_one_attempt_can_be_read_alone(api, directory):
    for attempt in (1, 2, 3):
        if attempt == 1:
            task = await api.claimed(directory)
        else:
            task = await api.next(directory)
        await printed(api, task, f"{attempt}a", f"{attempt}b")
        await api.tell(task, "release")
    assert texts((await log_of(api, task, attempt=2))["lines"]) == ["2a", "2b"]
    page = await log_of(api, task, attempt=2, limit=1)
    assert (texts(page["lines"]), page["next_after"]) == (["2a"], 3)
    assert texts((await log_of(api, task, attempt=2, after=3))["lines"]) == ["2b"]
    assert (await log_of(api, task, attempt=4))["lines"] == []


# Following it


async def test_a_follower_is_told_what_was_printed_and_what_is_printed(api, directory):
    task = await api.claimed(directory)
    await printed(api, task, "a", "b")
    async with following(api, task) as log:
        assert log.response.headers["Content-Type"].split(";")[0] == "text/event-stream"
        assert texts(await log.lines(2)) == ["a", "b"]
        for number in range(3, 6):
            await printed(api, task, f"{number}", f"and {number}")
            assert texts(await log.lines(2)) == [f"{number}", f"and {number}"]
        await api.tell(task, "complete")
        assert await log.end() == {"task_id": task["task_id"], "status": "completed"}


async def test_a_follower_stays_over_retries_until_the_task_is_final(api, directory):
    first = await api.claimed(directory)
    async with following(api, first) as log:
        await printed(api, first, "try")
        await api.tell(first, "fail", error_message="no", retryable=True, retry_after_seconds=0)
        second = await api.next(directory, wait_seconds=5)
        await printed(api, second, "try again")
        await api.tell(second, "release")
        assert [(line["attempt"], line["line"]) for line in await log.lines(2)] == [(1, "try"), (2, "try again")]
        await api.post(f"{TASKS}/{first['task_id']}/cancel", {})
        assert (await log.end())["status"] == "cancelled"


async def test_what_is_over_is_told_and_ended_at_once(api, directory):
    """However long it is: a stretch at a time, in order."""
    task = await api.claimed(directory)
    await printed(api, task, *map(str, range(1000)))
    await api.tell(task, "fail", error_message="no")
    async with following(api, task) as log:
        assert texts(await log.lines(1000)) == list(map(str, range(1000)))
        assert (await log.end())["status"] == "failed"


async def test_a_follower_of_one_attempt_is_sent_away_with_it(api, directory):
    task = await api.claimed(directory)
    async with following(api, task, attempt=1) as first, following(api, task, attempt=2) as second:
        await printed(api, task, "1")
        await api.tell(task, "release")
        assert texts(await first.lines(1)) == ["1"]
        assert (await first.end())["status"] == "waiting"
        task = await api.next(directory)
        await printed(api, task, "2")
        assert texts(await second.lines(1)) == ["2"]
        await api.tell(task, "complete")
        assert (await second.end())["status"] == "completed"
    async with following(api, task, attempt=3) as none:
        assert (await none.end())["status"] == "completed"


async def test_a_reader_that_comes_again_goes_on_where_it_was(api, directory):
    """What it says it has had counts more than its URL."""
    task = await api.claimed(directory)
    await printed(api, task, *"abcd")
    async with following(api, task, after=2) as log:
        assert texts(await log.lines(2)) == ["c", "d"]
    async with following(api, task, {"Last-Event-ID": "3"}, after=1) as log:
        assert texts(await log.lines(1)) == ["d"]
        await printed(api, task, "e")
        assert texts(await log.lines(1)) == ["e"]


@pytest.mark.parametrize("given", ["x", "-1", "1.0", "1 2", "+1", "0x1", "\u0663", "9" * 19, "null"])
async def test_an_event_id_that_was_never_given_is_refused(api, directory, given):
    task = await api.claimed(directory)
    headers = {"Last-Event-ID": given}
    for query in ("?follow=true", ""):
        assert (await api.call("GET", lines_path(task) + query, headers=headers)).faults() == ["Last-Event-ID"]


async def test_a_page_begins_behind_the_last_event_too_and_an_empty_one_says_nothing(api, directory):
    task = await api.claimed(directory)
    await printed(api, task, "a", "b", "c")
    for given, expected in (("2", ["c"]), ("3", []), ("", ["b", "c"])):
        page = (await api.call("GET", f"{lines_path(task)}?after=1", headers={"Last-Event-ID": given})).data
        assert (texts(page["lines"]), page["next_after"]) == (expected, 3)


async def test_a_limit_is_for_pages(api, directory):
    task = await api.claimed(directory)
    assert (await api.get(lines_path(task), follow="true", limit=5)).faults() == ["limit"]
    assert (await api.get(lines_path(task), follow="false", limit=5)).status == 200


async def test_a_task_prints_16_mib_and_no_more(api, directory):
    """The call that would go beyond is refused whole; the task goes on."""
    task = await api.claimed(directory)
    for _ in range(2):
        await printed(api, task, *["x" * LINE_BYTES_MAX] * 1000)
    full = (await api.tell(task, "logs", lines=["x" * LINE_BYTES_MAX] * 49)).refused(413, "PAYLOAD_TOO_LARGE")
    assert full["log_bytes"] + 48 * LINE_BYTES_MAX == full["log_bytes_max"] == 16 * 2**20
    assert (await printed(api, task, *["x" * LINE_BYTES_MAX] * 48))["last_number"] == 2048
    (await api.tell(task, "logs", lines=["y"])).refused(413, "PAYLOAD_TOO_LARGE")
    assert (await api.tell(task, "complete")).data["status"] == "completed"


async def test_the_log_of_a_deleted_task_is_removed_behind_it(tmp_path, monkeypatch):
    """Nobody sees it meanwhile, and what is left when the server ends is removed after its next start."""
    monkeypatch.setattr("storage.sqlite.chores.LATER_SECONDS", 3600)
    query = "select (select count(*) from task_logs), (select count(*) from logs_left)"

    def stored():
        with closing(connect(tmp_path / "tasks.db")) as db:
            return db.execute(query).fetchone()

    async with inside(tmp_path) as (api, *_):
        task, other = await api.claimed("/w"), await api.claimed("/w")
        await printed(api, task, *["x"] * 1000)
        await printed(api, other, "stays")
        await api.tell(task, "complete")
        assert (await api.call("DELETE", f"{TASKS}/{task['task_id']}")).status == 200
        assert stored() == (1001, 1)
        for follow in ("true", "false"):
            (await api.get(lines_path(task), follow=follow)).refused(404, "TASK_NOT_FOUND")
    monkeypatch.setattr("storage.sqlite.chores.LATER_SECONDS", 0)
    async with inside(tmp_path) as (api, *_):
        await until(lambda: stored() == (1, 0))
        await api.tell(other, "complete")
        await api.call("DELETE", f"{TASKS}/{other['task_id']}")
        await until(lambda: stored() == (0, 0))


async def test_many_follow_what_many_calls_print(api, directory):
    """Everybody hears every line once and in order, whenever they came."""
    task = await api.claimed(directory)

    async def follow():
        async with following(api, task) as log:
            heard = []
            while (event := await log.next()).type == "log":
                heard.append((event.json()["number"], event.json()["line"]))
            return heard

    readers = []
    for number in range(60):
        if number % 10 == 0:
            readers.append(asyncio.create_task(follow()))
        await asyncio.gather(*(printed(api, task, f"{number} {part}", "next") for part in range(4)))
    await api.tell(task, "complete")
    log = [(line["number"], line["line"]) for line in (await log_of(api, task))["lines"]]
    assert len(log) == 60 * 4 * 2
    assert [line for _, line in log][1::2] == ["next"] * 240
    assert all(heard == log for heard in await asyncio.gather(*readers))


async def test_a_reader_that_stops_reading_is_cut_off(tmp_path, own_record):
    """And nobody else notices."""
    server = ServerProcess(tmp_path, environ={"APP_SERVER_REQUEST_TIMEOUT_SECONDS": "0.5"}, record=own_record).start()
    async with connected(server) as api, wire(server) as reader:
        task = await api.claimed("/w")
        await reader.send(text_of("GET", f"{lines_path(task)}?follow=true"))
        await reader.head()
        await api.busy_with(1)
        for _ in range(2):
            await printed(api, task, *["x" * LINE_BYTES_MAX] * 1000)
        await api.busy_with(0)
        assert (await log_of(api, task, after=1999))["next_after"] == 2000
    assert server.terminate() == 0


async def test_a_follower_does_not_hold_up_the_end_of_the_server(server):
    """It is not told that there is nothing more, for there may be: it comes again."""
    async with connected(server) as api:
        task = await api.claimed("/w")
        await printed(api, task, "a")
        async with following(api, task) as log:
            await log.lines(1)
            assert await asyncio.to_thread(server.terminate) == 0
            assert await log.next() is None


async def test_a_reader_that_leaves_is_noticed(api, directory):
    task = await api.claimed(directory)
    async with following(api, task):
        await until(lambda: _busy(api))
    await api.busy_with(0)


async def _busy(api):
    return await api.open_requests() == 1


async def test_a_line_cannot_break_out_of_its_event(api, directory):
    task = await api.claimed(directory)
    hostile = ["a\nevent: end\ndata: {}\n\n", "\r\n\r\n", "id: 99", "\u2028", "</script>", "\x01\x7f", ": ping"]
    await printed(api, task, *hostile)
    await api.tell(task, "complete")
    async with following(api, task) as log:
        assert texts(await log.lines(len(hostile))) == hostile
        await log.end()
    assert texts((await log_of(api, task))["lines"]) == hostile
