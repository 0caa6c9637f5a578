"""Who comes too often is told so, and when to come again; whoever keeps to the rate never notices."""

import json
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, Api, text_of, until, wire
from tests.web.inside import inside
from tests.web.test_buckets import Clock
from tests.web.test_openapi import validator
from web.access.buckets import SECOND
from web.access.rate_settings import ENDPOINT_CLASSES, RateLimit
from web.access.rates import GOOD_MOST, Rates, is_in_force, subscriber
from web.routes import ROUTES
from web.settings import Server, Settings
from web.sources import gather, settings_of

KEY = "correct-horse-battery-staple"
CONFIG, RATES = "/api/v1/config", "/api/v1/rate-limits"
KEYS, SESSION = "/api/v1/keys", "/api/v1/session"
REFUSED = validator({"$ref": "#/components/schemas/Refused_RATE_LIMITED"})
HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


@asynccontextmanager
async def limited(directory, key=None, **settings):
    """A caller of a server that limits, and a clock that stands still unless it is moved."""
    with_key = {"API_SECRET_KEY": key} if key else {}
    async with inside(directory, **with_key, **environment(**settings)) as (api, service, _):
        clock = Clock()
        service.rates = Rates(clock)
        service.follow(service.rates.adopt)
        yield api, service, clock


def environment(**settings):
    settings = {"enabled": "true", **settings}
    return {f"APP_RATE_LIMIT_{name.upper()}": str(value) for name, value in settings.items()}


def told(answer):
    """How many requests a bucket holds, how many are left, and in how many seconds it is full."""
    return tuple(int(answer.headers[name]) for name in HEADERS)


def too_often(answer, kind):
    """The details of a refusal, which says in its head when to come again."""
    details = answer.refused(429, "RATE_LIMITED")
    assert details.keys() == {"kind", "limit", "retry_after_seconds"}
    assert details["kind"] == kind
    assert 0 <= int(answer.headers["Retry-After"]) - details["retry_after_seconds"] <= 1
    assert told(answer)[:2] == (details["limit"], 0)
    assert REFUSED.is_valid(answer.json)
    return details


async def rate_limits(api):
    return (await api.get(RATES)).data


# What callers are told


