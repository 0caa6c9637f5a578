"""What browsers are told with every answer, whose pages may ask, and how pages of other sites are let in."""

import json
import os
import signal

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, raw, running, text_of, until
from tests.web.test_settings import faults_of
from web.access.addresses import WHENCE, Whence
from web.access.browsers import ADMITTED, check_own_page, is_own
from web.answers import Failure
from web.routes import ROUTES
from web.sources import load

APP, OTHER, FOREIGN = "https://app.example", "http://other.example:8080", "https://evil.example"
KEY = "correct-horse-battery-staple"
GUARDED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "task-orchestrator",
}
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"


@pytest.fixture(scope="module")
def welcoming(tmp_path_factory):
    """A server with a key that pages of two other sites may ask."""
    environ = {"ENABLE_CORS": "true", "APP_SECURITY_CORS_ORIGINS": f"{APP},{OTHER}", "API_SECRET_KEY": KEY}
    server = ServerProcess(tmp_path_factory.mktemp("welcoming"), environ=environ).start()
    yield server
    assert server.terminate() == 0


def invitations(answer):
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control-")}


def listed(text):
    return {item.strip().lower() for item in text.split(",")}


async def preflight(server, path, origin, method="GET", **headers):
    asked = {"Origin": origin, "Access_Control_Request_Method": method, **headers}
    return await raw(server, text_of("OPTIONS", path, **asked))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", TASKS, 200),
        ("HEAD", TASKS, 200),
        ("OPTIONS", TASKS, 204),
        ("PUT", TASKS, 405),
        ("GET", "/nowhere", 404),
        ("POST", TASKS, 400),
        ("GET", f"{TASKS}?no=1", 400),
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 200),
        ("GET", "/docs/docs.js", 200),
    ],
)
async def test_every_answer_says_what_it_may_be_used_for(api, method, path, status):
    answer = await api.call(method, path)
    assert answer.status == status
    assert {name: answer.headers.getall(name) for name in GUARDED} == {name: [it] for name, it in GUARDED.items()}
    (policy,) = answer.headers.getall("Content-Security-Policy")
    assert "unsafe" not in policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["frame-ancestors"]) == ("'none'", "'none'")
    is_page = path.startswith("/docs") or path == "/openapi.json"
    assert is_page == ("script-src" in rules)
    assert "Strict-Transport-Security" not in answer.headers
    assert invitations(answer) == {}


async def test_streams_refusals_and_what_is_not_http_say_it_too(shared, api, directory):
    async with api.stream(directory) as events:
        assert events.response.headers["Content-Security-Policy"] == DATA_POLICY
        assert events.response.headers["X-Content-Type-Options"] == "nosniff"
    foreign = await raw(shared, text_of("GET", TASKS, Origin=FOREIGN))
    nonsense = await raw(shared, b"GET / HTTP/9.9\r\n\r\n")
    expecting = await raw(shared, text_of("POST", TASKS, Expect="magic", Content_Length="1"))
    for answer, status in ((foreign, 403), (nonsense, 400), (expecting, 417)):
        assert (answer.status, answer.headers["Content-Security-Policy"]) == (status, DATA_POLICY)
        assert answer.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
async def test_a_preflight_is_told_the_methods_of_that_very_path(welcoming, path):
    """No key is asked for: a browser sends none with it."""
    at = path.replace("{task_id}", "x").replace("{name}", "x")
    answer = await preflight(welcoming, at, APP, Access_Control_Request_Headers="authorization,x-api-key")
    assert (answer.status, answer.content) == (204, b"")
    told = invitations(answer)
    assert told["access-control-allow-origin"] == APP
    methods = {route.method for route in ROUTES if route.path == path}
    assert (
        methods | {"OPTIONS"} <= set(told["access-control-allow-methods"].split(", ")) <= methods | {"HEAD", "OPTIONS"}
    )
    headers = listed(told["access-control-allow-headers"])
    assert headers >= {"authorization", "x-api-key", "content-type", "idempotency-key", "if-match", "last-event-id"}
    assert headers >= {"x-request-id", "if-none-match"}
    assert 0 < int(told["access-control-max-age"]) <= 3600
    assert "access-control-allow-credentials" not in told
    assert "Origin" in answer.headers["Vary"]


