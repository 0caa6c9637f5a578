"""Secrets are hidden, those that look so and those we know: in logs, in refusals and, if wanted, in payloads."""

import asyncio
import json
import logging
import time
from contextlib import asynccontextmanager

import pytest
import re2
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st

from tests.web.conftest import TASKS, Api, Events, until
from tests.web.inside import inside
from web.access.patterns import MARKED, SAID, SHAPES
from web.access.redaction import HIDDEN, Redaction, redaction_of
from web.codec import encode
from web.server_log import Log
from web.settings import Logging, SettingsError
from web.sources import gather, settings_of

pytestmark = pytest.mark.once

ADMIN = "admin-key-of-this-test"
ANTHROPIC = "sk-ant-api03-" + "aB3_" * 20
AWS = "AKIA" + "ABCDEFGH12345678"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq83vEjRWeJq83vEj\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "our own key": "tok_" + "aZ09_-xY" * 5 + "abc",
    "AWS": AWS,
    "GitHub": "ghp_" + "a1B2" * 9,
    "GitHub, fine-grained": "github_pat_" + "11ABCDEFG0_" + "a1B2" * 10,
    "GitLab": "glpat-" + "x9_-" * 5,
    "Slack": "xoxb-123456789012-abcdefABCDEF",
    "Google": "AIza" + "Sy_-x" * 7,
    "Stripe": "sk_live_" + "a1B2" * 6,
    "Anthropic": ANTHROPIC,
    "OpenAI": "sk-proj-" + "a1B2" * 12,
    "a token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl",
    "Hugging Face": "hf_" + "aB" * 17,
    "a private key": PEM,
    "a private key that is cut off": PEM[:60],
}
MARKED_SECRETS = {
    "password=hunter2": "hunter2",
    "DB_PASSWORD='hunter2 with spaces'": "hunter2 with spaces",
    "token: abcdef123456": "abcdef123456",
    '{"api_key": "abc def"}': "abc def",
    '{\\"apiKey\\":\\"abcdef\\"}': "abcdef",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "Authorization: Bearer abcdefghijkl": "abcdefghijkl",
    "curl -H 'authorization: Basic dXNlcjpwYXNz'": "dXNlcjpwYXNz",
    "postgresql://app:s3cr%40t@db:5432/x": "s3cr%40t",
    "https://:s3cret@example.org/": "s3cret",
}
HARMLESS = [
    "Fix the tokenizer; the password page shows 12 tokens: 34",
    "See https://example.org:8080/a@b and mail ann@example.org",
    "task sk-1, ask-me-anything-about-it, max_tokens: 4096, a secret garden",
    "0191d2f0-7c3e-7b8a-9c1d-2e3f4a5b6c7d e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "def login(user, password): return check(user)",
]


@pytest.mark.parametrize("kind", [*SECRETS])
def test_what_looks_like_a_secret_is_hidden(kind):
    secret = SECRETS[kind]
    assert Redaction().text(f"Ändere {secret}") == f"Ändere {HIDDEN}"
    assert Redaction().message(f"no task {secret!r}").count(HIDDEN) == 1


@pytest.mark.parametrize("text", [*MARKED_SECRETS])
def test_what_is_named_a_secret_is_hidden_and_its_name_is_not(text):
    assert Redaction().text(f"é {text} é") == f"é {text.replace(MARKED_SECRETS[text], HIDDEN)} é"


@pytest.mark.parametrize("text", HARMLESS)
def test_the_rest_stays(text):
    assert Redaction().text(text) == text


def test_a_result_is_hidden_inside_its_texts():
    result = {"password": "x", "n": 1, "ok": True, "deep": [{"note": f"use {AWS}"}, None, 1.5], "token": {"a": "b"}}
    assert Redaction().value(result) == {
        "password": HIDDEN,
        "n": 1,
        "ok": True,
        "deep": [{"note": f"use {HIDDEN}"}, None, 1.5],
        "token": {"a": "b"},
    }


