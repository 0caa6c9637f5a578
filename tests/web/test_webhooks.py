"""The webhook: what it says, that nothing is lost, and where it never goes."""

import asyncio
import base64
import hmac
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import RecordFailed
from dispatcher.ports import Entry, Told
from dispatcher.record import EventFilter, Stretch
from tests.conftest import ServerProcess
from tests.web.conftest import connected, until
from web import webhooks
from web.codec import structure
from web.outbound import NotDelivered, Post, endpoint, is_public
from web.settings import Webhooks
from web.strict import Invalid
from web.webhooks import Courier

ON_EVERY_RECORD = True

SECRET = "a secret of some length"


class Receiver:
    """An endpoint that keeps what it is told, and answers as it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, bytes]] = []
        self.answer: Callable[[dict[str, Any]], int] = lambda _: 204
        self.events: list[dict[str, Any]] = []  # that it has taken
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((request.headers, body))
        event = json.loads(body)
        status = self.answer(event)
        if status < 300:
            self.events.append(event)
        return web.Response(status=status, headers={"Location": "/hook"} if status == 302 else None)

    @property
    def seqs(self) -> list[int]:
        return sorted({event["seq"] for event in self.events})

    def environ(self, **others: str) -> dict[str, str]:
        return {
            "APP_WEBHOOKS_URL": self.url,
            "APP_WEBHOOKS_SECRET": SECRET,
            "APP_WEBHOOKS_ALLOW_PRIVATE": "true",
            **others,
        }


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listening() as receiver:
        yield receiver


def stop(server: ServerProcess) -> None:
    if server.process.poll() is None:
        assert server.terminate() == 0


# What it says


async def test_every_event_is_told_signed_and_with_its_id(
    receiver: Receiver, tmp_path: Path, own_record: str | None
) -> None:
    server = ServerProcess(tmp_path, environ=receiver.environ(), record=own_record).start()
    try:
        async with connected(server) as api:
            task = await api.claimed("/w")
            await api.tell(task, "complete", result={"answer": 42})
            await until(lambda: len(receiver.events) >= 3)
            in_order = sorted(receiver.events, key=lambda event: event["seq"])
            assert [(event["type"], event["task_id"]) for event in in_order] == [
                ("task.created", task["task_id"]),
                ("task.claimed", task["task_id"]),
                ("task.completed", task["task_id"]),
            ]
    finally:
        stop(server)
    for headers, body in receiver.requests:
        event = json.loads(body)
        assert headers["Content-Type"] == "application/json"
        assert headers["webhook-id"] == str(event["seq"])
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.digest(SECRET.encode(), content, sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert event.keys() == {
            "seq",
            "type",
            "task_id",
            "work_directory",
            "status",
            "priority",
            "worker_id",
            "attempt",
            "at",
            "details",
        }


async def test_only_the_wanted_events_are_told(receiver: Receiver, tmp_path: Path, own_record: str | None) -> None:
    environ = receiver.environ(APP_WEBHOOKS_EVENTS="task.completed,directory.paused")
    server = ServerProcess(tmp_path, environ=environ, record=own_record).start()
    try:
        async with connected(server) as api:
            await api.tell(await api.claimed("/w"), "complete")
            await api.post("/api/v1/work-directories/pause?path=/w", {})
            await until(lambda: len(receiver.events) == 2)
            assert {event["type"] for event in receiver.events} == {"task.completed", "directory.paused"}
    finally:
        stop(server)


async def test_a_secret_in_base64_is_decoded() -> None:
    key = b"sixteen bytes ok"
    secret = "whsec_" + base64.b64encode(key).decode()
    async with listening() as receiver:
        settings = Webhooks(url=receiver.url, secret=secret, allow_private=True)
        async with endpoint(settings) as post:
            await post("7", b'{"seq": 7}')
    headers, body = receiver.requests[0]
    content = f"7.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, content, sha256)).decode()


# Nothing is lost


async def test_what_is_refused_is_told_again_until_it_is_taken(
    receiver: Receiver, tmp_path: Path, own_record: str | None
) -> None:
    times = 0

    def grudgingly(event: dict[str, Any]) -> int:
        nonlocal times
        times += 1
        return 204 if times > 2 else 500

    receiver.answer = grudgingly
    server = ServerProcess(tmp_path, environ=receiver.environ(), record=own_record).start()
    try:
        async with connected(server) as api:
            await api.create("/w")
            await until(lambda: receiver.seqs == [1])
    finally:
        stop(server)
    assert len(receiver.requests) >= 3


async def test_nothing_is_lost_while_endpoint_and_server_are_away(tmp_path: Path, own_record: str | None) -> None:
    async with listening() as first:
        environ = first.environ()
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        server = ServerProcess(tmp_path, environ=environ, record=own_record).start()
        try:
            async with connected(server) as api:
                await api.create("/w")
                await until(lambda: first.seqs == [1])
        except BaseException:
            server.kill()
            raise
    try:
        async with connected(server) as api:  # the endpoint has gone
            for _ in range(40):
                await api.create("/w")
        server.kill()
        async with listening(port) as second:
            server.start()
            await until(lambda: set(range(2, 42)) <= set(second.seqs))
    finally:
        stop(server)


async def test_a_new_endpoint_hears_what_happens_from_then_on(
    receiver: Receiver, tmp_path: Path, own_record: str | None
) -> None:
    server = ServerProcess(tmp_path, record=own_record).start()
    try:
        async with connected(server) as api:
            await api.create("/w")
        assert server.terminate() == 0
        server.environ = receiver.environ()
        server.start()
        async with connected(server) as api:
            before = len(await api.history(await api.create("/w")))
            await until(lambda: receiver.seqs)
            assert before == 1
            assert min(receiver.seqs) > 1
    finally:
        stop(server)


async def test_an_endpoint_that_hangs_holds_nobody_up(tmp_path: Path, own_record: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as never_accepts:
        environ = Receiver().environ(APP_WEBHOOKS_URL=f"http://127.0.0.1:{never_accepts.getsockname()[1]}/")
        server = ServerProcess(tmp_path, environ=environ, record=own_record).start()
        try:
            async with connected(server) as api:
                for _ in range(20):
                    await api.tell(await api.claimed("/w"), "complete")
        finally:
            stop(server)


# The courier by itself


def entry(seq: int) -> Entry:
    return Entry(
        seq=seq, type="task.created", task_id=str(seq), work_directory="/w", priority=None, status=None, at=seq
    )


def changed(seq: int, *settings: str) -> Entry:
    return evolve(entry(seq), type="config.changed", task_id=None, details={"changes": {key: {} for key in settings}})


class Record:
    """A history in memory, and how far it has been told."""

    def __init__(self) -> None:
        self.last, self.place, self.down = 0, None, False

    async def events(self, after: int, limit: int, only: EventFilter) -> Stretch:
        if self.down:
            raise RecordFailed("down")
        entries = tuple(entry(seq) for seq in range(after + 1, min(self.last, after + limit) + 1))
        return Stretch(entries=entries, up_to=entries[-1].seq if entries else after, first=1, last=self.last)

    async def webhook_place(self) -> int | None:
        return self.place

    async def keep_webhook_place(self, seq: int | None) -> None:
        self.place = seq


class Desk:
    """A courier whose endpoint does as `answers` says, and which does not wait for real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Sequence[Exception | None] = ()) -> None:
        self.record, self.now, self.told, self.answers = Record(), 0, list[int](), list(answers)
        self.waits: list[float] = []
        self.ills: list[Any] = []  # its health at each of them
        self.courier = Courier(self.record, self.record, lambda: self.now, 0, self.connect)  # type: ignore[arg-type]
        self.courier.adopt(Webhooks(url="https://example.com/", secret=SECRET))

        async def pass_time(seconds: float) -> bool:
            self.waits.append(seconds)
            self.ills.append(self.courier.health())
            self.now += round(seconds * 1000)
            await asyncio.sleep(0)
            return self.courier._changed.is_set()

        monkeypatch.setattr(Courier, "_interrupted", lambda _, seconds: pass_time(seconds))
        monkeypatch.setattr(webhooks, "WINDOW", 1)

    def happen(self, *entries: Entry) -> None:
        """They are recorded, and told as what another server has done."""
        self.record.last = entries[-1].seq
        self.courier.hear([Told(entry) for entry in entries])

    @asynccontextmanager
    async def connect(self, settings: Webhooks) -> AsyncIterator[Post]:
        async def post(id: str, body: bytes) -> None:
            answer = self.answers.pop(0) if self.answers else None
            if answer:
                raise answer
            self.told.append(int(id))

        yield post

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Courier]:
        work = asyncio.create_task(self.courier.run())
        try:
            yield self.courier
        finally:
            work.cancel()
            await asyncio.wait([work])


