"""GET /api/v1/tasks: filters, search, sort, pages, and the whole list as a stream."""

import asyncio
import csv
import io
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from threading import current_thread, main_thread
from urllib.parse import quote

import pytest
from aiohttp import ClientPayloadError

from dispatcher.task import Task
from storage.sqlite import journal as sqlite
from storage.sqlite import lists as found_lists
from tests.conftest import ServerProcess
from tests.dispatcher.test_board import Desk
from tests.web.conftest import TASKS, Api, connected, text_of, until, wire
from tests.web.inside import inside
from web import export, lists, views
from web.negotiation import best
from web.views import WholeTask

ON_EVERY_RECORD = ON_ENCRYPTED_RECORD = True

CSV, NDJSON = "text/csv", "application/x-ndjson"
FORMS = ["application/json", CSV, NDJSON]
AS_IT_IS = {"Accept": NDJSON, "Accept-Encoding": "identity"}


async def ids(api, **query):
    return [task["task_id"] for task in (await api.get(TASKS, **query)).data["tasks"]]


async def walk(api, **query):
    """From page to page."""
    found, after = [], {}
    while True:
        page = (await api.get(TASKS, **query, **after)).data
        assert page["offset"] == len(found)
        assert page["page"] == len(found) // page["limit"] + 1
        found += [task["task_id"] for task in page["tasks"]]
        if page["next_cursor"] is None:
            assert page["total"] == len(found)
            return found
        after = {"cursor": page["next_cursor"]}


@pytest.fixture
async def crowd(api, directory):
    """Five tasks that differ in everything, by name."""
    made = {}
    made["done"] = await api.claimed(directory, prompt="Fix the Ärger", tags=["a", "b"], priority="high")
    await api.tell(made["done"], "complete", result={"n": 1})
    made["failed"] = await api.claimed(directory, prompt="fix it, 100% sure", tags=["a"], priority="low")
    await api.tell(made["failed"], "fail", error_message="no")
    await api.create(directory, prompt="Tidy up", tags=["b"])
    made["working"] = await api.next(directory, worker_id="ann")
    made["low"] = await api.create(directory, prompt="a_b or c", priority="low")
    made["urgent"] = await api.create(f"{directory}/sub", prompt='say "fix"', priority="high", tags=["a", "c"])
    return {name: task["task_id"] for name, task in made.items()}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "urgent low working failed done"),
        ({"status": "waiting"}, "urgent low"),
        ({"status": "completed,failed"}, "failed done"),
        ({"status": "cancelled"}, ""),
        ({"priority": "high"}, "urgent done"),
        ({"priority": "low,medium"}, "low working failed"),
        ({"tags": "a"}, "urgent failed done"),
        ({"tags": "a,b"}, "done"),
        ({"tags": "a,b", "tag_mode": "all"}, "done"),
        ({"tags": "b,c", "tag_mode": "any"}, "urgent working done"),
        ({"worker_id": "ann"}, "working"),
        ({"worker_id": "ann,bob"}, "working"),
        ({"worker_id": "bob"}, ""),
        ({"q": "fix"}, "urgent failed done"),
        ({"q": "FIX"}, "urgent failed done"),
        ({"q": "ÄRGER"}, "done"),
        ({"q": "x"}, "urgent failed done"),
        ({"q": "fix", "status": "waiting"}, "urgent"),
        ({"q": "fix", "tags": "a", "priority": "high,low", "status": "failed,completed"}, "failed done"),
        ({"sort": "created_at"}, "done failed working low urgent"),
        ({"sort": "priority"}, "done urgent working failed low"),
        ({"sort": "-priority"}, "low failed working urgent done"),
        ({"sort": "priority", "status": "waiting"}, "urgent low"),
        ({"sort": "-updated_at"}, "urgent low working failed done"),
        ({"sort": "updated_at"}, "done failed working low urgent"),
    ],
    ids=str,
)
async def test_filters_and_sorts(api, directory, crowd, query, expected):
    both = f"{directory},{directory}/sub"
    names = {task_id: name for name, task_id in crowd.items()}
    assert " ".join(names[task_id] for task_id in await ids(api, work_directory=both, **query)) == expected
    assert (await api.get(TASKS, work_directory=both, **query)).data["total"] == len(expected.split())
    assert [names[task_id] for task_id in await walk(api, work_directory=both, limit=2, **query)] == expected.split()