def test_names_are_hidden_too_and_none_is_lost():
    found = Redaction().value({AWS: 1, AWS[:-1] + "9": 2, "plain": 3})
    assert list(found.values()) == [1, 2, 3]
    assert HIDDEN in found
    assert AWS not in str(found)


def test_however_deep_a_result_is():
    deep = AWS
    for _ in range(5000):
        deep = [deep]
    found = Redaction().value(deep)
    for _ in range(5000):
        (found,) = found
    assert found == HIDDEN


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_what_is_left_is_json_of_the_same_shape(value):
    def shape(it):
        if isinstance(it, dict):
            return [shape(part) for part in it.values()]
        return [shape(part) for part in it] if isinstance(it, list) else type(it)

    found = Redaction().value(value)
    assert shape(found) == shape(value)
    if all(character.isprintable() for character in str(value)):
        assert json.loads(encode(found)) == found


@given(st.text(), st.sampled_from(sorted(SECRETS)))
def test_it_is_found_anywhere(around, kind):
    secret = SECRETS[kind]
    assert secret not in Redaction().text(f"{around} {secret} {around}")


def test_a_private_key_is_hidden_over_all_its_lines():
    lines = ["before", *PEM.split("\n"), "after"]
    assert list(Redaction().lines(lines)) == ["before", HIDDEN, HIDDEN, HIDDEN, HIDDEN, "after"]


# Patterns of one's own


def with_patterns(*patterns):
    return settings_of(gather({}, {"APP_SECURITY_REDACT_PATTERNS": "\n".join(patterns)}))


def test_own_patterns_hide_all_or_their_group():
    hide = redaction_of(with_patterns(r"CORP-\d{3,6}", r"pin (\d+)"))
    assert hide.text("CORP-1234, pin 99, CORP-1") == f"{HIDDEN}, pin {HIDDEN}, CORP-1"


@pytest.mark.parametrize("pattern", ["^abc", "abc$", r"\Aabc", r"abc\z", r"\babc\b", "(?m)^abc", "^(abc)$"])
def test_an_own_pattern_is_about_each_text_by_itself(pattern):
    assert redaction_of(with_patterns(pattern)).value({"x": ["y", "abc", 1]}) == {"x": ["y", HIDDEN, 1]}


@pytest.mark.parametrize("pattern", ["(", r"(?=a)b", r"(a)\1", "x*", "(a)(b)", "a{5000}", "x" * 501])
def test_a_pattern_that_cannot_be_used_is_refused(pattern):
    with pytest.raises(SettingsError, match="REDACT_PATTERNS"):
        with_patterns(pattern)


def test_there_are_not_too_many():
    with pytest.raises(SettingsError, match="REDACT_PATTERNS"):
        with_patterns(*(f"x{number}" for number in range(31)))


EVIL = [r"(a+)+$", r"(a|aa)+b", r"(.*a){20}b", r"([a-z]+)*@", r"a.*a.*a.*a.*b"]


@pytest.mark.parametrize("pattern", EVIL)
def test_no_pattern_takes_forever(pattern):
    began = time.perf_counter()
    Redaction([pattern.replace("(", "(?:")]).text("a" * 100_000 + "!")
    assert time.perf_counter() - began < 3


