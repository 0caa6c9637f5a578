"""Attacks by way of MCP, as those of tests/web/abuse.py."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.mcp.wire import CLIENT, META, MODERN, OLD, REVISIONS, calling, initialize, request, said_in
from tests.web.abuse import KEY, STREAMS_MAX, Attack, all_of, connection, connections
from tests.web.conftest import until

KEYED = f"Authorization: Bearer {KEY}\r\n"
MANY = 500
HANDSHAKES = REVISIONS[1:]


def asking(revision: str, method: str, params: Any = None, body: bytes | None = None) -> bytes:
    return request(revision, method, params or {}, body, KEYED)


def tool(revision: str, name: str, **arguments: Any) -> bytes:
    return calling(revision, name, arguments, KEYED)


async def errors(port: int, requests: Sequence[bytes], at_once: int = 20) -> Counter[int | None]:
    """The codes of the JSON-RPC errors, None for each result."""
    turns = asyncio.Semaphore(at_once)

    async def one(asked: bytes) -> int | None:
        async with turns, connection(port) as (reader, writer):
            writer.write(asked)
            _, said = said_in(await reader.read())
            code: int | None = said["error"]["code"] if "error" in said else None
            return code

    return Counter(await asyncio.gather(*map(one, requests)))


async def handshakes(port: int, hardness: int) -> None:
    """Thousands who say hello and never come again: nothing is kept of them."""
    hello = {"capabilities": {}, "clientInfo": CLIENT}
    asked = [asking(it, "initialize", {"protocolVersion": it, **hello}) for it in HANDSHAKES]
    assert await errors(port, asked * MANY * hardness) == {None: len(asked) * MANY * hardness}


async def lists_of_tools(port: int, hardness: int) -> None:
    """The longest answer there is, again and again."""
    asked = [asking(it, "tools/list") for it in REVISIONS]
    assert await errors(port, asked * (MANY // 2) * hardness) == {None: len(asked) * (MANY // 2) * hardness}


async def unknown_methods(port: int, hardness: int) -> None:
    """Methods and tools that are not there, with names of any length, and calls that are none."""
    names = ["", "x", "tools/call/x", "tools/list\0", "\N{SNOWMAN}" * 100, "x" * 100_000, "rpc.discover", "__class__"]
    asked = [asking(OLD, "x", body=_message(method=name, params={})) for name in names]
    asked += [asking(OLD, "tools/call", {"name": name, "arguments": {}}) for name in names]
    found = await errors(port, asked * 20 * hardness)
    assert found.keys() <= {-32601, -32602, -32600}, found


async def messages_that_are_none(port: int, hardness: int) -> None:
    """Of the wrong shape, in lists of a thousand, with ids and versions of any kind: each is refused, or taken for what
    needs no answer."""
    strange: list[Any] = [None, True, 5, -1.5, "x", [], {}, [[]], {"id": 1}]
    bodies = [json.dumps(it).encode() for it in strange]
    bodies += [_message(id=it, method="ping") for it in strange]
    bodies += [_message(jsonrpc=it, method="ping") for it in strange]
    bodies += [_message(method=it) for it in strange]
    bodies += [_message(method="tools/call", params=it) for it in strange]
    bodies += [_message(method="tools/call", params={"name": it, "arguments": it, "_meta": it}) for it in strange]
    bodies += [b"[" + b",".join([_message(method="ping")] * 1000) + b"]", _message(result={}), _message(error=5)]
    for revision in (MODERN, OLD):
        found = await all_of(port, [asking(revision, "tools/call", body=body) for body in bodies] * 2 * hardness)
        assert found.keys() <= {200, 202, 400, 404}, (revision, found)


def _message(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode()


def _bodies() -> Iterable[bytes]:
    size = 15 * 2**20
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"complete_task","arguments":'
    yield b"[" * size
    yield call + b"[" * size
    yield call + b'{"result":' * (size // 10)
    yield call + b'{"result":' + b"[" * 400 + b"]" * 400 + b"}}}"
    yield call + b'{"task_id":"x","result":[' + b"[]," * (size // 3) + b"[]]}}}"
    yield call + b'{"a":"' + b"\\ud800" * 1000 + b'"}}}'
    yield call + b'{"task_id":"x","result":"' + b"x" * size + b'"}}}'
    yield call + b'{"task_id":"' + b"x" * size + b'"}}}'
    yield call + b"{" + b",".join(b'"%d":1' % n for n in range(200_000)) + b"}}}"
    yield call + b'{"task_id":"x","result":1' + b"0" * 1_000_000 + b"}}}"
    yield call.replace(b'"id":1', b'"id":"' + b"i" * size + b'"') + b"{}}}"


async def messages_beyond_measure(port: int, hardness: int) -> None:
    """Deep, wide and long ones: refused before they are taken apart, or as the fault that they are."""
    for revision in (MODERN, OLD):
        asked = [asking(revision, "tools/call", {"name": "complete_task"}, body) for body in _bodies()]
        found = await all_of(port, asked * hardness, at_once=4)
        assert found.keys() <= {200, 400, 413, 503, None}, (revision, found)
        assert found[400], (revision, found)


async def claims_without_end(port: int, hardness: int) -> None:
    """Thousands that wait for a task that never comes, and leave nothing behind when they go. Of one and the same agent
    only the latest waits."""
    about = {"work_directory": "/abuse/mcp", "wait_seconds": 50}
    later = tool(MODERN, "create_task", work_directory="/abuse/mcp", prompt="x", delay_seconds=100_000)
    assert await all_of(port, [later]) == {200: 1}
    for revision in (MODERN, OLD):
        async with connections(port, 1000 * hardness) as opened:
            for number, (_, writer) in enumerate(opened):
                writer.write(tool(revision, "claim_next_task", **about, worker_id=f"{number}"))
            await until(lambda: _waiting(port, "/abuse/mcp", 1000 * hardness))
        await until(lambda: _waiting(port, "/abuse/mcp", 0))
        same = tool(revision, "claim_next_task", **about, worker_id="one")
        async with connections(port, 1000 * hardness, begin=same) as opened:
            heard = [asyncio.create_task(reader.read(1)) for reader, _ in opened]
            await until(lambda: sum(it.done() for it in heard) >= len(heard) - 1)  # noqa: B023
            assert await _waiting(port, "/abuse/mcp", 1)
            for it in heard:
                it.cancel()
        await until(lambda: _waiting(port, "/abuse/mcp", 0))


async def claims_dropped_at_once(port: int, hardness: int) -> None:
    """Asked and gone, before anything can have come of it; what was there to be claimed is still there in the end."""
    path = "/abuse/dropped"
    made = await all_of(port, [tool(MODERN, "create_task", work_directory=path, prompt=f"{n}") for n in range(20)])
    assert made == {200: 20}
    for number in range(MANY * hardness):
        async with connection(port) as (_, writer):
            writer.write(tool(REVISIONS[number % 3], "claim_next_task", work_directory=path, wait_seconds=50))
            await asyncio.sleep(0)
    await until(lambda: _waiting(port, path, 0))
    await until(lambda: _counted(port, path, {"waiting": 20, "working": 0}))


async def subscriptions_without_end(port: int, hardness: int) -> None:
    """As many as one wishes: a key gets so many streams and no more, whatever they are for."""
    listens = asking(MODERN, "subscriptions/listen", {"notifications": {"resourceSubscriptions": ["queue://stats"]}})
    for _ in range(2):
        async with connections(port, STREAMS_MAX + 20 * hardness) as opened:
            heads: Counter[bool] = Counter()
            for reader, writer in opened:
                writer.write(listens)
                said = await reader.readuntil(b"\r\n\r\n") + await reader.read(4096)
                heads[b"acknowledged" in said] += 1
            assert heads == {True: STREAMS_MAX, False: 20 * hardness}, heads
        await until(lambda: _has_room(port, listens))


async def _has_room(port: int, listens: bytes) -> bool:
    async with connection(port) as (reader, writer):
        writer.write(listens)
        return b"acknowledged" in await reader.readuntil(b"\r\n\r\n") + await reader.read(4096)


async def false_labels(port: int, hardness: int) -> None:
    """Headers that say otherwise than the message, versions that were never made, other methods of HTTP."""
    good = {"name": "queue_stats", "arguments": {}}
    body = _message(method="tools/call", params={**good, "_meta": META})
    lines = [f"Mcp-Name: {it}\r\n" for it in ("claim_next_task", "x" * 5000, "=?utf-8?B?eA==?=", "\x7f")]
    lines += [f"MCP-Protocol-Version: {it}\r\n" for it in ("1999-01-01", "x", "2026-07-28, 2025-06-18", "9" * 5000)]
    lines += [f"Mcp-Session-Id: {it}\r\n" for it in ("x", "../..", "0" * 5000)]
    lines += ["Accept: text/html\r\n", "Content-Type: text/plain\r\n", "Last-Event-ID: 5\r\n"]
    for revision in (MODERN, OLD):
        found = await all_of(port, [request(revision, "tools/call", good, body, KEYED + it) for it in lines] * hardness)
        assert found.keys() <= {200, 400, 404, 406, 415}, (revision, found)
    for method in (b"GET", b"DELETE", b"PUT", b"PATCH", b"TRACE"):
        asked = initialize(OLD).replace(b"POST", method, 1).replace(b"Host:", KEYED.encode() + b"Host:", 1)
        assert await all_of(port, [asked]) == {405: 1}


async def _waiting(port: int, path: str, number: int) -> bool:
    return await _counted(port, path, {"waiting_workers": number})


async def _counted(port: int, path: str, wanted: dict[str, int]) -> bool:
    async with connection(port) as (reader, writer):
        head = f"GET /api/v1/work-directories HTTP/1.1\r\nHost: localhost\r\n{KEYED}Connection: close\r\n\r\n"
        writer.write(head.encode())
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
    directories = json.loads(body)["data"]["work_directories"]
    found = next((it for it in directories if it["work_directory"] == path), dict.fromkeys(wanted, 0))
    return all(found[name] == number for name, number in wanted.items())


ATTACKS: Sequence[Attack] = (
    *(handshakes, lists_of_tools, unknown_methods, messages_that_are_none, messages_beyond_measure),
    *(claims_without_end, claims_dropped_at_once, subscriptions_without_end, false_labels),
)