async def test_times_lie_outside(api, directory):
    made = []
    for _ in range(3):
        made.append(await api.create(directory))
        await asyncio.sleep(0.002)
    one, two, three = (task["created_at"] for task in made)
    for query, expected in (
        ({"created_after": one}, made[1:]),
        ({"created_before": three}, made[:2]),
        ({"created_after": one, "created_before": three}, [made[1]]),
        ({"created_after": two, "created_before": two}, []),
    ):
        found = await ids(api, work_directory=directory, sort="created_at", **query)
        assert found == [task["task_id"] for task in expected]
    offset = two.replace("Z", "+00:00")
    assert await ids(api, work_directory=directory, created_before=offset) == [made[0]["task_id"]]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "%",
            "_",
            "%%",
            "100%",
            "a_b",
            "*",
            '"',
            '""',
            "'",
            "' OR 1=1 --",
            "\\",
            "\\n",
            "(",
            ")",
            "NEAR(a b)",
            "a OR b",
        ),
        *(
            "a AND",
            "NOT",
            "prompt:a",
            "^a",
            "-a",
            "a*",
            "{a}",
            "+",
            ";",
            "\t",
            "\n",
            "🦊🦊🦊",
            "ß",
            "é",
            "\u202e",
            "\x7f",
            "  ",
        ),
        *("[[[", "]]]", "<script>", "$(ls)", "x" * 999, ",,,", '","', "null", "\\u0041", "null,null"),
    ],
    ids=ascii,
)
async def test_what_is_searched_for_means_itself(api, directory, text):
    """No sign has a meaning of its own; found is what holds the text, indexed or not yet, and nothing else."""
    holding = await api.create(directory, prompt=f"before{text}behind")
    await api.create(directory, prompt="beforebehind A a b or 100 percent")
    assert await ids(api, work_directory=directory, q=text) == [holding["task_id"]]
    assert (await api.get(TASKS, work_directory=directory, q=f"{text}?")).data["total"] == 0


async def test_a_search_finds_the_same_before_and_after_it_is_indexed(tmp_path: Path):
    server = ServerProcess(tmp_path).start()
    async with connected(server) as api:
        made = [(await api.create("/a", prompt=f"Straße number {number}"))["task_id"] for number in range(20)]

        def indexed():
            with server.opened("ro") as db:
                return db.execute("select arrival from prompts_indexed").fetchone() == (20,)

        for _ in range(2):
            assert sorted(await ids(api, q="STRASSE NUMBER 1")) == sorted([made[1], *made[10:]])
            await until(indexed)
    server.terminate()


