"""What the contract allows is accepted up to the bound, and comes back as it was sent."""

import json
from urllib.parse import quote

import pytest

from tests.web.bad_values import EMOJI, MEBIBYTE
from tests.web.conftest import TASKS, raw, text_of, wire

ON_EVERY_RECORD = True

HOSTILE = [
    "'; drop table tasks; --",
    '"\\"\\\\u0000',
    "<script>alert(1)</script>&amp;",
    "a\r\nb\n\ndata: c\r\rd",
    "\x01\x02\x1b[31m\x7f\x85",
    "\u2028\u2029\ufeff\ufffe\uffff",
    "e\u0301 \u00e9 \u202eright to left\u202c \u200b",
    f"{EMOJI} \U0010ffff 👩‍👩‍👧‍👦",
    "%00 %ff ${HOME} {{7*7}} ../../etc/passwd",
    "null",
    "  space around  ",
    "1" * 30,
]
HOSTILE_NAMES = ["a b", "%41?c=d&e#f+g", f"ä/{EMOJI}/...", "'; drop table", "a\\b", "a,b;c", "\u202ea", "a=b&path=/c"]
DIRECTORIES = "/api/v1/work-directories"
FREE = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    0.1,
    1e308,
    5e-324,
    "",
    [],
    {},
    [None, [[]], {"": {"a": []}}],
    {"é\n": "\0"},
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_string_comes_back_exactly(api, directory, text):
    """In every field that holds one, in the claim, the stream, the list and the history."""
    sent = {"prompt": text, "tags": [text[:100]], "metadata": {text: [text]}}
    created = await api.create(directory, **sent)
    async with api.stream(directory, worker_id=text[:100]) as events:
        claimed = await events.task()
    progress = {"percent": 0, "message": text}
    assert (await api.tell(claimed, "heartbeat", progress=progress)).status == 200
    shown = await api.show(created)
    done = {"original_prompt": text, "result": {text: text}, "error_message": text, "status": "failed"}
    (await api.tell(claimed, "complete", **done)).data  # noqa: B018
    (listed,) = (await api.get(TASKS, work_directory=directory)).data["tasks"]
    assert listed == await api.show(created)
    for task in (created, claimed, shown, listed):
        assert {name: task[name] for name in sent} == sent
    assert (shown["worker_id"], shown["progress"]) == (text[:100], progress)
    assert (listed["result"], listed["error_message"]) == (done["result"], text)
    assert (await api.history(created))[-1]["details"]["error_message"] == text


@pytest.mark.parametrize("value", FREE, ids=repr)
async def test_free_json_comes_back_exactly(api, directory, value):
    task = await api.claimed(directory, metadata={"a": value})
    assert json.dumps(task["metadata"]) == json.dumps({"a": value})
    await api.tell(task, "complete", result=value)
    assert json.dumps((await api.show(task))["result"]) == json.dumps(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", EMOJI * 10_000),
        ("prompt", "x"),
        ("tags", [f"{number:03}" + EMOJI * 97 for number in range(50)]),
        ("tags", []),
        ("metadata", {"a": "x" * (65_536 - len('{"a":""}'))}),
        ("max_retries", 0),
        ("max_retries", 100),
        ("retry_delay_seconds", 0),
        ("retry_delay_seconds", 3600),
        ("timeout_seconds", 0.001),
        ("timeout_seconds", 31_536_000),
        ("auto_retry", True),
        ("expires_at", "9999-12-31T23:59:59.999Z"),
        ("depends_on", []),
        ("on_dependency_failure", "wait"),
        ("on_dependency_failure", "cancel"),
        ("on_dependency_failure", "run"),
    ],
)
async def test_a_value_at_its_bound_is_accepted(api, directory, field, value):
    task = await api.create(directory, **{field: value})
    assert (task[field], (await api.show(task))[field]) == (value, value)


