"""Attacks on a running server, each bounded in number and time, and what must come of them.

Each takes the port and how hard it is to be (1 in the tests, more in scripts/abuse.py), and raises AssertionError if
the server answered otherwise than it must. The server has KEY and the settings of ENVIRON.
"""

import asyncio
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from tests.web.conftest import TASKS, until

KEY = "the-key-of-the-one-who-attacks"
TIMEOUT_SECONDS = 2
STREAMS_MAX = 50
CONNECTIONS_MAX = 4000
ENVIRON = {
    "API_SECRET_KEY": KEY,
    "APP_SERVER_REQUEST_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "APP_SERVER_MAX_STREAMS_PER_KEY": str(STREAMS_MAX),
    "APP_SERVER_MAX_CONNECTIONS_PER_ADDRESS": str(CONNECTIONS_MAX),
    "LOG_LEVEL": "info",
}
PATIENCE_SECONDS = 60
BOMB_BYTES = 1 << 28
KEYED = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\n"
JSON = f"{KEYED}Content-Type: application/json\r\n"

Attack = Callable[[int, int], Awaitable[None]]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def connections(port: int, number: int, begin: bytes = b"") -> AsyncIterator[list[Connection]]:
    """Opened a few at a time, so that none is turned away by the system; on each `begin` is said at once."""
    async with AsyncExitStack() as stack:
        opened: list[Connection] = []
        while len(opened) < number:
            some = range(min(100, number - len(opened)))
            opened += await asyncio.gather(*(stack.enter_async_context(connection(port)) for _ in some))
            for _, writer in opened[-len(some) :]:
                writer.write(begin)
        yield opened


async def send(writer: asyncio.StreamWriter, data: bytes | Iterable[bytes]) -> None:
    """As far as the server takes it: it may have answered and gone."""
    with suppress(ConnectionError):
        for piece in [data] if isinstance(data, bytes) else data:
            writer.write(piece)
            await writer.drain()


