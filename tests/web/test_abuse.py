"""Somebody attacks the server, and others hardly notice. How hardly is measured by scripts/abuse.py: here, where the
machine may be busy with other things, only silence counts."""

import gzip
import json
import os
import re
import subprocess
import sys
import zlib
from base64 import urlsafe_b64encode
from contextlib import suppress

import pytest
from aiohttp import StreamReader
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.record import Filter
from tests.conftest import ServerProcess
from tests.deploy.files import PROJECT
from tests.web.abuse import ATTACKS, ENVIRON, KEY, about, launch
from tests.web.conftest import TASKS, connected, raw, text_of, until
from tests.web.honest import watching
from web.codec import Invalid
from web.connections import Room
from web.cursors import read as read_cursor
from web.intake import VALUES_MAX, Intake, TooLong, check_values, read

SILENT_MS = 5000
GROWTH_BYTES_MAX = 512 * 2**20


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("attacked"), environ=ENVIRON).start()
    yield server
    assert server.terminate() == 0


@pytest.mark.parametrize("attack", ATTACKS, ids=about)
async def test_an_attack_is_fended_off_and_others_are_answered_meanwhile(attacked, attack):
    with watching(attacked.pid, attacked.port) as figures:
        await launch(attack, attacked.port)
    print(figures)
    assert figures.failed == 0
    assert figures.slowest_ms < SILENT_MS
    assert figures.memory_peak - figures.memory_before < GROWTH_BYTES_MAX
    log = attacked.log.read_text()
    assert "an error nobody foresaw" not in log
    assert "Traceback" not in log


# What is said to have happened


FORGERIES = [
    b"\n2026-01-01T00:00:00Z [critical] forged",
    b"\r\n" + b'{"level":"critical","event":"forged"}',
    b"\x1b[2J\x1b]0;forged\x07",
    b"\x85forged",
    "\N{LINE SEPARATOR}forged\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
    b"\0forged",
    b"%0a%0dforged",
]


@pytest.mark.parametrize("redact", ["true", "false"])
@pytest.mark.parametrize("form", ["json", "pretty"])
async def test_nobody_can_forge_a_line_of_the_log(tmp_path, form, redact):
    """Whatever is in a path, a method, a header or a body: each request is one line, and nothing in it acts on a
    terminal."""
    environ = {"LOG_FORMAT": form, "APP_LOGGING_REDACT": redact}
    server = ServerProcess(tmp_path, environ=environ).start()
    asked = 0
    try:
        for forgery in FORGERIES:
            for request in _with(forgery):
                with suppress(Exception):
                    await raw(server, request)
                asked += 1
    finally:
        assert server.terminate() == 0
    content = server.log.read_bytes()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]", content)
    lines = content.decode().splitlines()
    assert len(lines) > asked / 2
    for line in lines:
        if form == "json":
            assert json.loads(line)["level"] != "critical"
            assert json.loads(line)["event"] != "forged"
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT\S+Z \[(info|warning|error) +\] ", line), line


def _with(forgery):
    escaped = "".join(f"%{byte:02x}" for byte in forgery).encode()
    for path in (forgery, escaped):
        yield b"GET /" + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        yield b"GET /api/v1/tasks/" + path + b"/history HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield b"X" + forgery + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for name in ("X-Request-Id", "Idempotency-Key", "User-Agent", "Authorization", "Last-Event-ID"):
        yield b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + name.encode() + b": x" + forgery + b"\r\n\r\n"
    body = json.dumps({"work_directory": "/f", "prompt": forgery.decode(errors="replace")}).encode()
    yield text_of("POST", TASKS, Content_Length=str(len(body))) + body


@pytest.mark.parametrize("value", ["x\r\nSet-Cookie: a=b", "x\nX-Forged: 1", "x\0", "é", "x" * 200, " ", "<script>"])
async def test_what_is_given_back_in_a_header_is_harmless(attacked, value):
    """The name of a request is repeated only if it is sane."""
    request = text_of("GET", "/health/live", X_Request_Id=value)
    answer = await raw(attacked, request)
    assert not answer.headers.keys() & {"Set-Cookie", "X-Forged"}
    if answer.status == 200:
        assert re.fullmatch(r"[0-9a-f]{32}|x", answer.headers["X-Request-Id"])


# Bodies


class Protocol:
    _reading_paused = False

    def pause_reading(self):
        pass

    def resume_reading(self, resume_parser=True):
        pass


async def unpacked(packed, coding, most):
    content = StreamReader(Protocol(), 2**16)
    content.feed_data(packed)
    content.feed_eof()
    with (intake := Intake()).holding(most) as held:
        body = await read(content, coding, most, held)
    assert intake.held_bytes == 0
    return body


def deflated(body, bits):
    packing = zlib.compressobj(wbits=bits)
    return packing.compress(body) + packing.flush()


@given(st.binary(min_size=1, max_size=3000))
async def test_what_was_packed_is_unpacked(body):
    for coding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("identity", body)):
        assert await unpacked(packed, coding, max(len(packed), len(body))) == body
        with pytest.raises(TooLong):
            await unpacked(packed, coding, len(body) - 1)
    assert await unpacked(deflated(body, -15), "deflate", 3000) == body


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
async def test_what_was_not_packed_is_refused(noise, coding):
    with suppress(ValueError, TooLong):  # it may be right by chance
        assert len(await unpacked(noise, coding, 1000)) <= 1000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("spoil", [lambda it: it[:-1], lambda it: it + b"x", lambda it: it + it, lambda it: b""])