@pytest.mark.parametrize("field", ["max_retries", "timeout_seconds", "run_at", "delay_seconds", "expires_at"])
async def test_null_says_the_same_as_nothing(api, directory, field):
    told, untold = await api.create(directory, **{field: None}), await api.create(directory)
    assert {name for name in told if told[name] != untold[name]} <= {
        *("task_id", "created_at", "updated_at", "available_at"),
    }


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("/", "/"),
        ("/a/./b//", "/a/b"),
        ("//a", "/a"),
        ("/a b/%41?c=d&e#f+g", "/a b/%41?c=d&e#f+g"),
        ("/ä/\N{PILE OF POO}/...", "/ä/\N{PILE OF POO}/..."),
        ("/" + EMOJI * 511, "/" + EMOJI * 511),
        ("C:\\app", "C:\\app"),
        ("c:/app//x/", "C:\\app\\x"),
    ],
)
async def test_a_path_is_kept_in_its_normal_form(api, directory, given, normal):
    """And every way to write it names the same directory."""
    created = await api.create(given)
    assert created["work_directory"] == normal
    assert (await api.next(given))["task_id"] == created["task_id"]
    created = await api.create(normal)
    claim = {"work_directories": [given, "/nobody"]}
    (claimed,) = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
    assert claimed["task_id"] == created["task_id"]
    assert created["task_id"] in {
        task["task_id"] for task in (await api.get(TASKS, work_directory=given)).data["tasks"]
    }


@pytest.mark.parametrize("at", ["2999-01-01T00:00:00Z", "2999-01-01t02:00:00.0009+02:00", "2998-12-31 23:00:00-01:00"])
async def test_a_time_may_be_written_in_any_zone(api, directory, at):
    task = await api.create(directory, run_at=at, expires_at=at)
    assert (task["available_at"], task["expires_at"]) == ("2999-01-01T00:00:00.000Z",) * 2


async def test_the_bounds_of_a_claim_are_accepted(api):
    directories = [f"/{'x' * 500}/{number}" for number in range(100)]
    claim = {"work_directories": directories, "limit": 100, "lease_seconds": 86_400, "worker_id": "x" * 100}
    claim["tags"] = [f"{number:0100}" for number in range(50)]
    assert (await api.post(f"{TASKS}/claim", claim)).data == {"tasks": []}


async def test_the_bounds_of_a_filter_are_accepted(api, directory):
    only = {"status": ["waiting", "working", "completed", "failed", "cancelled"], "priority": ["low", "medium", "high"]}
    only["work_directory"] = [directory, *(f"/{'x' * 500}/{number}" for number in range(99))]
    only |= {"tags": [f"{number:0100}" for number in range(50)], "tag_mode": "any", "q": "x" * 1000}
    only |= {"worker_id": [f"{number:0100}" for number in range(100)]}
    only |= {"created_after": "1970-01-01T00:00:00Z", "created_before": "9999-12-31T23:59:59.999Z"}
    told = (await api.post(f"{TASKS}/cancel", {"filter": only, "reason": EMOJI * 500})).data
    assert told == {"matched": 0, "changed": 0, "skipped": [], "skipped_count": 0}


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_string_is_edited_and_found_exactly(api, directory, text):
    task = f"{TASKS}/{(await api.create(directory))['task_id']}"
    edit = {"prompt": text, "tags": [text[:100]], "metadata": {text: [text]}}
    edited = (await api.call("PATCH", task, json=edit)).data
    assert {name: edited[name] for name in edit} == edit
    assert (await api.get(TASKS, work_directory=directory, q=text)).data["tasks"] == [edited]
    only = {"work_directory": directory, "q": text, "tags": text[:100]}
    assert (await api.post(f"{TASKS}/cancel", {"filter": only, "reason": text})).data["changed"] == 1
    cancelled = (await api.call("GET", f"{task}/history")).data["history"][-1]
    assert (cancelled["type"], cancelled["details"]["reason"]) == ("task.cancelled", text)


async def test_a_hundred_dependencies_are_accepted(api, directory):
    batch = [{"work_directory": directory, "prompt": "x"}] * 100
    ids = [task["task_id"] for task in (await api.post(f"{TASKS}/batch", {"tasks": batch})).data["tasks"]]
    task = await api.create(directory, depends_on=ids[::-1])
    assert (task["depends_on"], task["blocked_by"]) == (ids[::-1], ids[::-1])