async def test_every_answer_tells_how_it_stands_and_who_comes_too_often_is_told_when_to_come_again(tmp_path):
    async with limited(tmp_path, requests_per_second=2, burst=8) as (api, _service, clock):
        task = await api.post(TASKS, {"work_directory": "/a", "prompt": "x"})
        assert (task.status, told(task)) == (201, (8, 7, 1))
        for left, (method, path, status) in enumerate(
            [
                ("GET", TASKS, 200),
                ("GET", "/nowhere", 404),
                ("PUT", TASKS, 405),
                ("OPTIONS", TASKS, 204),
                ("GET", f"{TASKS}?limit=x", 400),
                ("GET", "/docs", 200),
                ("HEAD", TASKS, 200),
            ],
            start=1,
        ):
            answer = await api.call(method, path)
            assert (answer.status, *told(answer)) == (status, 8, 7 - left, (left + 2) // 2), (method, path)
        answer = await api.get(TASKS)
        assert too_often(answer, "address") == {"kind": "address", "limit": 8, "retry_after_seconds": 0.5}
        assert (answer.headers["Retry-After"], told(answer)[2]) == ("1", 4)
        clock.now += SECOND // 2
        assert told(await api.get(TASKS)) == (8, 0, 4)
        too_often(await api.post(TASKS, {"work_directory": "/a", "prompt": "x"}), "address")
        clock.now += 100 * SECOND
        assert told(await api.get(TASKS)) == (8, 7, 1)
        assert (await api.get(TASKS)).data["total"] == 1


async def test_health_is_told_however_often_it_is_asked_for(tmp_path):
    """A flood must not have the server restarted."""
    async with limited(tmp_path, requests_per_second=1, burst=1) as (api, _service, _clock):
        await api.get(TASKS)
        for path in ("/health", "/health/live", "/health/ready") * 3:
            answer = await api.get(path)
            assert answer.status == 200
            assert not set(HEADERS) & set(answer.headers)
        for path in ("/healthy", "/health/nowhere/", "//health", "/metrics", "/openapi.json"):
            too_often(await api.get(path), "address")


async def test_on_loopback_nobody_is_limited_unless_it_is_asked_for(tmp_path):
    async with inside(tmp_path) as (api, _service, _):
        answer = await api.get(TASKS)
        assert not set(HEADERS) & set(answer.headers)
        says = await rate_limits(api)
        assert (says["enabled"], says["limits"], says["emptiest"]) == (False, [], [])
        assert (says["settings"]["requests_per_second"], says["settings"]["burst"]) == (1000, 2000)


@pytest.mark.parametrize(
    ("host", "enabled", "in_force", "kinds"),
    [
        ("127.0.0.1", None, False, []),
        ("localhost", None, False, []),
        ("::1", False, False, []),
        ("127.0.0.1", True, True, ["address", "key", "authentication"]),
        ("0.0.0.0", None, True, ["address", "key", "authentication"]),
        ("::", True, True, ["address", "key", "authentication"]),
        ("0.0.0.0", False, False, ["authentication"]),
    ],
)
def test_beyond_loopback_callers_are_limited_unless_it_is_forbidden_and_those_who_try_keys_always(
    host, enabled, in_force, kinds
):
    settings = Settings(server=Server(host=host), rate_limit=RateLimit(enabled=enabled))
    assert is_in_force(settings) == in_force
    rates = Rates(Clock())
    rates.adopt(settings)
    assert [table.kind for table in rates.tables()] == kinds


# What counts


async def test_a_wait_and_a_stream_count_once(tmp_path):
    async with limited(tmp_path, requests_per_second=1, burst=4) as (api, *_), api.stream("/a") as events:
        assert told(events.response) == (4, 3, 1)
        await api.create("/a")
        await events.task()
        assert told(await api.get(f"{TASKS}/next", work_path="/b", wait_seconds=0.05)) == (4, 1, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a machine has but one loopback address")
async def test_each_address_has_a_bucket_of_its_own(tmp_path):
    async with limited(tmp_path, burst=2, requests_per_second=1) as (api, *_):
        for address in ("127.0.0.2", "127.1.2.3"):
            async with ClientSession(connector=TCPConnector(local_addr=(address, 0))) as session:
                there = Api(session, api.url)
                assert [told(await there.get(TASKS))[:2] for _ in range(2)] == [(2, 1), (2, 0)]
                too_often(await there.get(TASKS), "address")
        says = await rate_limits(api)
        assert [(it["who"], it["remaining"]) for it in says["emptiest"]] == [
            *(("127.0.0.2", 0), ("127.1.2.3", 0), ("127.0.0.1", 1)),
        ]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::1", "::/64"),
        ("a:strange:one", "a:strange:one"),
        ("", ""),
    ],
)
def test_of_ipv6_a_subscriber_counts_not_each_of_the_addresses_that_one_has(address, counted):
    assert subscriber(address) == counted


async def test_who_asks_before_sending_a_body_is_counted_once(tmp_path):
    async with limited(tmp_path, requests_per_second=1, burst=3) as (api, _service, _clock):
        body = b'{"work_directory": "/a", "prompt": "x"}'
        answer = await api.call("POST", TASKS, data=body, expect100=True, headers={"Content-Type": "application/json"})
        assert (answer.status, *told(answer)[:2]) == (201, 3, 2)


# What a refusal costs