BAD = {
    "status": ["", "done", "waiting,", "waiting,waiting", "WAITING", " waiting", "waiting;failed"],
    "work_directory": ["", "a", "/a/../b", "/a,/a/", ",".join(f"/{number}" for number in range(101)), "/" + "x" * 512],
    "priority": ["", "urgent", "high,high", "1", "High"],
    "tags": ["", "a,,b", "a,a", "x" * 101, "a%00b", ",".join(map(str, range(51)))],
    "tag_mode": ["", "some", "ALL"],
    "worker_id": ["", "a,,b", "a,a", "x" * 101, "a%00b"],
    "created_after": [
        "",
        "yesterday",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "1",
        "1969-01-01T00:00:00Z",
    ],
    "created_before": ["", "now", "12:00", "2026-13-01T00:00:00Z"],
    "q": ["", "x" * 1001, "a%00b", "%ff"],
    "sort": ["", "name", "+created_at", "--created_at", "created_at,priority", "CREATED_AT", "priority desc"],
    "limit": ["", "0", "-1", "1001", "1.5", "ten", "1e2", "true", "9" * 30],
    "offset": ["", "-1", "1.0", "x", "9" * 30],
    "cursor": ["", "x", "AAAA", "é", "x" * 501, "bnVsbA", "W10", "WzEsMiwzLDRd", "%00"],
    "colour": ["red"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
async def test_bad_parameters_are_named(api, name, value):
    path = f"{TASKS}?{name}={quote(value, safe='%')}" if "%" in value else f"{TASKS}?{name}={quote(value)}"
    answer = await api.call("GET", path)
    field = answer.faults()[0]
    assert field == name or ("," in value and field.startswith(f"{name}["))


async def test_tag_mode_and_repeated_parameters(api):
    assert (await api.get(TASKS, tag_mode="any")).faults() == ["tags"]
    assert (await api.call("GET", f"{TASKS}?q=a&q=b")).faults() == ["q"]
    assert (await api.call("GET", f"{TASKS}?limit=0&sort=x&status=y")).faults() == ["status", "sort", "limit"]


async def test_a_cursor_is_good_for_its_own_list_only(api, directory):
    """With another filter or sort, or changed by a single sign, it is refused."""
    for number in range(4):
        await api.create(directory, tags=[f"t{number}"])
    query = {"work_directory": f"{directory},/other", "status": "waiting,failed", "limit": 2}
    cursor = (await api.get(TASKS, **query)).data["next_cursor"]
    same = query | {"work_directory": f"/other,{directory}/", "status": "failed,waiting", "limit": 1}
    assert len(await ids(api, **same, cursor=cursor)) == 1
    for other in ({"status": "waiting"}, {"sort": "created_at"}, {"q": "a"}, {"tags": "t1"}, {"sort": "priority"}):
        assert (await api.get(TASKS, **(query | other), cursor=cursor)).faults() == ["cursor"]
    for place in range(len(cursor)):
        for sign in "Aa0_":
            changed = cursor[:place] + sign + cursor[place + 1 :]
            if changed != cursor:
                assert (await api.get(TASKS, **query, cursor=changed)).faults() == ["cursor"]
    assert (await api.get(TASKS, **query, cursor=cursor, offset=0)).faults() == ["cursor"]
    numbers = json.loads(urlsafe_b64decode(cursor + "=="))
    for forged in ([True, *numbers[1:]], [-1, *numbers[1:]], [2**64, *numbers[1:]], numbers[:3], {}, None, [[]] * 4):
        text = urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
        assert (await api.get(TASKS, **query, cursor=text)).faults() == ["cursor"]


async def test_a_search_is_not_begun_far_from_its_beginning(api, directory):
    """It would have to be searched through up to there; a cursor knows where it is."""
    most = (await api.get("/api/v1/limits")).data["limits"]["offset_of_a_search"]
    assert (await api.get(TASKS, q="a", offset=most + 1)).faults() == ["offset"]
    assert (await api.get(TASKS, q="a", offset=most)).status == 200
    assert (await api.get(TASKS, offset=most + 1)).status == 200


async def test_a_page_of_a_search_that_has_not_begun_begins_on_the_next(tmp_path: Path, monkeypatch):
    """What lies before it is never shown."""
    for name, value in {"SEARCH_SECONDS": 0, "COUNT_SECONDS": 0, "COUNTED_MIN": 1, "PROMPTS_AT_ONCE": 2}.items():
        monkeypatch.setattr(found_lists, name, value)
    async with inside(tmp_path) as (api, _, _):
        made = [(await api.create("/a", prompt="yes"))["task_id"] for _ in range(9)][::-1]
        page = (await api.get(TASKS, q="ye", offset=5, limit=3)).data
        assert (page["tasks"], page["offset"]) == ([], 5)
        seen = []
        while page["next_cursor"]:
            page = (await api.get(TASKS, q="ye", limit=3, cursor=page["next_cursor"])).data
            assert page["offset"] == 5 + len(seen)
            seen += [task["task_id"] for task in page["tasks"]]
    assert seen == made[5:]


async def test_a_cursor_outlives_what_comes_and_goes(api, directory):
    made = [(await api.create(directory))["task_id"] for _ in range(6)]
    page = (await api.get(TASKS, work_directory=directory, limit=2)).data
    await api.create(directory)
    for task_id in (made[4], made[3]):  # the last one given, and the next
        await api.post(f"{TASKS}/{task_id}/cancel", {})
        await api.call("DELETE", f"{TASKS}/{task_id}")
    rest = (await api.get(TASKS, work_directory=directory, limit=10, cursor=page["next_cursor"])).data
    assert [task["task_id"] for task in rest["tasks"]] == made[2::-1]
    assert (rest["total"], rest["offset"], rest["next_cursor"]) == (5, 2, None)


# The whole list


async def test_the_whole_list_as_lines_of_json(api, directory, crowd):
    listed = (await api.get(TASKS, work_directory=directory)).data["tasks"]
    answer = await api.call("GET", f"{TASKS}?work_directory={directory}", headers={"Accept": NDJSON})
    assert (answer.status, answer.headers["Content-Type"]) == (200, f"{NDJSON}; charset=utf-8")
    assert [json.loads(line) for line in answer.content.splitlines()] == listed
    assert answer.content.endswith(b"\n")


async def test_the_whole_list_as_csv(api, directory):
    """Every field of a task; texts as they are, whatever they hold, and JSON where it is no text or number."""
    prompt = '=1+1, "quoted"\r\nand; a second\nline 🦊'
    task = await api.claimed(directory, prompt=prompt, tags=["a,b", 'c"d'], metadata={"k": [1, None]})
    await api.tell(task, "complete", result={"text": "ü\n"})
    await api.create(directory, prompt="plain", auto_retry=True)
    answer = await api.call("GET", f"{TASKS}?work_directory={directory}&sort=created_at", headers={"Accept": CSV})
    assert (answer.status, answer.headers["Content-Type"]) == (200, f"{CSV}; charset=utf-8")
    assert answer.content.count(b"\r\n") == 3 + 1
    first, second = csv.DictReader(io.StringIO(answer.content.decode(), newline=""), strict=True)
    for row, listed in zip(
        (second, first), (await api.get(TASKS, work_directory=directory)).data["tasks"], strict=True
    ):
        assert list(row) == list(listed)
        for name, value in listed.items():
            if value is None or isinstance(value, str):
                assert row[name] == (value or "")
            else:
                assert json.loads(row[name]) == value
    assert (first["prompt"], first["result"]) == (prompt, '{"text":"ü\\n"}')


@pytest.mark.parametrize("accept", [CSV, NDJSON])
async def test_an_empty_list_is_a_stream_too(api, accept):
    answer = await api.call("GET", f"{TASKS}?tags=nobody-bears-this", headers={"Accept": accept})
    assert answer.status == 200
    assert len(answer.content.splitlines()) == (accept == CSV)


@pytest.mark.parametrize("accept", [CSV, NDJSON])
async def test_the_whole_list_has_no_pages(api, accept):
    path = f"{TASKS}?limit=1&offset=0&status=waiting"
    assert (await api.call("GET", path, headers={"Accept": accept})).faults() == ["limit", "offset"]
    assert (await api.call("GET", f"{TASKS}?cursor=x", headers={"Accept": accept})).faults() == ["cursor"]
    assert (await api.call("GET", f"{TASKS}?sort=x", headers={"Accept": accept})).faults() == ["sort"]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        *((None, 0), ("", 0), ("*/*", 0), ("application/*", 0), ("application/json", 0), ("text/*", 1), (CSV, 1)),
        *((NDJSON, 2), ("TEXT/CSV", 1), ("text/csv;charset=utf-8", 1), ("text/csv;header=present;q=0.5", 1)),
        *(("text/html,application/xhtml+xml,*/*;q=0.8", 0), ("text/csv;q=0.5, application/json;q=0.4", 1)),
        *(("text/csv, */*;q=0.1", 1), ("application/json;q=0, */*", 1), ("text/csv, application/json", 0)),
        *(("application/json;q=0, text/csv;q=0, */*", 2), (f"text/html, {NDJSON};q=0.001", 2)),
        *(("text/html", None), ("text/plain, image/*", None), ("*/*;q=0", None), ("nonsense", None)),
        *(("application/json;q=0", None), ("*/csv", None), (",,", None)),
    ],
)
async def test_the_form_is_what_the_caller_likes_best(api, accept, form):
    assert best(accept or "", tuple(FORMS)) == (None if form is None else FORMS[form])
    headers = {} if accept is None else {"Accept": accept}
    answer = await api.call("GET", f"{TASKS}?tags=nobody-bears-this", headers=headers)
    if form is None:
        assert answer.refused(406, "NOT_ACCEPTABLE") == {"offered": FORMS}
    else:
        assert answer.headers["Content-Type"].partition(";")[0] == FORMS[form]


