"""A server whose record cannot be read yet says so, and nobody who comes meanwhile is turned away."""

import asyncio
import socket
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import version
from io import BytesIO

import pytest
from aiohttp import ClientConnectorError

from tests.web.conftest import TASKS, connected, raw, refused_start, text_of, until, wire
from web.settings import Server
from web.starting import bind


@asynccontextmanager
async def held_up(server):
    """Yields once the server, started on a database that somebody else has locked, answers; ends once it is ready."""
    assert server.terminate() == 0
    with server.opened() as db:
        db.execute("pragma locking_mode = exclusive")
        db.execute("begin exclusive")
        beginning = asyncio.create_task(asyncio.to_thread(server.start))
        try:
            await until(lambda: answers(server))
            assert not beginning.done()  # it greets once it is ready
            yield db
        finally:
            db.close()
            await beginning


async def answers(server):
    with suppress(OSError):
        return await raw(server, text_of("GET", "/health/live"))


async def test_while_the_record_is_locked_it_is_alive_and_not_ready(server):
    async with held_up(server), connected(server) as api:
        live, ready = await api.get("/health/live"), await api.get("/health/ready")
        assert (live.status, live.json) == (200, {"status": "alive"})
        assert (ready.status, ready.json) == (503, {"status": "starting"})
        for answer in (live, ready):
            assert (answer.headers["Connection"], answer.headers["Cache-Control"]) == ("close", "no-store")
        well = await api.get("/health")
        said = well.json
        assert (well.status, said.pop("status"), said.pop("version")) == (
            503,
            "unhealthy",
            version("task-orchestrator"),
        )
        assert (said.pop("database"), said.keys()) == ("unreachable", {"timestamp"})
    async with connected(server) as api:
        ready = await api.get("/health/ready")
        assert (ready.status, ready.json) == (200, {"status": "ready"})
        assert (await api.get("/health")).json["status"] == "healthy"


async def test_whatever_else_is_asked_meanwhile_shall_come_again(server):
    """In the envelope, also to one who sends much; each under its own name, and in the log."""
    async with held_up(server), connected(server) as api:
        assert (await api.get(TASKS)).refused(503, "UNAVAILABLE") == {}
        assert (await api.call("DELETE", "/health/live")).refused(503, "UNAVAILABLE") == {}
        assert (await api.call("HEAD", "/health/live")).status == 200
        answer = await api.call("POST", TASKS, data=BytesIO(b"x" * 2**23), headers={"X-Request-Id": "mine"})
        assert answer.refused(503, "UNAVAILABLE") == {}
        assert (answer.headers["X-Request-Id"], answer.headers["Retry-After"]) == ("mine", "1")
        assert (await raw(server, b"nonsense\r\n\r\n")).refused(400, "MALFORMED_REQUEST") == {}
    assert server.terminate() == 0
    (line,) = (line for line in server.log.read_text().splitlines() if '"mine"' in line)
    assert '"status":503' in line


async def asking(server, until_ready, seen):
    """Comes again and again, each time on a new connection, until it was served."""
    while not until_ready.is_set():
        answer = await raw(server, text_of("GET", f"{TASKS}?limit=1"))
        seen[answer.status] += 1
        if answer.status == 200:
            until_ready.set()


async def test_nobody_is_lost_when_the_server_itself_takes_over(server):
    """Neither those who connect then, nor those who did before and ask only now; who never asks holds up nothing."""
    seen, served = Counter(), asyncio.Event()
    async with AsyncExitStack() as early:
        async with held_up(server) as db:
            silent = [await early.enter_async_context(wire(server)) for _ in range(50)]
            never = await early.enter_async_context(wire(server))
            halves = [await early.enter_async_context(wire(server)) for _ in range(50)]
            for half in halves:
                await half.send(b"GET /health/live HT")
            for _ in silent:
                assert (await raw(server, text_of("GET", TASKS))).status == 503
            async with asyncio.TaskGroup() as callers:
                for _ in range(100):
                    callers.create_task(asking(server, served, seen))
                await until(lambda: seen[503] > 100)
                db.close()
        for one in silent:
            await one.send(text_of("GET", "/health/live"))
        for half in halves:
            await half.send(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        answered = [await one.answer() for one in silent + halves]
        assert await asyncio.to_thread(server.terminate) == 0
        assert await never.rest() == b""
    assert {answer.status for answer in answered} == {200}
    assert seen.keys() == {503, 200}


async def test_a_server_that_cannot_start_lets_go_of_its_port(server):
    """And says why, in one line."""
    assert server.terminate() == 0
    server.database.write_text("Dear diary, today I was nearly opened as a database. " * 100)
    refused = await asyncio.to_thread(refused_start, server.database, port=server.port)
    (line,) = refused.stderr.splitlines()
    assert (refused.returncode, "not a database" in line) == (1, True)
    async with connected(server) as api:
        with pytest.raises(ClientConnectorError):
            await api.get("/health/live")


def test_a_port_that_is_taken_is_told_before_the_database_is_touched(server, tmp_path):
    database = tmp_path / "other" / "tasks.db"
    refused = refused_start(database, port=server.port)
    assert (refused.returncode, refused.stdout) == (1, "")
    reason = f"error while attempting to bind on address ('127.0.0.1', {server.port}): address already in use"
    assert refused.stderr == f"task-orchestrator cannot start: {reason}\n"
    assert not database.parent.exists()


def test_a_name_is_listened_on_at_all_its_addresses(monkeypatch):
    """But for those that this machine has not; if it has none of them, that is an error."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "192.0.2.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    sockets = bind(Server(host="several"))
    assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1", "127.0.0.2"]
    for each in sockets:
        with socket.socket() as caller:
            caller.connect(each.getsockname())
            each.accept()[0].close()
        each.close()
    del found[2], found[0]
    with pytest.raises(OSError, match="cannot assign"):
        bind(Server(host="several"))