async def test_a_refusal_does_not_wait_for_the_body(tmp_path):
    """It comes before a byte of it, and the connection ends; without a body it goes on."""
    server = ServerProcess(tmp_path, environ=environment(requests_per_second=0.1, burst=1)).start()
    try:
        async with wire(server) as line:
            for status in (200, 429, 429):
                await line.send(text_of("GET", TASKS))
                answer = await line.answer()
                assert answer.status == status
                assert "Connection" not in answer.headers
            head = text_of("POST", TASKS, Content_Length="1000000", Content_Type="application/json")
            await line.send(head)
            answer = await line.answer()
            assert answer.headers["Connection"] == "close"
            too_often(answer, "address")
        async with wire(server) as line:
            body = {"Content_Length": "10", "Content_Type": "application/json"}
            await line.send(text_of("POST", TASKS, **body, Expect="100-continue"))
            too_often(await line.answer(), "address")  # it was not told to go on
    finally:
        assert server.terminate() == 0


# While the server runs


async def test_a_rate_that_is_changed_holds_at_once(tmp_path):
    async with inside(tmp_path) as (api, service, _):
        clock = Clock()
        service.rates = Rates(clock)
        service.follow(service.rates.adopt)

        async def change(**changes):
            changes = {f"rate_limit.{name}": value for name, value in changes.items()}
            return await api.call("PATCH", CONFIG, json={"changes": changes})

        assert (await change(enabled=True, requests_per_second=1, burst=3)).status == 200
        for left in (2, 1, 0):
            assert told(await api.get(TASKS)) == (3, left, 3 - left)
        too_often(await api.get(TASKS), "address")
        clock.now += SECOND
        answer = await change(requests_per_second=10, burst=5)
        assert answer.status == 200
        assert told(await api.get(TASKS)) == (5, 1, 1)  # of five three are missing, and this one
        assert (await change(per_ip=False)).status == 200
        assert not set(HEADERS) & set((await api.get(TASKS)).headers)
        assert (await change(per_ip=True)).status == 200
        assert told(await api.get(TASKS)) == (5, 4, 1)
        assert (await change(enabled=None)).status == 200
        assert (await rate_limits(api))["enabled"] is False
        (fault,) = (await change(per_endpoint=["submit=50", "submit=20/40"])).faults()
        assert fault == "changes.rate_limit.per_endpoint"


async def test_a_rate_that_is_changed_at_one_of_two_servers_holds_at_both_and_each_counts_by_itself(here, there):
    changes = {"rate_limit.enabled": True, "rate_limit.requests_per_second": 0.1, "rate_limit.burst": 500}
    assert (await here.call("PATCH", CONFIG, json={"changes": changes})).status == 200
    try:

        async def heard():
            return (await there.get(TASKS)).headers.get("RateLimit-Limit") == "500"

        await until(heard)
        for _ in range(20):
            await there.get(TASKS)
        limit, remaining, _ = told(await here.get(TASKS))
        assert (limit, 500 - remaining) == (500, 1)
        assert 500 - told(await there.get(TASKS))[1] >= 22
    finally:
        assert (await here.call("PATCH", CONFIG, json={"changes": {"rate_limit.enabled": None}})).status == 200


@pytest.mark.parametrize(
    "wrong",
    ["", "submit", "submit=", "submit=0", "submit=1/0", "submit=0.05", "nobody=1", "submit=1e3", "submit=1/2/3", "=1"],
)
def test_a_rate_that_cannot_be_read_is_refused(wrong):
    with pytest.raises(ValueError, match=r"rate_limit\.per_endpoint|PER_ENDPOINT"):
        settings_of(gather({}, {"APP_RATE_LIMIT_PER_ENDPOINT": wrong}, None))


def test_the_rates_of_classes_are_read_from_a_list():
    given = gather({}, {"APP_RATE_LIMIT_PER_ENDPOINT": "submit=50/10,read=0.25"}, None)
    rates = settings_of(given).rate_limit.endpoint_rates
    assert {name: (rate.per_second, rate.burst) for name, rate in rates.items()} == {
        "submit": (50, 10),
        "read": (0.25, 1),
    }


# Who tries keys


def with_key(key):
    return {"headers": {"Authorization": f"Bearer {key}"}}