async def test_back_off_doubles_up_to_a_bound_and_a_dead_endpoint_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, [NotDelivered("down")] * 30)
    desk.record.place, desk.record.last = 0, 1
    async with desk.at_work() as courier:
        await until(lambda: desk.told == [1])
        ill = desk.ills[-1]
        assert (ill["parked"], ill["healthy"], ill["last_error"]) == (True, False, "down")
        assert courier.health() == {
            "healthy": True,
            "configured": True,
            "parked": False,
            "failing_since": None,
            "last_error": None,
            "told_up_to": 1,
        }
    parked = desk.waits.index(webhooks.PARKED_DELAY_SECONDS)
    assert sum(desk.waits[:parked]) >= webhooks.PARKED_AFTER_SECONDS
    assert set(desk.waits[parked:]) == {webhooks.PARKED_DELAY_SECONDS}
    for at, seconds in enumerate(desk.waits[:parked]):
        assert 0.8 <= seconds / min(2**at, webhooks.DELAY_MAX_SECONDS) <= 1.2


async def test_an_endpoint_that_is_gone_is_parked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, [NotDelivered("it answered 410", gone=True)])
    desk.record.place, desk.record.last = 0, 1
    async with desk.at_work():
        await until(lambda: desk.told == [1])
    assert desk.waits == [webhooks.PARKED_DELAY_SECONDS]


