"""nginx itself, as it is set up in deploy/nginx, before real servers and before some that misbehave."""

import asyncio
import re
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import ClientSession, TCPConnector, web
from attrs import define, field

from tests.conftest import ServerProcess
from tests.deploy.files import DEPLOY, LONGEST_WAIT_SECONDS
from tests.deploy.nginx import CONF, UPSTREAM, Nginx, door
from tests.postgres import free_port
from tests.web.conftest import TASKS, Api, Events, connected, running, until
from web.connections import LINE_BYTES_MAX
from web.delivery import PING_SECONDS
from web.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts/setup brings nginx on Linux only")
OF_COMPOSE = DEPLOY / "compose" / "upstream.conf"


def value(path, directive):
    """What a directive says; it must be there once."""
    (found,) = re.findall(rf"^\s*{directive} (.+);", path.read_text(), re.MULTILINE)
    return found


def seconds(path, directive):
    return int(value(path, directive).removesuffix("s"))


@define
class Odd:
    """An instance that does the same with every request: a status, None to break down, or an event to wait for."""

    answer: int | asyncio.Event | None
    asked: Counter = field(factory=Counter)
    port: int = 0

    async def __call__(self, request):
        self.asked[request.method] += 1
        await request.read()
        if self.answer is None:  # it breaks down
            request.transport.abort()
        if isinstance(self.answer, asyncio.Event):
            return await self.little_by_little(request)
        return web.Response(status=self.answer or 200)

    async def little_by_little(self, request):
        """Nothing in its head tells a proxy to hurry."""
        response = web.StreamResponse()
        response.content_length = len(b"first, last")
        await response.prepare(request)
        await response.write(b"first, ")
        await self.answer.wait()
        await response.write(b"last")
        return response


@asynccontextmanager
async def odd(*answers):
    async with AsyncExitStack() as stack:
        instances = []
        for answer in answers:
            instance = Odd(answer)
            runner = web.ServerRunner(web.Server(instance))
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            instance.port = runner.addresses[0][1]
            instances.append(instance)
        yield instances


@pytest.mark.parametrize("upstream", [UPSTREAM, OF_COMPOSE], ids=["nginx", "compose"])
def test_nginx_finds_nothing_to_complain_of(tmp_path, upstream):
    nginx = Nginx(tmp_path, upstream)
    nginx.write(*["127.0.0.1:9"] * 3)
    done = nginx.checked()
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\[(warn|error|emerg)\]", done.stderr), done.stderr


def test_nginx_finds_what_is_misspelt(tmp_path):
    nginx = Nginx(tmp_path)
    nginx.write("127.0.0.1:9")
    written = tmp_path / "conf.d" / CONF.name
    written.write_text(written.read_text().replace("proxy_buffering", "proxy_bufering"))
    assert 'unknown directive "proxy_bufering"' in nginx.checked().stderr


def test_its_bounds_are_those_of_the_server():
    server = Settings().server
    assert value(CONF, "client_max_body_size") == f"{server.max_body_bytes >> 20}m"
    assert seconds(CONF, "proxy_read_timeout") > max(LONGEST_WAIT_SECONDS, PING_SECONDS)
    assert int(value(CONF, "large_client_header_buffers").split("k")[0].split()[1]) * 1024 > LINE_BYTES_MAX
    for path in (UPSTREAM, OF_COMPOSE):
        assert seconds(path, "keepalive_timeout") < server.request_timeout_seconds


async def test_events_go_through_at_once(server, tmp_path, directory):
    """None is kept until more have gathered: the stream is open, and its events are here."""
    async with door(tmp_path, server) as api, api.stream(directory) as tasks:
        feed = await api.session.get(f"{api.url}/api/v1/events", headers={"Accept": "text/event-stream"})
        async with feed:
            events = Events(feed)
            made = await api.create(directory)
            assert (await events.next())[1]["task_id"] == made["task_id"]
            assert (await tasks.task())["task_id"] == made["task_id"]


async def test_nothing_is_kept_back(tmp_path):
    """The beginning of an answer is here while the instance still holds its end."""
    end = asyncio.Event()
    async with odd(end) as instances, door(tmp_path, *instances) as api, api.session.get(f"{api.url}/x") as response:
        async with asyncio.timeout(5):
            assert await response.content.readany() == b"first, "
        end.set()
        assert await response.content.read() == b"last"


async def test_a_reader_that_has_left_is_gone_for_the_server_too(server, tmp_path, directory):
    async with door(tmp_path, server) as api, connected(server) as direct:
        async with api.stream(directory):
            await direct.busy_with(1)
        await direct.busy_with(0)


async def test_a_claim_that_waits_gets_its_task(server, tmp_path, directory):
    async with door(tmp_path, server) as api, connected(server) as direct:
        claim = asyncio.create_task(api.next(directory, wait_seconds=10))
        await direct.busy_with(1)
        made = await api.create(directory)
        assert (await claim)["task_id"] == made["task_id"]