async def test_who_tries_keys_is_soon_not_listened_to_any_more(tmp_path):
    """Not even with the right one, or trying would pay. What is wrong takes from a smaller bucket than all the rest."""
    async with limited(tmp_path, KEY, failed_authentications_per_minute=3) as (api, _service, clock):
        for left in (2, 1, 0):
            answer = await api.call("GET", TASKS, **with_key(f"wrong {left}"))
            answer.refused(401, "UNAUTHORIZED")
            assert told(answer)[:2] == (3, left)
        for key in ("wrong", KEY):
            details = too_often(await api.call("GET", TASKS, **with_key(key)), "authentication")
            assert details == {"kind": "authentication", "limit": 3, "retry_after_seconds": 20}
        too_often(await api.call("GET", TASKS, headers={"X-API-Key": KEY}), "authentication")
        (await api.get(TASKS)).refused(401, "UNAUTHORIZED")  # it shows no key at all
        assert (await api.get("/health")).status == 200
        clock.now += 20 * SECOND
        assert (await api.call("GET", TASKS, **with_key(KEY))).status == 200


async def test_a_neighbour_who_tries_keys_does_not_shut_out_those_who_were_right_before(tmp_path):
    async with limited(tmp_path, KEY, failed_authentications_per_minute=1) as (api, service, _clock):
        assert (await api.call("GET", TASKS, **with_key(KEY))).status == 200
        (await api.call("GET", TASKS, **with_key("wrong"))).refused(401, "UNAUTHORIZED")
        too_often(await api.call("GET", TASKS, **with_key("wrong")), "authentication")
        assert (await api.call("GET", TASKS, **with_key(KEY))).status == 200
        too_often(await api.call("GET", TASKS, headers={"X-API-Key": KEY.upper()}), "authentication")
        for number in range(GOOD_MOST):
            service.rates.right_credential("203.0.113.7", str(number))
        too_often(await api.call("GET", TASKS, **with_key(KEY)), "authentication")


def test_a_key_that_was_right_and_is_not_any_more_is_wrong():
    rates = Rates(Clock())
    rates.adopt(Settings(rate_limit=RateLimit(enabled=True, failed_authentications_per_minute=1)))
    rates.right_credential("a", "key")
    rates.wrong_credential("a", "other")
    assert rates.before_credential("a", "key", "read") is None
    rates.wrong_credential("a", "key")
    assert rates.before_credential("a", "key", "read").refused_for > 0
    assert rates.before_credential("b", "key", "read") is None


async def test_wrong_keys_may_be_tried_without_end_if_that_is_allowed(tmp_path):
    async with limited(tmp_path, KEY, failed_authentications_per_minute=0, burst=100) as (api, _service, _clock):
        for _ in range(50):
            (await api.call("GET", TASKS, **with_key("wrong"))).refused(401, "UNAUTHORIZED")


async def test_keys_tried_at_the_login_of_browsers_and_in_cookies_count_too(tmp_path):
    async with limited(tmp_path, KEY, failed_authentications_per_minute=4) as (api, _service, _clock):
        opened = await api.post(SESSION, {"key": KEY})
        cookie = opened.headers["Set-Cookie"].partition(";")[0].replace('"', "")
        api.session.cookie_jar.clear()
        forged = cookie[:-1] + ("0" if cookie[-1] != "0" else "1")
        name, ends, signature = cookie.partition("=")[2].split(".")
        ended = f"{cookie.partition('=')[0]}={name}.{int(ends) - 10**12}.{signature}"
        (await api.post(SESSION, {"key": "wrong"})).refused(401, "UNAUTHORIZED")
        (await api.call("GET", TASKS, headers={"Cookie": forged})).refused(401, "UNAUTHORIZED")
        for _ in range(5):  # it is right, but may be sent by a page of somebody else's
            (await api.call("POST", TASKS, data=b"{}", headers={"Cookie": cookie})).refused(403, "FORBIDDEN")
        for _ in range(5):  # which browsers send by themselves
            (await api.call("GET", TASKS, headers={"Cookie": ended})).refused(401, "UNAUTHORIZED")
        (await api.call("GET", TASKS, **with_key("wrong"))).refused(401, "UNAUTHORIZED")
        (await api.post(SESSION, {"key": "wrong"})).refused(401, "UNAUTHORIZED")
        too_often(await api.post(SESSION, {"key": "wrong"}), "authentication")
        too_often(await api.call("GET", TASKS, headers={"Cookie": cookie}), "authentication")
        assert (await api.post(SESSION, {"key": KEY})).status == 201  # it was right before