async def test_how_far_it_has_told_is_kept_and_forgotten_with_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch)
    desk.happen(*map(entry, range(1, 5)), changed(5, "webhooks.url"))
    async with desk.at_work() as courier:
        await until(lambda: desk.record.place == 5)  # a new endpoint: nothing is told of before
        desk.happen(entry(6), entry(7))
        await until(lambda: desk.told == [6, 7])
    assert desk.record.place == 7  # also where it stops before the second is over
    desk.record.last = 9
    async with desk.at_work() as courier:
        await until(lambda: desk.told == [6, 7, 8, 9])
        courier.adopt(Webhooks())
        await until(lambda: desk.record.place is None)
        assert courier.health()["configured"] is False


async def test_a_record_that_cannot_be_read_only_delays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_DELAY_SECONDS", 0)
    desk = Desk(monkeypatch)
    desk.record.place, desk.record.last, desk.record.down = 0, 1, True
    async with desk.at_work():
        await until(lambda: desk.courier._news)
        desk.record.down = False
        await until(lambda: desk.told == [1])


# Where it never goes


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "::127.0.0.1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
def test_private_addresses_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_a_private_address_is_not_told_unless_allowed(receiver: Receiver, host: str) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    async with endpoint(Webhooks(url=url, secret=SECRET)) as post:
        with pytest.raises(NotDelivered, match=r"public|talked"):
            await post("1", b"{}")
    assert receiver.requests == []


async def test_redirections_are_not_followed(receiver: Receiver) -> None:
    receiver.answer = lambda _: 302
    async with endpoint(Webhooks(url=receiver.url, secret=SECRET, allow_private=True)) as post:
        with pytest.raises(NotDelivered, match="302"):
            await post("1", b"{}")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"url": "ftp://example.com/"},
        {"url": "example.com"},
        {"url": "https://"},
        {"url": "https://me:pass@example.com/"},
        {"url": "https://example.com/ x"},
        {"url": "https://example.com:99999/"},
        {"url": "https://example.com/#part"},
        {"secret": "short"},
        {"secret": "whsec_not base64!!!!"},
        {"secret": None},
        {"events": ["task.created", "task.created"]},
        {"timeout_seconds": 0},
    ],
)
def test_unusable_settings_are_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        structure({"url": "https://example.com/", "secret": SECRET, **fault}, Webhooks)
    assert [it.field for it in refused.value.faults] == list(fault)


@given(st.text(max_size=40))
def test_any_text_for_a_url_is_taken_or_refused(url: str) -> None:
    try:
        structure({"url": url, "secret": SECRET}, Webhooks)
    except Invalid as refused:
        faults = {it.field for it in refused.faults}
    else:
        faults = set()
    assert faults <= {"url"}


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(Webhooks(url="https://example.com/", secret=SECRET))


