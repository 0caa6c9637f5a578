"""Everything that reads what strangers have written, without a server: each may refuse, in its own words, and no more;
and none may take long."""

import asyncio
import gzip
import json
import re
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import attrs
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict

from dispatcher.record import Filter
from task_orchestrator.display import printable
from task_orchestrator.printing import Lines
from task_orchestrator.sse import EventParser
from web import cursors
from web.access.sessions import COOKIE, session_of
from web.answers import idempotency_key, name_of
from web.codec import Invalid, Malformed, decode, decode_query
from web.intake import Intake, TooLong, check_values, read
from web.route import Route, by_path
from web.routes import ROUTES
from web.strict import outside

SLOW_SECONDS = 5  # even on a machine that is busy with other things
UNPACKED_BYTES_MAX = 5000
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")

NAMES = sorted({outside(it.name) for route in ROUTES for it in attrs.fields(route.asks)})
WORDS = [
    "",
    "high",
    "waiting",
    "/srv/app",
    "ref:a",
    "2026-01-01T00:00:00Z",
    "-created_at",
    "1e999",
    "٣",
    "\ud800",
    "\0",
]
LINES = [b"data: {}", b"event: x", b"id: 1\0", b"\r", b"\n", b"\r\n", b": x"]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(WORDS)
)
names = st.sampled_from(NAMES) | st.text(max_size=10)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=20,
)
documents = st.dictionaries(names, values, max_size=10).map(lambda it: json.dumps(it).encode("utf-8", "replace"))


@st.composite
def _spoilt(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """With a piece of it replaced by noise."""
    text = draw(whole)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.binary(max_size=6)) + text[at + draw(st.integers(0, 6)) :]


def _packed(body: bytes) -> bytes:
    return gzip.compress(body) if len(body) % 2 else zlib.compress(body)


FORMS: Mapping[str, st.SearchStrategy[bytes]] = {
    "noise": st.binary(max_size=2000),
    "documents": documents,
    "spoilt": _spoilt(documents),
    "deep": st.integers(1, 3000).map(lambda n: b'{"metadata":' + b"[" * n + b"]" * n + b"}"),
    "packed": _spoilt(st.binary(max_size=200).map(lambda it: _packed(it * 100))),
    "lines": st.lists(st.sampled_from(LINES)).map(b"".join),
    "cookies": st.text('AZaz09-_=.;," ', max_size=200).map(str.encode),
    "cursors": st.lists(st.integers(), max_size=6).map(lambda it: json.dumps(it).encode()),
}


def bodies(given: bytes) -> None:
    for route in ROUTES:
        if not route.is_read:
            known = _known(route)
            _refused(lambda asks=route.asks, known=known: decode(given, asks, **known))
    _refused(lambda: check_values(given))


def queries(given: bytes) -> None:
    text = given.decode("utf-8", "surrogateescape")
    pairs = [tuple((part + "=").split("=")[:2]) for part in text.split("&")]
    pairs += [(name, text[:300]) for name in NAMES]
    for route in ROUTES:
        if route.is_read:
            known = _known(route)
            asked = [pairs, *([(name, text)] for name in attrs.fields_dict(route.asks))]
            for it in asked:
                _refused(lambda asks=route.asks, it=it, known=known: decode_query(MultiDict(it), asks, **known))


def places(given: bytes) -> None:
    text = given.decode("utf-8", "surrogateescape")
    for form in (text, cursors.urlsafe_b64encode(given).decode().rstrip("=")):
        try:
            cursors.read(form, Filter(), "created_at")
        except Invalid:
            continue
        raise AssertionError("a forged cursor is taken")  # its digest is nine bytes long


def headers(given: bytes) -> None:
    text = re.sub("[\r\n\0]", "", given.decode("utf-8", "surrogateescape"))  # which no header can bear
    for cookie in (text, f"{COOKIE}={text}", f'{COOKIE}="{text}"'):
        request = make_mocked_request("GET", "/", {})
        given_with = CIMultiDict({"Cookie": cookie, "Idempotency-Key": text, "X-Request-Id": text})
        request._headers = CIMultiDictProxy(given_with)
        assert session_of(request, lambda _: "00" * 32, 0) is None
        assert re.fullmatch(r"[\w.:+/=-]{1,128}", name_of(request), re.ASCII)
        _refused(lambda request=request: idempotency_key(request))


def streams(given: bytes) -> None:
    """However they are cut, they say the same."""
    whole, cut = EventParser(), EventParser()
    assert [*whole.feed(given)] == [event for at in range(len(given)) for event in cut.feed(given[at : at + 1])]


def output(given: bytes) -> None:
    """What a command prints: no line of it is too long, and nothing of it acts on a terminal."""
    kept: list[bytes] = []
    lines = Lines(kept.append, lambda: False)
    for at in range(0, len(given), 7):
        lines.feed(given[at : at + 7])
    lines.close()
    assert b"\n".join(kept) == re.sub(rb"\r\n", b"\n", given.removesuffix(b"\n")) or b"\r" in given or given == b""
    assert not CONTROLS.search(printable(given.decode("utf-8", "surrogateescape")))


def packed(given: bytes) -> None:
    for coding in ("gzip", "deflate", "identity"):
        with suppress(TooLong, Malformed):
            assert len(asyncio.run(_unpacked(given, coding))) <= UNPACKED_BYTES_MAX


async def _unpacked(given: bytes, coding: str) -> bytes:
    nobody = SimpleNamespace(_reading_paused=False, pause_reading=lambda: None, resume_reading=lambda **_: None)
    content = StreamReader(cast(Any, nobody), 2**16)
    content.feed_data(given)
    content.feed_eof()
    intake = Intake()
    with intake.holding(UNPACKED_BYTES_MAX) as held:
        return await read(content, coding, UNPACKED_BYTES_MAX, held)


def _known(route: Route) -> dict[str, str]:
    """What the path says."""
    names = re.findall(r"\{(\w+)\}", route.path)
    return dict.fromkeys([*names, "work_directory"] if route.about is by_path else names, "x")


def _refused(attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except (Invalid, Malformed) as refusal:
        str(refusal).encode("utf-8", "surrogatepass")


DECODERS: Mapping[str, Callable[[bytes], None]] = {
    it.__name__: it for it in (bodies, queries, places, headers, streams, output, packed)
}


def in_time(decoder: Callable[[bytes], None], given: bytes) -> float:
    """Seconds; AssertionError if it took too long."""
    began = time.perf_counter()
    decoder(given)
    seconds = time.perf_counter() - began
    assert seconds < SLOW_SECONDS, (decoder.__name__, given[:100], seconds)
    return seconds