async def test_answers_to_a_page_that_is_let_in_may_be_read_by_it(welcoming, directory):
    """Refusals and streams too."""
    async with connected(welcoming, **{"X-API-Key": KEY, "Origin": APP, "Sec-Fetch-Site": "cross-site"}) as api:
        body = {"work_directory": directory, "prompt": "x"}
        answers = [
            await api.post(TASKS, body),
            await api.post(TASKS, {}),
            await api.get("/nowhere"),
            await api.get("/health"),
            await api.call("GET", TASKS, headers={"X-API-Key": "wrong"}),
            await api.call("DELETE", TASKS),
        ]
        assert [it.status for it in answers] == [201, 400, 404, 200, 401, 405]
        async with api.stream(directory) as events:
            await events.task()
            answers.append(events.response)
    for answer in answers:
        told = invitations(answer)
        assert told.keys() == {"access-control-allow-origin", "access-control-expose-headers"}
        assert told["access-control-allow-origin"] == APP
        exposed = listed(told["access-control-expose-headers"])
        assert exposed >= {"x-request-id", "etag", "location", "retry-after", "idempotent-replayed", "ratelimit-limit"}
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "origin",
    [
        FOREIGN,
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://sub.app.example",
        "http://app.example",
        "https://app.example:8443",
        "http://other.example",
        "https://APP.example.",
        f"{APP}/",
        f"{APP} {OTHER}",
        f"{APP},{OTHER}",
        "null",
        "*",
        "",
    ],
)
async def test_no_other_page_is_let_in(welcoming, origin):
    for method, path, headers in (
        ("GET", TASKS, {}),
        ("GET", "/health", {}),
        ("OPTIONS", TASKS, {"Access_Control_Request_Method": "GET"}),
    ):
        answer = await raw(welcoming, text_of(method, path, Origin=origin, X_API_Key=KEY, **headers))
        answer.refused(403, "FORBIDDEN")
        assert invitations(answer) == {}
        assert "Origin" in answer.headers["Vary"]  # what is kept of it is not shown to others


async def test_who_comes_from_nowhere_is_answered_as_ever(welcoming):
    answer = await raw(welcoming, text_of("GET", TASKS, X_API_Key=KEY))
    assert (answer.status, invitations(answer), answer.headers["Vary"]) == (200, {}, "Accept, Origin")
    own = text_of("GET", TASKS, X_API_Key=KEY, host="tasks.example", Origin="http://tasks.example")
    assert invitations(await raw(welcoming, own)) == {}


async def test_what_is_allowed_changes_while_it_runs(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(f'[security]\ncors_origins = ["{APP}"]\n')
    with running(tmp_path, "--config", str(file)) as server:

        async def is_let_in(origin):
            answer = await raw(server, text_of("GET", TASKS, Origin=origin))
            assert answer.status == (200 if invitations(answer) else 403)
            return answer.status == 200

        assert not await is_let_in(APP)
        async with connected(server) as api:
            body = {"changes": {"security.enable_cors": True}}
            assert (await api.call("PATCH", "/api/v1/config", json=body)).status == 200
        assert await is_let_in(APP)
        file.write_text(f'[security]\ncors_origins = ["{OTHER}"]\n')
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: is_let_in(OTHER))
        assert not await is_let_in(APP)


async def test_everybody_may_ask_only_where_that_takes_a_key(tmp_path):
    """Without one, whoever looks at a page would have made it the master of this machine's tasks."""
    environ = {"ENABLE_CORS": "true", "APP_SECURITY_CORS_ORIGINS": f"*,{APP}"}
    with running(tmp_path, **environ, API_SECRET_KEY=KEY) as server:
        for origin, told in ((FOREIGN, "*"), ("null", "*"), (APP, APP)):
            answer = await raw(server, text_of("GET", TASKS, Origin=origin, Authorization=f"Bearer {KEY}"))
            assert (answer.status, invitations(answer)["access-control-allow-origin"]) == (200, told)
            assert "access-control-allow-credentials" not in invitations(answer)
            assert (await preflight(server, TASKS, origin)).status == 204
            (await raw(server, text_of("GET", TASKS, Origin=origin))).refused(401, "UNAUTHORIZED")
    with running(tmp_path, **environ) as server:
        for origin, status in ((FOREIGN, 403), ("null", 403), (APP, 200)):
            assert (await raw(server, text_of("GET", TASKS, Origin=origin))).status == status
            assert (await preflight(server, TASKS, origin)).status == (204 if status == 200 else 403)


@pytest.mark.parametrize(
    "origin",
    [
        *("", "app.example", "https://", "https://app.example/", "https://app.example/path", "https://app.example:443"),
        *("http://app.example:80", "https://App.example", "https://*.example", "https://a@app.example", "null"),
        *("ftp://app.example", "https://app.example?", "https://app.example#", "https://a b", "https://app.example:0"),
        *("https://app.example:99999", "https://ä.example", "https://["),
    ],
)
def test_an_origin_is_as_browsers_write_it(origin, tmp_path):
    """One that is not would never match, and nobody would know why."""
    file = tmp_path / "settings.toml"
    file.write_text(f"[security]\ncors_origins = [{json.dumps(origin)}]\n")
    assert list(faults_of(config=file)) == [f"security.cors_origins[0] in {file}"]