async def test_the_place_of_an_endpoint_that_was_taken_away_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the server was started without one: the next one is new."""
    desk = Desk(monkeypatch)
    desk.record.place = 3
    desk.happen(*map(entry, range(1, 10)))
    desk.courier.adopt(Webhooks())
    async with desk.at_work():
        await until(lambda: desk.record.place is None)
    desk.happen(changed(10, "webhooks.url"))
    desk.courier.adopt(Webhooks(url="https://example.com/", secret=SECRET))
    async with desk.at_work():
        await until(lambda: desk.record.place == 10)
    assert desk.told == []


async def test_a_new_endpoint_is_told_of_all_since_its_settings_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late it comes to know them: what happens meanwhile is not lost."""
    desk = Desk(monkeypatch)
    desk.courier.adopt(Webhooks())
    async with desk.at_work() as courier:
        desk.happen(entry(1), changed(2, "webhooks.url", "task.priority"))
        courier.adopt(Webhooks(url="https://example.com/", secret=SECRET))
        desk.happen(entry(3), changed(4, "task.priority"), entry(5))
        await until(lambda: desk.told == [3, 4, 5])


async def test_a_new_endpoint_waits_until_it_is_heard_since_when_its_settings_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are adopted before they are told, where what others did comes first."""
    desk = Desk(monkeypatch)
    desk.record.last = 3
    asked = asyncio.Event()
    events = desk.record.events

    async def notice(after: int, limit: int, only: EventFilter) -> Stretch:
        asked.set()
        return await events(after, limit, only)

    monkeypatch.setattr(desk.record, "events", notice)
    async with desk.at_work():
        await asyncio.wait_for(asked.wait(), 10)
        assert desk.record.place is None
        desk.happen(entry(1), changed(2, "webhooks.url"), entry(3))
        await until(lambda: desk.told == [3])


async def test_an_endpoint_that_is_set_at_the_start_hears_of_all_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch)
    desk.happen(entry(1), entry(2))
    async with desk.at_work():
        await until(lambda: desk.told == [1, 2])


async def test_what_may_be_a_key_in_an_address_is_shown_to_nobody(
    receiver: Receiver, tmp_path: Path, own_record: str | None
) -> None:
    """Neither in the settings nor in their history, nor in the feed."""
    server = ServerProcess(tmp_path, record=own_record).start()
    try:
        async with connected(server) as api:
            changes = {"webhooks.url": f"{receiver.url}/SECRETTOKEN?key=SECRETTOKEN", "webhooks.secret": SECRET}
            answer = await api.call("PATCH", "/api/v1/config", json={"changes": changes})
            assert answer.data["settings"]["webhooks.url"]["value"] == "http://127.0.0.1/…"
            told = [answer, await api.get("/api/v1/config"), await api.get("/api/v1/config/history")]
            told.append(await api.call("GET", "/api/v1/events", headers={"Accept": "application/json"}))
            for one in told:
                assert one.status == 200
                assert b"SECRETTOKEN" not in one.content
                assert SECRET.encode() not in one.content
    finally:
        stop(server)


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Interim answers, as long as somebody listens."""
    try:
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_an_endpoint_that_talks_without_end_is_hung_up_on() -> None:
    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    settings = Webhooks(url=f"http://127.0.0.1:{port}/", secret=SECRET, allow_private=True, timeout_seconds=30)
    async with listener, endpoint(settings) as post:
        with pytest.raises(NotDelivered):
            await asyncio.wait_for(post("1", b"{}"), 10)


async def test_other_settings_do_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch)
    desk.record.place, desk.record.last = 0, 1
    hanging = asyncio.Event()

    @asynccontextmanager
    async def hang(settings: Webhooks) -> AsyncIterator[Post]:
        async def post(id: str, body: bytes) -> None:
            hanging.set()
            await asyncio.Event().wait()

        yield post

    desk.courier.connect = hang
    async with desk.at_work():
        await asyncio.wait_for(hanging.wait(), 10)
        desk.courier.connect = desk.connect
        desk.courier.adopt(Webhooks(url="https://example.com/other", secret=SECRET))
        await until(lambda: desk.told == [1])