async def test_what_is_cut_off_or_goes_on_behind_its_end_is_refused(attacked, coding, spoil):
    body = b'{"work_directory":"/packed","prompt":"x"}'
    packed = spoil(gzip.compress(body) if coding == "gzip" else zlib.compress(body))
    head = {"Content_Encoding": coding, "Content_Type": "application/json", "X_API_Key": KEY}
    answer = await raw(attacked, text_of("POST", TASKS, Content_Length=str(len(packed)), **head) + packed)
    answer.refused(400, "MALFORMED_JSON")


json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet=st.sampled_from(',[]{}":\\ab\n')),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=50,
)


def places_before_values(value):
    """Commas, and brackets that open."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if parts is None:
        return 0
    return 1 + max(0, len(parts) - 1) + sum(map(places_before_values, parts))


@given(json_values, st.booleans())
def test_values_are_counted_and_what_is_in_texts_is_not(value, spaced):
    text = json.dumps(value, indent=1 if spaced else None, ensure_ascii=False).encode()
    many = places_before_values(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("web.intake.VALUES_MAX", many)
        check_values(text)
        if many:
            patch.setattr("web.intake.VALUES_MAX", many - 1)
            with pytest.raises(Invalid):
                check_values(text)


def test_a_text_full_of_commas_is_one_value():
    check_values(b'["' + b'f(x, y)[0], {\\"' * VALUES_MAX + b'"]')
    check_values(b'"' + b'\\",[{' * VALUES_MAX)  # without an end


async def test_the_values_of_a_body_are_bounded(attacked):
    async with connected(attacked, Authorization=f"Bearer {KEY}") as api:
        limit = (await api.get("/api/v1/limits")).data["limits"]["values_per_body"]
        made = b"[" + b"1," * limit + b"1]"
        (await api.post(TASKS, made)).refused(400, "VALIDATION_ERROR")
        assert (await api.post(TASKS, made)).faults() == ["body"]


# Connections and streams


def test_each_address_has_its_part_of_the_room():
    room = Room(5, 3)
    assert [room.enter("a") for _ in range(4)] == [True, True, True, False]
    assert [room.enter("b") for _ in range(3)] == [True, True, False]
    room.leave("a")
    assert [room.enter("b"), room.enter("b")] == [True, False]


def test_a_proxy_may_have_all_the_room_and_a_subscriber_of_ipv6_counts_once():
    room = Room(6, 2, ["10.0.0.0/8"])
    assert [room.enter("10.0.0.1") for _ in range(3)] == [True, True, True]
    assert [room.enter(f"2001:db8::{n}") for n in range(3)] == [True, True, False]
    assert [room.enter("::ffff:10.0.0.1"), room.enter("10.0.0.1")] == [True, False]


async def test_room_is_told_of_in_the_log_but_not_for_each(attacked):
    told = [json.loads(line) for line in attacked.log.read_text().splitlines() if "closed at once" in line]
    if told:  # only after the attack that fills it
        assert all(line["level"] == "warning" for line in told)
        assert len(told) <= 3


async def test_the_streams_of_one_key_do_not_take_those_of_another(tmp_path):
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": KEY, "APP_SERVER_MAX_STREAMS_PER_KEY": "2"}).start()
    try:
        async with connected(server, Authorization=f"Bearer {KEY}") as api:
            key = (await api.post("/api/v1/keys", {"name": "other", "scopes": ["work"]})).data["key"]
            async with api.stream("/a"), api.stream("/b"):
                refused = await api.get(f"{TASKS}/stream", work_path="/c")
                assert refused.refused(429, "RATE_LIMITED") == {"kind": "streams", "limit": 2, "retry_after_seconds": 1}
                assert int(refused.headers["Retry-After"]) >= 1
                async with connected(server, Authorization=f"Bearer {key}") as other, other.stream("/c"):
                    pass

            async def there_is_room():
                async with api.session.get(f"{server.url}{TASKS}/stream", params={"work_path": "/c"}) as response:
                    return response.status == 200

            await until(there_is_room)
    finally:
        assert server.terminate() == 0


# Tables and cursors


def test_the_hash_of_texts_differs_from_process_to_process():
    """So nobody can prepare keys that fall into one place; and no file of ours takes that away."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    command = [sys.executable, "-c", "print(hash('key'))"]
    said = {subprocess.run(command, env=environ, capture_output=True, check=True).stdout for _ in range(3)}
    assert len(said) > 1
    files = [PROJECT / "Dockerfile", *(it for it in (PROJECT / "deploy").rglob("*") if it.is_file())]
    files += [PROJECT / "scripts" / "start", PROJECT / "scripts" / "setup"]
    assert not [it for it in files if b"PYTHONHASHSEED" in it.read_bytes()]


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda it: urlsafe_b64encode(it).decode()))
def test_a_forged_cursor_is_refused(text):
    with pytest.raises(Invalid):
        read_cursor(text, Filter(), "created_at")