def test_these_origins_and_proxies_can_be_set():
    origins = "https://app.example,http://localhost:3000,https://[2001:db8::1]:8443,*"
    assert load({}, {"APP_SECURITY_CORS_ORIGINS": origins}).security.cors_origins == tuple(origins.split(","))
    assert load({}, {"ENABLE_CORS": "true"}).security.enable_cors is True
    assert load({}, {"ENABLE_CORS": "true", "APP_SECURITY_ENABLE_CORS": "false"}).security.enable_cors is False
    assert load({}, {"APP_SERVER_TRUSTED_PROXIES": "10.0.0.1"}).server.trusted_proxies == ("10.0.0.1/32",)
    for everybody in ("0.0.0.0/0", "::/0", "::ffff:0:0/96"):
        assert faults_of(environ={"APP_SERVER_TRUSTED_PROXIES": everybody}) == {
            "APP_SERVER_TRUSTED_PROXIES[0]": "must not be everybody"
        }


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "own"),
    [
        ("http://a.example", "http", "a.example", True),
        ("http://A.example:8080", "http", "a.Example:8080", True),
        ("http://a.example", "http", "a.example:80", True),
        ("https://a.example", "https", "a.example:443", True),
        ("https://a.example", "http", "a.example", True),  # TLS ends before us
        ("http://a.example", "https", "a.example", False),
        ("http://a.example", "http", "a.example:443", False),
        ("https://a.example", "https", "a.example:8443", False),
        ("https://[::1]:443", "https", "[::1]", True),
        ("ftp://a.example", "http", "a.example", False),
        ("a.example", "http", "a.example", False),
        ("null", "http", "null", False),
        ("", "http", "", False),
        ("http://", "http", "a.example", False),
    ],
)
def test_a_page_is_our_own_if_it_came_from_where_the_request_goes(origin, scheme, host, own):
    assert is_own(origin, Whence("192.0.2.1", scheme, host)) is own


@pytest.mark.parametrize(
    ("path", "status"), [("/docs", 200), ("/openapi.json", 403), (TASKS, 403), ("/docs/docs.js", 403)]
)
async def test_a_link_from_elsewhere_leads_to_a_page_and_nowhere_else(shared, path, status):
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert (await raw(shared, text_of("GET", path, **link))).status == status
    for other in ({"Sec_Fetch_Dest": "iframe"}, {"Sec_Fetch_Mode": "no-cors"}, {"Origin": FOREIGN}):
        (await raw(shared, text_of("GET", path, **link | other))).refused(403, "FORBIDDEN")
    (await raw(shared, text_of("POST", path, {}, **link))).refused(403, "FORBIDDEN")


class Asked(dict):
    """As much of a request as the session's check looks at."""

    def __init__(self, method, admitted=None, **headers):
        super().__init__({WHENCE: Whence("192.0.2.1", "https", "tasks.example")})
        if admitted:
            self[ADMITTED] = admitted
        self.method, self.headers = method, {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_under_a_session_only_pages_of_our_own_change_anything(method):
    own = [Asked(method, Origin="https://tasks.example"), Asked(method, Sec_Fetch_Site="same-origin")]
    foreign = [Asked(method, APP, Origin=APP), Asked(method, "*", Origin=FOREIGN)]
    unproved = [Asked(method), Asked(method, Sec_Fetch_Site="none"), Asked(method, Origin="null")]
    is_safe = method in ("GET", "HEAD", "OPTIONS")
    for request in own + unproved if is_safe else own:
        check_own_page(request)
    for request in foreign if is_safe else foreign + unproved:
        with pytest.raises(Failure) as caught:
            check_own_page(request)
        assert (caught.value.status, caught.value.code) == (403, "FORBIDDEN")


async def test_a_session_is_for_pages_of_our_own(welcoming, directory):
    """The cookie alone reads; to change something takes a page of ours; a page that was let in needs its own key."""
    body = {"work_directory": directory, "prompt": "x"}
    async with connected(welcoming) as api:
        opened = await api.call("POST", "/api/v1/session", json={"key": KEY})
        assert opened.status == 201
        cookie = {"Cookie": opened.headers["Set-Cookie"].partition(";")[0]}
        api.session.cookie_jar.clear()
        for headers, create, read in (
            ({"Origin": welcoming.url}, 201, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 201, 200),
            ({}, 403, 200),
            ({"Sec-Fetch-Site": "none"}, 403, 200),
            ({"Origin": APP}, 403, 403),
            ({"Origin": FOREIGN}, 403, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403, 403),
            ({"Origin": APP, "X-API-Key": KEY}, 201, 200),
            ({"X-API-Key": KEY}, 201, 200),
        ):
            assert (await api.call("POST", TASKS, json=body, headers=cookie | headers)).status == create, headers
            assert (await api.call("GET", TASKS, headers=cookie | headers)).status == read, headers