@pytest.mark.parametrize("accept", [CSV, NDJSON])
async def test_of_an_export_there_is_a_head_without_a_body(shared, api, directory, accept):
    """Nothing comes before the answer to the next request."""
    await api.create(directory)
    async with wire(shared) as connection:
        for coding in ("identity", "gzip"):
            await connection.send(text_of("HEAD", TASKS, Accept=accept, Accept_Encoding=coding))
            status, headers = await connection.head()
            assert (status, headers["Content-Type"]) == (200, f"{accept}; charset=utf-8")
            assert headers["Vary"] == "Accept, Accept-Encoding"
            await connection.send(text_of("GET", "/health/live"))
            assert (await connection.answer()).json == {"status": "alive"}


async def test_the_head_of_an_export_reads_nothing(tmp_path: Path, monkeypatch):
    async with inside(tmp_path) as (api, service, _):
        monkeypatch.setattr(service.record, "page", None)
        assert (await api.call("HEAD", TASKS, headers={"Accept": CSV})).status == 200


@pytest.mark.parametrize(
    ("accepted", "coding"), [("gzip", "gzip"), ("deflate;q=1, gzip;q=0.5", "deflate"), ("br", None)]
)
@pytest.mark.parametrize("accept", [CSV, NDJSON])
async def test_an_export_is_compressed_if_the_caller_takes_that(shared, api, directory, accept, accepted, coding):
    for _ in range(3):
        await api.create(directory, prompt="x" * 5000)
    path = f"{TASKS}?work_directory={directory}"
    plain = await api.call("GET", path, headers={"Accept": accept, "Accept-Encoding": "identity"})
    async with wire(shared) as connection:
        await connection.send(text_of("GET", path, Accept=accept, Accept_Encoding=accepted, Connection="close"))
        status, headers = await connection.head()
        sent = await connection.rest()
    assert (status, headers.get("Content-Encoding")) == (200, coding)
    assert headers["Vary"] == plain.headers["Vary"] == "Accept, Accept-Encoding"
    assert (len(sent) < 5000) == (coding is not None)
    packed = await api.call("GET", path, headers={"Accept": accept, "Accept-Encoding": accepted})
    assert packed.content == plain.content  # the client has unpacked it