async def answers(reader: asyncio.StreamReader) -> list[int]:
    """The statuses of all answers until the server closes."""
    said = b""
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            said += piece
    return [int(it) for it in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


async def status_of(port: int, data: bytes | Iterable[bytes]) -> int | None:
    """None: the connection is closed without an answer, or while the request is still being sent."""
    async with connection(port) as (reader, writer):
        sending = asyncio.create_task(send(writer, data))
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                return int(head.split()[1])
            return None
        finally:
            sending.cancel()
            await asyncio.wait([sending])


def post(path: str, body: bytes, **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{JSON}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(path: str, **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\n{KEYED}{more}\r\n".encode()


async def all_of(port: int, requests: Sequence[bytes], at_once: int = 20) -> Counter[int | None]:
    """The statuses, each request over a connection of its own."""
    turns = asyncio.Semaphore(at_once)

    async def one(request: bytes) -> int | None:
        async with turns:
            return await status_of(port, request)

    return Counter(await asyncio.gather(*map(one, requests)))


# Slowly


async def slow_heads(port: int, hardness: int) -> None:
    """Slowloris: a head that never ends, a header line now and then. Each is cut off."""
    async with connections(port, 500 * hardness) as open_:
        assert await _dripped(open_, b"GET / HTTP/1.1\r\nHost: localhost\r\n") == {()}


async def slow_bodies(port: int, hardness: int) -> None:
    """A body that never ends. Each is refused in time."""
    head = f"POST {TASKS} HTTP/1.1\r\n{JSON}Content-Length: 1000000\r\n\r\n".encode()
    async with connections(port, 200 * hardness) as open_:
        assert await _dripped(open_, head) == {(408,)}


async def _dripped(open_: Sequence[Connection], begin: bytes) -> set[tuple[int, ...]]:
    """What came back on each connection until it was closed."""
    async with asyncio.TaskGroup() as group:
        dripping = group.create_task(_drip([writer for _, writer in open_], begin))
        said = await asyncio.gather(*(answers(reader) for reader, _ in open_))
        dripping.cancel()
    return set(map(tuple, said))


async def _drip(writers: Sequence[asyncio.StreamWriter], begin: bytes) -> None:
    for writer in writers:
        writer.write(begin)
    while True:
        await asyncio.sleep(0.5)
        for writer in writers:
            if not writer.is_closing():
                writer.write(b"a:b\r\n")


async def idle_connections(port: int, hardness: int) -> None:
    """Thousands that say nothing at all are sent away."""
    async with connections(port, min(1500 * hardness, CONNECTIONS_MAX - 100)) as open_:
        said = await asyncio.gather(*(answers(reader) for reader, _ in open_))
        assert not any(said)


async def connections_without_end(port: int, hardness: int) -> None:
    """One address gets no more than its part, however busy it keeps each: what is beyond is closed at once."""
    wait = get(f"{TASKS}/next?work_path=/abuse/nothing&wait_seconds=60")
    async with connections(port, CONNECTIONS_MAX + 200, begin=wait) as open_:

        def refused() -> int:
            return sum(reader.at_eof() or reader.exception() is not None for reader, _ in open_)

        await until(lambda: refused() >= 200)
        assert refused() <= 250  # some of the part are those who look on


async def nobody_reads(port: int, hardness: int) -> None:
    """Ten thousand requests in one breath, and no answer is ever read: the connection is not kept."""
    async with connections(port, 5 * hardness) as open_:
        for reader, writer in open_:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(get("/openapi.json") * 10_000)
        for _, writer in open_:
            while not writer.is_closing():
                with suppress(ConnectionError):
                    writer.write(b"\r\n")
                await asyncio.sleep(0.05)


async def pipelined(port: int, hardness: int) -> None:
    """The same, but read: every one is answered, in order."""
    number = 2000 * hardness
    async with connection(port) as (reader, writer):
        sending = asyncio.create_task(
            send(writer, get("/health/live") * number + get("/health/live", Connection="close"))
        )
        assert await answers(reader) == [200] * (number + 1)
        await sending


async def streams(port: int, hardness: int) -> None:
    """As many streams as one wishes: a key gets so many and no more, and when they have gone it gets them again."""
    for _ in range(2):
        async with connections(port, STREAMS_MAX + 50 * hardness) as open_:
            found: Counter[int] = Counter()
            for number, (reader, writer) in enumerate(open_):
                path = [f"{TASKS}/stream?work_path=/streams", "/api/v1/events"][number % 2]
                writer.write(get(path, Accept="text/event-stream"))
                found[int((await reader.readuntil(b"\r\n\r\n")).split()[1])] += 1
            assert found == {200: STREAMS_MAX, 429: 50 * hardness}, found
        while await _streams_open(port):  # noqa: ASYNC110 - there is nothing else to be told by
            await asyncio.sleep(0.05)


async def _streams_open(port: int) -> bool:
    async with connection(port) as (reader, writer):
        writer.write(get("/metrics", Connection="close"))
        said = (await reader.read()).decode()
        return any(float(it) for it in re.findall(r"^stream_readers\{.*\} (\S+)$", said, re.MULTILINE))


# Too much


async def huge_heads(port: int, hardness: int) -> None:
    """Lines, paths and headers beyond all measure."""
    requests = [
        get("/" + "a" * 1_000_000),
        get(f"{TASKS}?q=" + "a" * 100_000),
        get("/health", X_Long="a" * 1_000_000),
        get("/health", Cookie="a=b;" * 100_000),
        f"GET /health HTTP/1.1\r\n{KEYED}".encode() + b"x: y\r\n" * 100_000 + b"\r\n",
        f"GET /health HTTP/1.1\r\n{KEYED}".encode() + b"".join(b"x%d: y\r\n" % n for n in range(100_000)) + b"\r\n",
        b"A" * 1_000_000 + b" / HTTP/1.1\r\n\r\n",
    ]
    assert await all_of(port, requests * hardness) <= Counter({400: 7 * hardness, None: 7 * hardness})


async def large_bodies(port: int, hardness: int) -> None:
    """10 MB that are a body, 20 MB that are none, with their length and without (in chunks)."""
    size, piece = 10 * 2**20, b"x" * 65536
    allowed = post(TASKS, b'{"work_directory":"/w","prompt":"' + b"x" * size + b'"}')
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    head = f"POST {TASKS} HTTP/1.1\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n".encode()
    assert await all_of(port, [allowed] * 5 * hardness) <= Counter({400: 5 * hardness, 503: 5 * hardness})
    assert await all_of(port, [post(TASKS, b"x" * 2 * size)] * 5 * hardness) == {413: 5 * hardness}
    assert (await all_of(port, [head + chunk * 320] * 5 * hardness)).keys() <= {413, 503, None}
    tiny = b"1\r\nx\r\n" * 200_000
    assert await all_of(port, [head + tiny + b"0\r\n\r\n"] * hardness) == {400: hardness}


async def many_large_bodies(port: int, hardness: int) -> None:
    """Each is allowed, all together are not: 40 times 15 MB, of which the last bytes are missing."""
    size = 15 * 2**20
    begun = f"POST {TASKS} HTTP/1.1\r\n{JSON}Content-Length: {size}\r\n\r\n".encode() + b" " * (size - 10)
    found = await all_of(port, [begun] * 40 * hardness, at_once=40)
    assert found.keys() <= {408, 503, None}, found
    assert found[503]


async def bombs(port: int, hardness: int) -> None:
    """A few hundred kilobytes that would be a thousand times as much."""
    flat = zlib.compressobj(1)
    bomb = b"".join([*(flat.compress(b" " * 2**20) for _ in range(BOMB_BYTES >> 20)), flat.flush()])
    zipped = gzip.compress(b" " * (BOMB_BYTES >> 2))
    requests = [post(TASKS, bomb, Content_Encoding="deflate"), post(TASKS, zipped, Content_Encoding="gzip")]
    twice = post(TASKS, gzip.compress(zipped), Content_Encoding="gzip, gzip")
    found = await all_of(port, requests * 5 * hardness)
    assert found.keys() <= {413, 503, 408, None}, found
    assert found[413]
    assert await all_of(port, [twice]) == {415: 1}


def _bodies() -> Iterable[bytes]:
    size = 15 * 2**20
    yield b"[" * size
    yield b'{"a":' * (size // 5)
    yield b'{"metadata":' + b'{"a":' * 500 + b"1" + b"}" * 501
    yield b'{"metadata":[' + b"[]," * (size // 3) + b"[]]}"
    yield b'{"metadata":{"a":[' + b"{}," * (size // 3) + b"{}]}}"
    yield b'{"x":123456789012345678901234567890,"metadata":[' + b"[]," * (size // 3) + b"[]]}"
    yield b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}"
    yield b'{"metadata":{"a":' + b"1" * size + b"}}"
    yield b'{"metadata":{"a":1e999999999}}'
    yield b'{"metadata":{"a":-0.' + b"1" * 1_000_000 + b"}}"
    yield b'"' + b'\\"[,' * (size // 4)
    yield b'{"work_directory":"/w","prompt":"x","tags":[' + b'"a",' * 100_000 + b'"b"]}'
    yield b'{"work_directory":"/w","prompt":"' + b"\\ud800" * 100_000 + b'"}'


async def json_of_nothing(port: int, hardness: int) -> None:
    """Deep, wide, and with numbers of a million digits: text that is many times as large once it is taken apart."""
    requests = [post(TASKS, body) for body in _bodies()]
    found = await all_of(port, requests * hardness, at_once=4)
    assert found == {400: len(requests) * hardness}, found


async def batches_of_tags(port: int, hardness: int) -> None:
    """A thousand tasks with a hundred tags each, of which fifty are allowed; and with as many as are allowed."""
    for number, status in ((100, 400), (50, 201)):
        tags = [f"tag-{n}" for n in range(number)]
        tasks = [{"work_directory": "/tagged", "prompt": "x", "tags": tags}] * 1000
        request = post(f"{TASKS}/batch", json.dumps({"tasks": tasks}).encode())
        assert await all_of(port, [request] * hardness) == {status: hardness}


async def colliding_keys(port: int, hardness: int) -> None:
    """A hundred thousand keys that fall into one place of a table whose hash does not depend on the process: here that
    of integers, and of strings that Java would find alike."""
    alike = ["".join("Aa" if n >> bit & 1 else "BB" for bit in range(17)) for n in range(100_000)]
    numbers = [str(n * (2**61 - 1)) for n in range(100_000)]
    bodies = [json.dumps(dict.fromkeys(keys, 1)).encode() for keys in (alike, numbers)]
    bodies += [json.dumps({"metadata": dict.fromkeys(keys, 1)}).encode() for keys in (alike, numbers)]
    queries = [get("/health?" + "&".join(f"{key}=1" for key in keys[:200])) for keys in (alike, numbers)]
    found = await all_of(port, [post(TASKS, body) for body in bodies] * hardness + queries)
    assert found == {400: 4 * hardness + 2}, found


async def idempotency_keys(port: int, hardness: int) -> None:
    """Thousands, each new, and one that is too long."""
    task = b'{"work_directory":"/idem","prompt":"x"}'
    requests = [post(TASKS, task, Idempotency_Key=f"{n}" + "k" * 200) for n in range(1000 * hardness)]
    assert await _over_one(port, requests) == {201: 1000 * hardness}
    assert await all_of(port, [post(TASKS, task, Idempotency_Key="k" * 256)]) == {400: 1}


async def costly_searches(port: int, hardness: int) -> None:
    """Texts that fit everywhere and nowhere, in prompts made for it."""
    tasks = [{"work_directory": "/searched", "prompt": "ab" * 5000} for _ in range(200)]
    await all_of(port, [post(f"{TASKS}/batch", json.dumps({"tasks": tasks}).encode())] * hardness)
    texts = ["ab" * 250, "a", "%25" * 100, "_" * 100, "ba" * 100 + "c", "%22" * 50, "*" * 100, "(a%2B)%2B" * 20]
    requests = [get(f"{TASKS}?q={text}&limit=1000&sort=priority") for text in texts]
    found = await all_of(port, requests * 3 * hardness, at_once=8)
    assert found.keys() <= {200, 400}, found


async def _over_one(port: int, requests: Sequence[bytes]) -> Counter[int]:
    async with connection(port) as (reader, writer):
        sending = asyncio.create_task(send(writer, [*requests, get("/health/live", Connection="close")]))
        *found, last = await answers(reader)
        await sending
        assert last == 200
        return Counter(found)


# Beside the point


async def not_http(port: int, hardness: int) -> None:
    """Other protocols, upgrades to them, and noise."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 1000
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 512
    noise = [
        preface,
        hello,
        b"\0" * 100_000,
        b"\xff" * 100_000,
        b"\r\n" * 100_000 + b"x",
        b"GET /\r\n\r\n",
        b"\n\n\n\n:",
    ]
    noise += [b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n", b"SSH-2.0-x\r\n", b"*1\r\n$4\r\nPING\r\n"]
    found = await all_of(port, [it + b"\r\n\r\n" for it in noise] * hardness)
    assert found.keys() <= {400, 404, 401, None}, found
    upgrade = {"Connection": "Upgrade", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for path in ("/health", TASKS, "/api/v1/events?limit=1", "/nowhere"):
        for protocol in ("websocket", "h2c"):
            assert await status_of(port, get(path, Upgrade=protocol, **upgrade)) != 101


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def _shapes() -> Iterable[bytes]:
    start = f"POST /api/v1/session HTTP/1.1\r\n{JSON}".encode()
    length, chunked = b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"
    both = length % len(b"0\r\n\r\n" + SMUGGLED) + chunked
    yield start + both + b"\r\n0\r\n\r\n" + SMUGGLED
    yield start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + b"12345" + SMUGGLED
    yield start + b"Content-Length: +5\r\n\r\n12345" + SMUGGLED
    yield start + b"Content-Length: -1\r\n\r\n" + SMUGGLED
    yield start + b"Content-Length: 5, 5\r\n\r\n12345" + SMUGGLED
    yield start + b"Content-Length: 0x5\r\n\r\n12345" + SMUGGLED
    yield start + b"Content-Length : 5\r\n\r\n12345" + SMUGGLED
    yield start + b"Transfer-Encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield start + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield start + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield start + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield start + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED
    yield start + b"X: y\n" + chunked + b"\n0\n\n" + SMUGGLED
    yield start + b"X: y\r" + chunked + b"\r\n0\r\n\r\n" + SMUGGLED
    yield start + chunked + b"\r\n0x0\r\n\r\n" + SMUGGLED
    yield start + chunked + b"\r\n-1\r\n\r\n" + SMUGGLED
    yield start + chunked + b"\r\n5;\n\r\n12345" + SMUGGLED
    yield start + chunked + b"\r\n" + b"f" * 17 + b"\r\n" + SMUGGLED
    yield start + b"X\0: y\r\n\r\n" + SMUGGLED
    yield start + b"X: y\0z\r\n\r\n" + SMUGGLED


async def smuggling(port: int, hardness: int) -> None:
    """Requests whose end two readers would see in different places: none lets another through behind it."""
    for shape in _shapes():
        async with connection(port) as (reader, writer):
            await send(writer, shape)
            said = await answers(reader)
            assert said in ([400], []), (shape, said)


PATHS = (
    *("/api/v1/tasks/../../health", "/docs/../../../../etc/passwd", "/docs/..%2f..%2f..%2fetc%2fpasswd"),
    *("/docs/%2e%2e/%2e%2e/etc/passwd", "/docs/....//....//etc/passwd", "/docs/..%5c..%5cetc%5cpasswd"),
    *("/docs/%00", "/docs/swagger-ui.css%00.html", "/docs//etc/passwd", "/docs/%c0%ae%c0%ae/etc/passwd"),
    *("//evil.example/docs", "/%0d%0aX-Forged:%20yes", "/docs/%0d%0aSet-Cookie:%20a=b", "/api/v1/tasks/%00"),
    *("/api/v1/tasks/%ff", "/api/v1/tasks/..", "/api/v1/tasks/%2e%2e%2fconfig", "/api/v1/tasks/%F0%9F%92%A9"),
    *("http://evil.example/api/v1/tasks/x", "/api/v1/tasks/x;y=z", "/%", "/%zz", "/\N{SNOWMAN}", "*"),
)


async def path_tricks(port: int, hardness: int) -> None:
    """Nothing outside is ever served, nothing of the path becomes a header."""
    for path in PATHS:
        async with connection(port) as (reader, writer):
            await send(writer, get(path, Connection="close"))
            said = await reader.read()
            head, _, body = said.partition(b"\r\n\r\n")
            assert int(head.split()[1]) in (400, 403, 404), (path, said)
            assert b"root:" not in body
            assert not re.search(rb"^(x-forged|set-cookie)", head, re.MULTILINE | re.IGNORECASE), head


ATTACKS: Sequence[Attack] = (
    *(slow_heads, slow_bodies, idle_connections, connections_without_end, nobody_reads, pipelined, streams),
    *(huge_heads, large_bodies, many_large_bodies, bombs, json_of_nothing, batches_of_tags, colliding_keys),
    *(idempotency_keys, costly_searches, not_http, smuggling, path_tricks),
)


async def launch(attack: Attack, port: int, hardness: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS * hardness):
        await attack(port, hardness)


def about(attack: Any) -> str:
    return attack.__name__.replace("_", " ")