# By key and class of endpoint


async def made(api, name, *scopes):
    """What to send with the requests of a new key."""
    body = json.dumps({"name": name, "scopes": scopes})
    headers = {**with_key(KEY)["headers"], "Content-Type": "application/json"}
    return with_key((await api.call("POST", KEYS, data=body, headers=headers)).data["key"])


async def test_each_key_has_a_bucket_of_its_own_wherever_it_comes_from(tmp_path):
    async with limited(tmp_path, KEY, requests_per_second=1, burst=4, per_ip="false") as (api, service, clock):
        ann, bob = await made(api, "ann", "read"), await made(api, "bob", "read")
        clock.now += 100 * SECOND
        for left in (3, 2, 1, 0):
            assert told(await api.call("GET", TASKS, **ann)) == (4, left, 4 - left)
        details = too_often(await api.call("GET", TASKS, **ann), "key")
        assert details == {"kind": "key", "limit": 4, "retry_after_seconds": 1}
        assert told(await api.call("GET", TASKS, **bob))[:2] == (4, 3)
        assert (await api.call("GET", "/docs", **ann)).status == 200  # no key is looked at
        (await api.call("POST", TASKS, **bob)).refused(403, "FORBIDDEN")
        says = (await api.call("GET", RATES, **with_key(KEY))).data
        assert says["refused_by_class"] == [{"kind": "key", "endpoint_class": "read", "requests": 1}]
        assert [(it["who"], it["remaining"]) for it in says["emptiest"]] == [("ann", 0), ("bob", 2), ("api_key", 3)]
        (await api.call("GET", RATES, **bob)).refused(403, "FORBIDDEN")
        assert service.rates.refused["key", "read"] == 1


async def test_callers_are_told_of_the_tightest_of_their_buckets(tmp_path):
    async with limited(tmp_path, KEY, requests_per_second=1, burst=9, per_endpoint="read=1/3") as (api, _, clock):
        ann, bob = await made(api, "ann", "read", "work"), await made(api, "bob", "read")
        clock.now += 100 * SECOND
        assert told(await api.call("GET", TASKS, **ann))[:2] == (3, 2)  # of the class
        assert told(await api.call("GET", f"{TASKS}/next?work_path=/a", **ann))[:2] == (
            9,
            7,
        )  # of the key, as of the address
        for _ in range(3):
            await api.call("GET", TASKS, **bob)
        assert told(await api.call("GET", f"{TASKS}/next?work_path=/a", **ann))[:2] == (9, 3)  # of the address


async def test_a_class_of_endpoints_has_a_rate_of_its_own_for_each_key(tmp_path):
    async with limited(tmp_path, KEY, per_endpoint="submit=1/2,open=1/1,admin=50") as (api, _service, clock):
        ann = await made(api, "ann", "submit", "read")
        bob = await made(api, "bob", "submit", "read")

        async def submit(key):
            headers = {**key["headers"], "Content-Type": "application/json"}
            return await api.call("POST", TASKS, data=b'{"work_directory": "/a", "prompt": "x"}', headers=headers)

        assert [told(await submit(ann))[:2] for _ in range(2)] == [(2, 1), (2, 0)]
        assert too_often(await submit(ann), "endpoint")["limit"] == 2
        assert told(await api.call("GET", TASKS, **ann))[0] == 2000
        assert (await submit(bob)).status == 201
        assert (await api.get("/openapi.json")).status == 200
        too_often(await api.get("/openapi.json"), "endpoint")
        clock.now += SECOND
        assert (await submit(ann)).status == 201
        says = (await api.call("GET", RATES, **with_key(KEY))).data
        assert {(it["kind"], it["endpoint_class"]) for it in says["limits"]} == {
            *(("address", None), ("key", None), ("authentication", None)),
            *(("endpoint", "submit"), ("endpoint", "open"), ("endpoint", "admin")),
        }
        assert {(it["kind"], it["endpoint_class"], it["who"]) for it in says["emptiest"]} >= {
            ("endpoint", "submit", "ann"),
            ("endpoint", "admin", "api_key"),
        }


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_of_a_class_that_can_be_given_a_rate(route):
    assert (route.scope or "open") in ENDPOINT_CLASSES