@pytest.mark.parametrize("accept", FORMS)
async def test_many_tasks_are_written_out_while_others_are_served(tmp_path: Path, monkeypatch, accept):
    threads = set()

    def whole(task: Task) -> WholeTask:
        threads.add(current_thread())
        return views.whole(task)

    for module in (export, lists):
        monkeypatch.setattr(module, "whole", whole)
    async with inside(tmp_path) as (api, _, _):
        await api.create("/a")
        assert (await api.call("GET", TASKS, headers={"Accept": accept})).status == 200
    assert threads
    assert main_thread() not in threads


# Long lists

MANY, PROMPT = 20_000, "x" * 2000


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory):
    """A server with many tasks, whose readers must not be slow."""
    server = ServerProcess(tmp_path_factory.mktemp("long"), environ={"APP_SERVER_REQUEST_TIMEOUT_SECONDS": "2"}).start()
    server.terminate()
    desk = Desk()
    task = desk.create(prompt=PROMPT)
    with server.opened() as db:
        names = ", ".join(sqlite.TASKS.columns)
        places = {"arrival": "n", "task_id": "'task-' || n"}
        picked = ", ".join(places.get(name, "?") for name in sqlite.TASKS.columns)
        row = [
            value
            for name, value in zip(sqlite.TASKS.columns, sqlite.TASKS.row(task), strict=True)
            if name not in places
        ]
        numbers = f"with recursive many (n) as (select 1 union all select n + 1 from many where n < {MANY})"
        db.execute(f"insert into tasks ({names}) {numbers} select {picked} from many", row)
        db.execute("update last_numbers set arrival = ?", (MANY,))
    server.start()
    yield server
    server.terminate()