async def test_the_name_of_a_request_goes_all_the_way(server, tmp_path):
    async with door(tmp_path, server) as api:
        named = await api.call("GET", f"{TASKS}?q=secret", headers={"X-Request-Id": "mine-1"})
        assert named.headers.getall("X-Request-Id") == ["mine-1"]
        bad = await api.call("GET", "/health/live", headers={"X-Request-Id": "not sane"})
        logged = await until(lambda: (found := api.nginx.log())[1:] and found)
    assert [it["request_id"] for it in logged] == ["mine-1", bad.headers["X-Request-Id"]]
    assert logged[0]["path"] == TASKS
    assert logged[0]["instance_status"] == "200"


async def test_a_page_of_our_own_may_speak_and_no_other(server, tmp_path, directory):
    """The name that the browser knows, with its port, is the one that the server sees."""
    async with door(tmp_path, server) as api:
        for origin, status in ((api.url, 201), ("http://elsewhere.example", 403)):
            body = {"work_directory": directory, "prompt": "x"}
            assert (await api.call("POST", TASKS, json=body, headers={"Origin": origin})).status == status


async def test_the_server_knows_who_is_asking_whatever_they_say_of_themselves(tmp_path):
    """Through the proxy, and only because it is trusted."""
    allowed = {"APP_SECURITY_IP_ALLOWLIST": "127.0.0.2", "APP_SERVER_TRUSTED_PROXIES": "127.0.0.1"}
    with running(tmp_path, **allowed) as server:
        async with door(tmp_path, server) as api:
            said = ({}, {"X-Forwarded-For": "127.0.0.2"}, {"Forwarded": "for=127.0.0.2"}, {"Forwarded": "for=10.0.0.1"})
            for headers in said:
                (await api.call("GET", TASKS, headers=headers)).refused(403, "FORBIDDEN")
            connector = TCPConnector(local_addr=("127.0.0.2", 0))
            async with ClientSession(connector=connector) as session:
                other = Api(session, api.url)
                for headers in said:
                    assert (await other.call("GET", TASKS, headers=headers)).status == 200


async def test_what_is_too_large_or_not_for_everybody_stops_at_the_door(server, tmp_path, directory):
    most = Settings().server.max_body_bytes
    async with door(tmp_path, server) as api:
        assert (await api.get("/metrics")).status == 404
        assert (await api.post(TASKS, b" " * (most + 1))).status == 413
        assert (await api.post(TASKS, b" " * most)).status == 400
        (last,) = [it for it in await until(api.nginx.log) if it["status"] == "413"]
    assert last["instance"] == ""


async def test_who_is_turned_down_with_503_asks_the_next_one_only_if_it_changes_nothing(tmp_path):
    async with odd(503, 200) as (busy, idle), door(tmp_path, busy, idle) as api:
        assert [(await api.get("/x")).status for _ in range(2)] == [200, 200]
        assert busy.asked["GET"] >= 1
    async with odd(503, 503) as instances, door(tmp_path, *instances) as api:
        for method in ("POST", "PATCH"):
            assert (await api.call(method, "/x", data=b"{}")).status == 503
            assert sum(it.asked[method] for it in instances) == 1


async def test_what_was_sent_and_may_have_changed_something_is_never_repeated(tmp_path):
    """An instance breaks down over it: a GET goes to the next one, a POST or PATCH comes back as 502."""
    async with odd(None, None) as instances, door(tmp_path, *instances) as api:
        for method in ("POST", "PATCH"):
            assert (await api.call(method, "/x", data=b"{}")).status == 502
            assert sum(it.asked[method] for it in instances) == 1
    async with odd(None, 200) as (broken, well), door(tmp_path, broken, well) as api:
        assert [(await api.get("/x")).status for _ in range(2)] == [200, 200]
        assert broken.asked["GET"] >= 1


async def test_what_could_not_be_sent_goes_to_the_next_one(tmp_path):
    """An instance that is not there has changed nothing."""
    async with odd(200) as (well,), door(tmp_path, free_port(), well) as api:
        assert [(await api.post("/x", {})).status for _ in range(4)] == [200] * 4


async def test_nobody_who_asks_notices_that_an_instance_is_stopped(server, tmp_path):
    (tmp_path / "other").mkdir()
    other = ServerProcess(tmp_path / "other").start()
    async with door(tmp_path, server, other) as api:
        answers = []

        async def ask():
            while len(answers) < 400:
                answers.append((await api.get(f"{TASKS}?limit=1")).status)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await until(lambda: len(answers) > 50)
        assert await asyncio.to_thread(other.terminate) == 0
        await asyncio.gather(*asking)
    assert set(answers) == {200}