# How it stands


async def test_the_emptiest_buckets_are_shown_and_never_more_than_a_few(tmp_path):
    async with limited(tmp_path, requests_per_second=1, burst=5, per_endpoint="read=0.5/2") as parts:
        api, service, _clock = parts
        for number in range(100):
            for _ in range(1 + number % 3):
                service.rates.of_address(f"203.0.113.{number}", "read")
        for _ in range(7):
            service.rates.of_address("203.0.113.200", "read")
        says = await rate_limits(api)
        assert says["enabled"] is True
        assert says["settings"] == {
            "requests_per_second": 1,
            "burst": 5,
            "per_ip": True,
            "per_key": True,
            "per_endpoint": {"read": {"requests_per_second": 0.5, "burst": 2}},
            "failed_authentications_per_minute": 20,
        }
        limits = {it["kind"]: it for it in says["limits"]}
        assert limits.keys() == {"address", "key", "endpoint", "authentication"}
        assert limits["address"] == {
            "kind": "address",
            "endpoint_class": None,
            "requests_per_second": 1,
            "burst": 5,
            "kept": 102,  # and the one who asks
            "kept_most": 100_000,
            "forgotten": 0,
        }
        assert says["refused"] == {"address": 2, "key": 0, "endpoint": 0, "authentication": 0}
        assert says["refused_by_class"] == [{"kind": "address", "endpoint_class": "read", "requests": 2}]
        assert len(says["emptiest"]) == 20
        assert says["emptiest"][0] == {
            "kind": "address",
            "endpoint_class": None,
            "who": "203.0.113.200",
            "limit": 5,
            "remaining": 0,
            "reset_seconds": 5,
            "retry_after_seconds": 1,
        }
        assert [it["remaining"] for it in says["emptiest"][1:]] == [2] * 19


def of_limits(samples):
    return {name: value for name, value in samples.items() if name.startswith(("rate_limit_", "requests_refused_"))}


async def test_prometheus_is_told_who_was_refused(tmp_path):
    async with limited(tmp_path, KEY, requests_per_second=1, burst=9, failed_authentications_per_minute=2) as parts:
        api, _service, clock = parts

        async def scraped():
            clock.now += 1000 * SECOND
            lines = (await api.call("GET", "/metrics", **with_key(KEY))).content.decode().splitlines()
            return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

        before = await scraped()
        for _ in range(5):
            await api.call("GET", TASKS, **with_key("wrong"))
        for _ in range(6):
            await api.call("GET", TASKS)
        after = await scraped()
        assert of_limits(after).keys() == of_limits(before).keys()
        gone = {name: after[name] - value for name, value in of_limits(before).items()}

        def sums(kind):
            return sum(
                count for name, count in gone.items() if "rate_limit_refused_total{endpoint" in name and kind in name
            )

        assert (sums('kind="address"'), sums('kind="authentication"'), sums('kind="key"')) == (3, 3, 0)
        assert gone['requests_refused_total{reason="rate_limited"}'] == 6
        assert gone['requests_refused_total{reason="unauthorized"}'] == 2 + 3
        assert after['rate_limit_buckets{kind="address"}'] == 1
        assert after['rate_limit_forgotten_total{kind="address"}'] == 0