@pytest.mark.parametrize("name", [*HOSTILE, EMOJI * 100, "x", "ref:", "ref:x", " "])
async def test_any_name_will_do_among_the_tasks_of_a_batch(api, directory, name):
    parent = {"work_directory": directory, "prompt": "x", "ref": name}
    child = {"work_directory": directory, "prompt": "x", "depends_on": [f"ref:{name}"], "ref": None}
    first, second = (await api.post(f"{TASKS}/batch", {"tasks": [child, parent]})).data["tasks"]
    assert (await api.show(first))["depends_on"] == [second["task_id"]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_working", 1),
        ("max_working", 100_000),
        ("max_working", None),
        ("paused", False),
        ("paused", True),
        ("paused_until", "9999-12-31T23:59:59.999Z"),
        ("paused_until", None),
        ("paused_reason", EMOJI * 500),
        ("paused_reason", ""),
        *(("paused_reason", text) for text in HOSTILE),
    ],
)
async def test_a_rule_at_its_bound_is_accepted(api, shared, directory, field, value):
    """And told as it was said, also where all directories are listed."""
    await api.create(directory)
    rules = {field: value} | ({"paused": True} if field.startswith("paused_") else {})
    told = (await raw(shared, text_of("PATCH", f"{DIRECTORIES}?path={directory}", rules))).data
    assert {name: told[name] for name in rules} == rules
    listed = (await api.get(DIRECTORIES)).data["work_directories"]
    (found,) = [view for view in listed if view["work_directory"] == directory]
    assert {name: found[name] for name in rules} == rules


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_a_rule_is_laid_down_for_the_very_directory_that_is_named(api, directory, name):
    created = await api.create(f"{directory}/{name}")
    told = (await api.post(f"{DIRECTORIES}/pause?path={quote(f'{directory}/{name}', safe='')}", {})).data
    assert (told["work_directory"], told["waiting"]) == (created["work_directory"], 1)
    assert await api.next(f"{directory}/{name}") is None


async def test_a_verb_about_a_directory_needs_no_body(shared, directory):
    async with wire(shared) as connection:
        for verb in ("pause", "resume", "drain"):
            await connection.send(text_of("POST", f"{DIRECTORIES}/{verb}?path={directory}"))
            told = (await connection.answer()).data
            assert (told["paused"], told["draining"]) == (verb == "pause", verb == "drain")


async def test_a_result_of_one_mebibyte_is_accepted(api, directory):
    task, result = await api.claimed(directory), "x" * (MEBIBYTE - 2)
    (await api.tell(task, "complete", result=result)).data  # noqa: B018
    assert (await api.show(task))["result"] == result


async def test_an_error_message_of_16_kibibytes_is_accepted(api, directory):
    task, message = await api.claimed(directory), EMOJI * 4096
    (await api.tell(task, "fail", error_message=message)).data  # noqa: B018
    assert (await api.show(task))["error_message"] == message


async def test_a_body_of_just_the_largest_size_is_accepted(api, directory):
    body = json.dumps({"work_directory": directory, "prompt": "x"}).encode()
    assert (await api.post(TASKS, body.ljust(16 * MEBIBYTE))).status == 201


@pytest.mark.parametrize("type_", [None, "application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_a_body_is_taken_as_json(api, directory, shared, type_):
    headers = {} if type_ is None else {"Content_Type": type_}
    async with wire(shared) as connection:
        await connection.send(text_of("POST", TASKS, {"work_directory": directory, "prompt": "x"}, **headers))
        assert (await connection.answer()).status == 201


async def test_a_body_may_come_in_chunks(api, directory, shared):
    content = json.dumps({"work_directory": directory, "prompt": EMOJI}, ensure_ascii=False).encode()
    async with wire(shared) as connection:
        await connection.send(text_of("POST", TASKS, Transfer_Encoding="chunked"))
        for place in range(len(content)):
            await connection.send(b"1\r\n%b\r\n" % content[place : place + 1])
        await connection.send(b"0\r\n\r\n")
        assert (await connection.answer()).data["prompt"] == EMOJI