@pytest.mark.parametrize("pattern", [*SHAPES, *MARKED, *SAID])
def test_nor_does_one_of_ours(pattern):
    compiled = re2.compile(pattern)
    for text in ("password", "a", "eyJ", "://", "x:", "-----BEGIN ", "sk-", "'\"", "\\"):
        began = time.perf_counter()
        compiled.sub("", text * (200_000 // len(text)))
        assert time.perf_counter() - began < 3


# The log


@pytest.fixture
def log(tmp_path):
    made = Log()
    made.configure(Logging(format="json", file=str(tmp_path / "log"), level="debug", redact=False))
    yield made
    made.close()


def said(log, tmp_path):
    log.close()
    return (tmp_path / "log").read_text()


def test_a_log_tells_no_secrets_wherever_they_stand(log, tmp_path):
    logger = logging.getLogger("test")
    logger.warning("key %s", AWS, extra={"detail": {"password": "hunter2", "said": f"Bearer {ANTHROPIC}"}})
    try:
        try:
            raise ValueError(f"cannot connect to postgresql://u:hunter2@db/x with {AWS}")
        except ValueError as error:
            raise RuntimeError("token: hunter2hunter2") from error
    except RuntimeError:
        logger.exception("it went wrong with %s", PEM)
    text = said(log, tmp_path)
    assert [json.loads(line)["level"] for line in text.splitlines()] == ["warning", "error"]
    for secret in ("hunter2", AWS, ANTHROPIC, "MIIE"):
        assert secret not in text
    assert "ValueError" in text


def test_a_log_knows_the_secrets_of_the_settings(log, tmp_path):
    environ = {
        "API_SECRET_KEY": "correct-horse",
        "DATABASE_URL": "postgresql://u:p%40ss%20word@db/x",
        "APP_WEBHOOKS_URL": "https://hooks.example/T00000000/B00000000",
        "APP_WEBHOOKS_SECRET": "battery-staple-battery",
    }
    log.adopt(Logging(format="json", redact=False), redaction_of(settings_of(gather({}, environ))))
    logging.getLogger("test").warning(
        "correct-horse p%40ss%20word p@ss word battery-staple-battery T00000000/B00000000"
    )
    text = said(log, tmp_path)
    assert json.loads(text)["event"].startswith(f"{HIDDEN} {HIDDEN} {HIDDEN} {HIDDEN} ")


# What callers see


@asynccontextmanager
async def hiding(directory, **environ):
    """An admin, and callers with keys of the given scopes."""
    environ = {"APP_SECURITY_REDACT_PAYLOADS": "true", "API_SECRET_KEY": ADMIN, **environ}
    async with inside(directory, **environ) as (api, service, store), ClientSession() as plain:
        api.session.headers["Authorization"] = f"Bearer {ADMIN}"
        sessions = []

        async def with_scopes(name, *scopes):
            secret = (await api.post("/api/v1/keys", {"name": name, "scopes": scopes})).data["key"]
            sessions.append(ClientSession(headers={"Authorization": f"Bearer {secret}"}))
            return Api(sessions[-1], api.url)

        assert plain
        yield api, with_scopes, service, store
        for session in sessions:
            await session.close()


RESULT = {"log": f"done with {ANTHROPIC}", "password": "hunter2", "count": 3}
SAID_IN = {"prompt": f"Deploy with {AWS} now", "metadata": {"env": {"token": "hunter2-hunter2"}, "n": 1}}


async def lived(worker, admin, directory):
    """A task with secrets in everything that is said of it."""
    parent = await admin.create(directory, **SAID_IN)
    task = await worker.next(directory, lease_seconds=60)
    assert task["prompt"] == SAID_IN["prompt"]
    assert task["metadata"] == SAID_IN["metadata"]
    await worker.tell(task, "heartbeat", progress={"percent": 5, "message": f"using {AWS}"})
    await worker.tell(task, "logs", lines=[f"export KEY={AWS}", *PEM.split("\n"), "done"])
    assert (await worker.tell(task, "complete", result=RESULT)).status == 200
    failing = await admin.create(directory, prompt=f"Fail with {AWS}")
    lost = await worker.next(directory, lease_seconds=60)
    assert (await worker.tell(lost, "fail", error_message=f"no access with {AWS}")).status == 200
    late = await worker.tell(lost, "complete", result=RESULT)
    late.refused(409, "LEASE_LOST")
    return parent, failing


async def everything_seen(api, task, failing):
    """All that can be read of them, in every form."""
    one, other = f"{TASKS}/{task['task_id']}", f"{TASKS}/{failing['task_id']}"
    paths = [TASKS, "/api/v1/events?after=0", "/api/v1/work-directories"]
    for path in (one, other):
        paths += [path, f"{path}?include=history,logs", f"{path}/history", f"{path}/logs", f"{path}/explain"]
        paths += [f"{path}?until=terminal&wait_seconds=0"]
    answers = [await api.call("GET", path, headers={"Accept": "application/json"}) for path in paths]
    answers += [await api.call("GET", TASKS, headers={"Accept": it}) for it in ("text/csv", "application/x-ndjson")]
    assert {it.status for it in answers} == {200}
    texts = [it.content.decode() for it in answers]
    async with api.session.get(f"{api.url}{one}/logs?follow=true") as response:
        texts.append((await response.read()).decode())
    async with api.session.get(f"{api.url}{one}/events?after=0") as response:
        texts.append((await response.read()).decode())
    return "\n".join(texts)


async def test_without_the_right_payloads_are_seen_without_their_secrets(tmp_path, directory):
    async with hiding(tmp_path) as (admin, with_scopes, _, _):
        worker, reader = await with_scopes("worker", "work"), await with_scopes("reader", "read")
        privileged = await with_scopes("privileged", "read", "payload")
        tasks = await lived(worker, admin, directory)
        seen = await everything_seen(reader, *tasks)
        for secret in (AWS, ANTHROPIC, "hunter2", "MIIE", "q83v"):
            assert secret not in seen
        shown = await reader.show(tasks[0])
        assert shown["prompt"] == f"Deploy with {HIDDEN} now"
        assert shown["result"] == {"log": f"done with {HIDDEN}", "password": HIDDEN, "count": 3}
        assert shown["metadata"] == {"env": {"token": HIDDEN}, "n": 1}
        for caller in (admin, privileged):
            whole = await everything_seen(caller, *tasks)
            assert all(secret in whole for secret in (AWS, ANTHROPIC, "hunter2", "MIIE"))
        assert (await privileged.show(tasks[0]))["result"] == RESULT


async def test_a_worker_is_told_everything(tmp_path, directory):
    async with hiding(tmp_path) as (admin, with_scopes, _, _):
        worker = await with_scopes("worker", "work", "read")
        first = await admin.create(directory, **SAID_IN)
        await worker.tell(await worker.next(directory), "complete", result=RESULT)
        await admin.create(directory, prompt=f"Then {AWS}", depends_on=[first["task_id"]])
        async with worker.stream(directory) as events:
            task = await events.task()
        assert task["prompt"] == f"Then {AWS}"
        assert task["dependencies"][0]["result"] == RESULT


async def test_live_events_are_hidden_from_those_alone_who_may_not_see_them(tmp_path, directory):
    async with hiding(tmp_path) as (admin, with_scopes, _, _):
        worker, reader = await with_scopes("worker", "work"), await with_scopes("reader", "read")

        async def failure(api):
            path = f"{api.url}/api/v1/events?types=task.failed"
            async with api.session.get(path, headers={"Accept": "text/event-stream"}) as response:
                events = Events(response)
                opened.release()
                return (await events.next())[1]["details"]["error_message"]

        opened = asyncio.Semaphore(0)
        hearing = [asyncio.create_task(failure(it)) for it in (admin, reader, admin)]
        for _ in hearing:
            await opened.acquire()
        await admin.create(directory)
        await worker.tell(await worker.next(directory), "fail", error_message=f"with {AWS}")
        assert await asyncio.gather(*hearing) == [f"with {AWS}", f"with {HIDDEN}", f"with {AWS}"]


async def test_what_callers_get_back_is_hidden_too(tmp_path, directory):
    async with hiding(tmp_path) as (_, with_scopes, _, _):
        submitter, operator = await with_scopes("submitter", "submit"), await with_scopes("operator", "operate")
        task = await submitter.create(directory, **SAID_IN)
        assert task["prompt"] == f"Deploy with {HIDDEN} now"
        edited = await operator.call("PATCH", f"{TASKS}/{task['task_id']}", json={"tags": ["x"]})
        assert edited.data["prompt"] == f"Deploy with {HIDDEN} now"
        assert (await operator.tell({**task, "lease_token": None}, "cancel")).data["metadata"]["env"] == {
            "token": HIDDEN
        }


async def test_nobody_finds_by_searching_what_they_may_not_see(tmp_path, directory):
    async with hiding(tmp_path) as (admin, with_scopes, _, _):
        reader = await with_scopes("reader", "read", "operate")
        await admin.create(directory, **SAID_IN)
        (await reader.get(TASKS, q=AWS[:6])).refused(403, "FORBIDDEN")
        bulk = {"filter": {"q": AWS[:6]}, "dry_run": True}
        (await reader.post(f"{TASKS}/cancel", bulk)).refused(403, "FORBIDDEN")
        assert (await admin.get(TASKS, q=AWS[:6])).data["total"] == 1


async def test_it_is_a_setting_that_may_change_at_any_time(tmp_path, directory):
    async with hiding(tmp_path, APP_SECURITY_REDACT_PAYLOADS="false") as (admin, with_scopes, _, _):
        reader = await with_scopes("reader", "read")
        task = await admin.create(directory, prompt=f"{AWS} CORP-1234")
        assert (await reader.show(task))["prompt"] == f"{AWS} CORP-1234"
        changes = {"security.redact_payloads": True, "security.redact_patterns": [r"CORP-\d+"]}
        assert (await admin.call("PATCH", "/api/v1/config", json={"changes": changes})).status == 200
        assert (await reader.show(task))["prompt"] == f"{HIDDEN} {HIDDEN}"
        evil = {"security.redact_patterns": ["(?=x)"]}
        answer = await admin.call("PATCH", "/api/v1/config", json={"changes": evil})
        assert answer.faults() == ["changes.security.redact_patterns[0]"]


async def test_refusals_do_not_repeat_secrets(tmp_path, directory):
    async with hiding(tmp_path) as (admin, _, _, _):
        answers = [
            await admin.get(TASKS, **{ANTHROPIC: "x"}),
            await admin.get(TASKS, status=ANTHROPIC),
            await admin.post(TASKS, {"work_directory": "/a", "prompt": "x", ANTHROPIC: 1}),
            await admin.post(f"{TASKS}/batch", {"tasks": [{"prompt": "x", ANTHROPIC: 1}], "atomic": False}),
            await admin.post(f"{TASKS}/batch", {"tasks": [{"prompt": "x", ANTHROPIC: 1}]}),
            await admin.call("DELETE", f"/api/v1/keys/{ANTHROPIC}"),
            await admin.call("PATCH", "/api/v1/config", json={"changes": {ANTHROPIC: 1}}),
            await admin.call("GET", TASKS, headers={"Authorization": f"Bearer {ANTHROPIC}"}),
        ]
        for answer in answers:
            assert ANTHROPIC not in answer.content.decode(), answer.content


async def test_an_endpoint_is_told_no_secrets(tmp_path, directory):
    heard = []

    async def take(request):
        heard.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    environ = {
        "APP_WEBHOOKS_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/",
        "APP_WEBHOOKS_SECRET": "0123456789abcdef",
        "APP_WEBHOOKS_ALLOW_PRIVATE": "true",
        "APP_WEBHOOKS_EVENTS": "task.failed",
    }
    async with hiding(tmp_path, **environ) as (admin, *_):
        await admin.create(directory)
        await admin.tell(await admin.next(directory), "fail", error_message=f"with {AWS}")
        await until(lambda: heard)
    await runner.cleanup()
    assert heard[0]["details"]["error_message"] == f"with {HIDDEN}"