def resident_kb(server: ServerProcess) -> int:
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no such process")


async def test_an_export_needs_no_memory_for_what_it_has_sent(long):
    async with connected(long) as api:
        assert len(await ids(api, limit=1000)) == 1000
        before, most, size, lines = resident_kb(long), 0, 0, 0
        async with api.session.get(f"{api.url}{TASKS}", headers=AS_IT_IS) as response:
            async for chunk in response.content.iter_chunked(1 << 20):
                size, lines = size + len(chunk), lines + chunk.count(b"\n")
                most = max(most, resident_kb(long))
    assert lines == MANY
    assert size > 50_000_000
    assert most - before < 15_000


async def test_a_reader_that_stops_reading_is_cut_off(long):
    async with connected(long) as api, wire(long) as connection:
        await connection.send(text_of("GET", TASKS, Accept=NDJSON))
        await connection.head()
        await api.busy_with(0)
        body = await connection.rest()
        assert not body.endswith(b"0\r\n\r\n")


async def test_a_reader_that_leaves_stops_the_export(long):
    async with connected(long) as api:
        async with wire(long) as connection:
            await connection.send(text_of("GET", TASKS, Accept=CSV))
            await connection.head()
            await connection.leave(abruptly=True)
        await api.busy_with(0)
        assert len(await ids(api, limit=1)) == 1


async def test_a_server_that_stops_breaks_the_export_off(long):
    """So that nobody takes a part for the whole."""
    async with connected(long) as api, api.session.get(f"{api.url}{TASKS}", headers=AS_IT_IS) as response:
        assert (await response.content.readline()).endswith(b"\n")
        await asyncio.to_thread(long.terminate)
        with pytest.raises((ClientPayloadError, ConnectionError)):
            await response.read()
    long.start()


async def test_a_list_by_change_ends_although_tasks_go_on_changing(tmp_path: Path):
    """What changes while it is sent would stand at its end again and again."""
    server = ServerProcess(tmp_path).start()
    async with connected(server) as api:
        for number in range(0, 3000, 1000):
            body = {"work_directory": "/a", "prompt": PROMPT, "tags": [str(number)]}
            await api.post(f"{TASKS}/batch", {"tasks": [body] * 1000})
        path = f"{TASKS}?sort=updated_at"
        async with api.session.get(f"{api.url}{path}", headers=AS_IT_IS) as response:
            seen = [json.loads(await response.content.readline())["task_id"]]
            await api.call("PATCH", f"{TASKS}/{seen[0]}", data=b'{"tags":["changed"]}')
            seen += [json.loads(line)["task_id"] async for line in response.content]
        assert len(seen) == len(set(seen))
    server.terminate()


async def test_health_and_lists_agree(api: Api, directory):
    await api.create(directory)
    total = (await api.get(TASKS, status="waiting", limit=1)).data["total"]
    assert (await api.get("/health")).json["metrics"]["queue_size"] == total
