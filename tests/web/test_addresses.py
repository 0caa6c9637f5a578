"""Whose request it is: through proxies that are trusted, past those that are not, and who is let in at all."""

import ipaddress
import json
import os
import signal
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, raw, running, text_of, until
from web.access.forwarding import HEADERS, HOPS_MAX, Lines, Said, forwarded
from web.access.networks import Networks, address, network
from web.codec import Invalid

TRUSTED = Networks(["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"])
FORWARDED = [
    # what the trusted peer says, and whom it means
    ({"X-Forwarded-For": "192.0.2.1"}, "192.0.2.1"),
    ({"X-Forwarded-For": " 192.0.2.1 "}, "192.0.2.1"),
    ({"X-Forwarded-For": "192.0.2.1:4711"}, "192.0.2.1"),
    ({"X-Forwarded-For": "2001:DB8:0::1"}, "2001:db8::1"),
    ({"X-Forwarded-For": "[2001:db8::1]"}, "2001:db8::1"),
    ({"X-Forwarded-For": "[2001:db8::1]:4711"}, "2001:db8::1"),
    ({"X-Forwarded-For": "::ffff:192.0.2.1"}, "192.0.2.1"),
    ({"X-Forwarded-For": "[::ffff:c000:201]:1"}, "192.0.2.1"),
    # what lies left of the first who is not trusted is anybody's invention
    ({"X-Forwarded-For": "127.0.0.1, 192.0.2.1"}, "192.0.2.1"),
    ({"X-Forwarded-For": "10.0.0.1, 192.0.2.9, 192.0.2.1"}, "192.0.2.1"),
    ({"X-Forwarded-For": "nonsense, \x7f,, 192.0.2.1"}, "192.0.2.1"),
    ({"X-Forwarded-For": "192.0.2.9, 192.0.2.1, 10.1.2.3, 2001:db8:ffff::7"}, "192.0.2.1"),
    ({"X-Forwarded-For": "192.0.2.1, ::ffff:10.1.2.3"}, "192.0.2.1"),
    # a trusted one asks for itself
    ({"X-Forwarded-For": "10.0.0.7"}, "10.0.0.7"),
    ({"X-Forwarded-For": "10.0.0.7, 10.0.0.8"}, "10.0.0.7"),
    ({}, None),
    ({"X-Forwarded-For": ""}, None),
    ({"X-Forwarded-For": "  "}, None),
    ({"Forwarded": "for=192.0.2.1"}, "192.0.2.1"),
    ({"Forwarded": "For=192.0.2.1:80;Proto=HTTPS;by=10.0.0.1"}, "192.0.2.1"),
    ({"Forwarded": 'for="[2001:db8::1]:4711"'}, "2001:db8::1"),
    ({"Forwarded": 'for="\\[2001:db8::1]"'}, "2001:db8::1"),
    ({"Forwarded": "for=_hidden, for=192.0.2.1, for=10.0.0.1"}, "192.0.2.1"),
    ({"Forwarded": 'for=10.0.0.9;host="a,b;c", for=192.0.2.1'}, "192.0.2.1"),
    ({"Forwarded": ""}, None),
    ({"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "10.0.0.1, 192.0.2.1"}, "192.0.2.1"),
]
UNREADABLE = [
    {"X-Forwarded-For": "unknown"},
    {"X-Forwarded-For": "192.0.2.1,"},
    {"X-Forwarded-For": "192.0.2.1, , 10.0.0.1"},
    {"X-Forwarded-For": "192.0.2"},
    {"X-Forwarded-For": "192.0.2.01"},
    {"X-Forwarded-For": "192.0.2.256"},
    {"X-Forwarded-For": "3221225985"},
    {"X-Forwarded-For": "192.0.2.1:"},
    {"X-Forwarded-For": "192.0.2.1:999999"},
    {"X-Forwarded-For": "fe80::1%eth0"},
    {"X-Forwarded-For": "[192.0.2.1"},
    {"X-Forwarded-For": "192.0.2.1 192.0.2.2"},
    {"X-Forwarded-For": "'192.0.2.1'"},
    {"X-Forwarded-For": "١٩٢.0.2.1"},
    {"X-Forwarded-For": "localhost"},
    {"X-Forwarded-For": ", ".join(["10.0.0.1"] * (HOPS_MAX + 1))},
    {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "gopher"},
    {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https,"},
    {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "a b"},
    {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "user@host"},
    {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "http://host"},
    {"Forwarded": "for=unknown"},
    {"Forwarded": "for=_hidden"},
    {"Forwarded": "proto=https"},
    {"Forwarded": "192.0.2.1"},
    {"Forwarded": "for=192.0.2.1;"},
    {"Forwarded": "for=192.0.2.1,"},
    {"Forwarded": "for=192.0.2.1;for=10.0.0.1"},
    {"Forwarded": 'for="192.0.2.1'},
    {"Forwarded": 'for="192.0.2.1"x'},
    {"Forwarded": 'for=", for=192.0.2.1'},
    {"Forwarded": 'for=", for="[2001:db8::1]"'},
    {"Forwarded": "for=192.0.2.1;proto=ftp"},
    {"Forwarded": 'for=192.0.2.1;host="a/b"'},
    # one of them came from the caller, through a proxy that knows only the other
    {"Forwarded": "for=10.0.0.1", "X-Forwarded-For": "192.0.2.1"},
    {"Forwarded": "for=192.0.2.1;host=evil.example", "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "a.example"},
    {"Forwarded": "for=192.0.2.1;proto=http", "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"},
]


def said(headers):
    lines = Lines(*(headers.get(name, "").strip() for name in HEADERS))
    return forwarded(lines, address("127.0.0.1"), TRUSTED)


@pytest.mark.parametrize(("headers", "client"), FORWARDED, ids=repr)
def test_a_trusted_proxy_says_who_it_speaks_for(headers, client):
    assert said(headers).client == (address(client) if client else None)


@pytest.mark.parametrize("headers", UNREADABLE, ids=repr)
def test_what_a_trusted_proxy_says_is_understood_or_refused(headers):
    with pytest.raises(Invalid) as caught:
        said(headers)
    assert caught.value.faults[0].field in headers


@pytest.mark.parametrize(
    ("headers", "scheme", "host"),
    [
        ({"X-Forwarded-Proto": "HTTPS", "X-Forwarded-Host": "a.example:8443"}, "https", "a.example:8443"),
        ({"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http, https"}, "https", None),
        ({"X-Forwarded-For": "192.0.2.1, 10.0.0.1", "X-Forwarded-Proto": "https, http"}, "https", None),
        ({"X-Forwarded-For": "192.0.2.1, 10.0.0.1", "X-Forwarded-Proto": "http, https, http"}, "https", None),
        ({"X-Forwarded-For": "192.0.2.1, 10.0.0.1", "X-Forwarded-Proto": "https"}, "https", None),
        ({"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "evil.example, [2001:db8::1]"}, None, "[2001:db8::1]"),
        (
            {"Forwarded": "for=192.0.2.1;proto=https;host=a.example, for=10.0.0.1;proto=http;host=b"},
            "https",
            "a.example",
        ),
        ({"Forwarded": "for=10.0.0.9;proto=https;host=evil.example, for=192.0.2.1"}, None, None),
        ({"Forwarded": "for=192.0.2.1", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}, None, None),
    ],
    ids=repr,
)
def test_scheme_and_host_are_those_that_the_same_proxy_saw(headers, scheme, host):
    assert said(headers)[1:] == (scheme, host)


ADDRESSES = st.ip_addresses().map(str)
OUTSIDE = ADDRESSES.filter(lambda it: address(it) not in TRUSTED)
INSIDE = st.integers(0, 2**24 - 1).map(lambda it: str(ipaddress.IPv4Address(0x0A000000 + it)))


@given(invented=st.text(st.characters(codec="latin-1", exclude_characters="\r\n")), client=OUTSIDE)
def test_nothing_that_a_caller_writes_makes_it_somebody_else(invented, client):
    """Its own address is added on the right of whatever it sent."""
    assert said({"X-Forwarded-For": f"{invented}, {client}"}) == Said(address(client), None, None)
    node = f'"[{client}]"' if ":" in client else client
    for together in (f"{invented}, for={node}", f"{invented};for={node}", f'for="{invented}, for={node}'):
        with suppress(Invalid):  # its own request is refused
            assert said({"Forwarded": together}).client in (address(client), None)


@given(st.lists(INSIDE, max_size=HOPS_MAX - 1), OUTSIDE)
def test_a_row_of_trusted_proxies_leads_to_the_first_who_is_not(proxies, client):
    assert said({"X-Forwarded-For": ", ".join([client, *proxies])}).client == address(client)


@given(st.lists(st.ip_addresses().map(lambda it: f"{it}/{it.max_prefixlen // 2}"), max_size=8), ADDRESSES)
def test_networks_hold_what_their_parts_hold(texts, one):
    parts = [ipaddress.ip_network(text, strict=False) for text in texts]
    plain = address(one)
    networks = Networks([str(it) for it in parts])
    assert (plain in networks) == any(plain in part for part in parts)
    assert all(part[0] in networks and part[-1] in networks for part in parts)
    assert bool(networks) == bool(parts)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_a_network_has_one_normal_form(text, normal):
    assert network(text) == normal


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/8", "10.0.0", "localhost", "10.0.0.0/33", "fe80::%eth0/64", "10.0.0.0/8 "]
)
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match="must"):
        network(text)


# On the wire.

PROXIES = {"APP_SERVER_TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8"}
FENCE = {"APP_SECURITY_IP_ALLOWLIST": "192.0.2.0/24,2001:db8::/32"}


@pytest.fixture(scope="module")
def fenced(tmp_path_factory):
    """A server behind trusted proxies, for some addresses only; loopback is none of them."""
    server = ServerProcess(tmp_path_factory.mktemp("fenced"), environ=PROXIES | FENCE).start()
    yield server
    assert server.terminate() == 0


async def ask(server, path=TASKS, **headers):
    return await raw(server, text_of("GET", path, **headers))


@pytest.mark.parametrize(
    "client", ["192.0.2.1", "[2001:db8::5]:80", "::ffff:192.0.2.7", "8.8.8.8, 192.0.2.1, 10.0.0.1"]
)
async def test_who_is_on_the_list_gets_in(fenced, client):
    assert (await ask(fenced, X_Forwarded_For=client)).status == 200


@pytest.mark.parametrize("client", ["192.0.3.1", "::1", "127.0.0.1", "192.0.2.1, 8.8.8.8", "10.0.0.1", "::192.0.2.1"])
async def test_who_is_not_on_the_list_gets_in_nowhere(fenced, client):
    for path in (TASKS, "/", "/docs", "/openapi.json", "/metrics", "/nowhere", "/healthz", "/health/../api/v1/tasks"):
        (await ask(fenced, path, X_Forwarded_For=client)).refused(403, "FORBIDDEN")
    created = text_of("POST", TASKS, {"work_directory": "/x", "prompt": "x"}, X_Forwarded_For=client)
    (await raw(fenced, created)).refused(403, "FORBIDDEN")
    expecting = text_of("POST", TASKS, X_Forwarded_For=client, Expect="100-continue", Content_Length="9")
    (await raw(fenced, expecting)).refused(403, "FORBIDDEN")


async def test_loopback_is_on_the_list_only_if_it_says_so(fenced):
    (await ask(fenced)).refused(403, "FORBIDDEN")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_probes_are_answered_wherever_they_come_from(fenced, path):
    """The address of an orchestrator's probe is known to nobody beforehand."""
    for headers in ({}, {"X_Forwarded_For": "8.8.8.8"}):
        assert (await ask(fenced, path, **headers)).status == 200


@pytest.mark.parametrize(("name", "prefix"), [("X-Forwarded-For", ""), ("Forwarded", "for=")])
async def test_lines_of_the_same_header_are_one_list(fenced, name, prefix):
    """However long it is."""
    for status, clients in (
        (403, ["192.0.2.1", "8.8.8.8"]),
        (200, ["8.8.8.8", "192.0.2.1"]),
        (200, ["8.8.8.8", "192.0.2.1", "10.0.0.1"]),
        (200, ["8.8.8.8"] * 500 + ["192.0.2.1"]),
    ):
        entries = [prefix + client for client in clients]
        lines = [f"{name}: {', '.join(entries[:-1])}", f"{name}: {entries[-1]}"]
        head = "\r\n".join([f"GET {TASKS} HTTP/1.1", "Host: localhost", *lines])
        assert (await raw(fenced, f"{head}\r\n\r\n".encode())).status == status


async def test_what_the_proxy_garbles_is_refused_and_named(fenced):
    answer = await ask(fenced, X_Forwarded_For="192.0.2.1, unknown")
    assert answer.faults() == ["X-Forwarded-For"]


async def test_the_log_names_the_caller_and_not_the_proxy(fenced):
    for number, client in enumerate(["192.0.2.33", "8.8.8.8", "junk"]):
        await ask(fenced, X_Forwarded_For=client, X_Request_Id=f"logged-{number}")

    def clients():
        lines = [json.loads(line) for line in fenced.log.read_text().splitlines()]
        found = {
            it["request_id"]: it["client"]
            for it in lines
            if (it.get("request_id") or "").startswith("logged-") and "client" in it
        }
        return len(found) == 3 and found

    assert await until(clients) == {"logged-0": "192.0.2.33", "logged-1": "8.8.8.8", "logged-2": "127.0.0.1"}


async def test_who_is_not_trusted_cannot_be_somebody_else(tmp_path):
    """Only 10.0.0.0/8 is trusted here, and this test comes from 127.0.0.1."""
    environ = {"APP_SERVER_TRUSTED_PROXIES": "10.0.0.0/8", "APP_SECURITY_IP_ALLOWLIST": "127.0.0.0/8"}
    with running(tmp_path, **environ) as server:
        for headers in (
            {"X_Forwarded_For": "8.8.8.8"},
            {"Forwarded": "for=junk"},
            {"X_Forwarded_Host": "evil.example"},
        ):
            assert (await ask(server, **headers)).status == 200
        page = {"Origin": "http://evil.example", "X_Forwarded_Host": "evil.example"}
        (await ask(server, **page)).refused(403, "FORBIDDEN")
        (await ask(server, host="evil.example", X_Forwarded_Host="localhost")).refused(403, "FORBIDDEN")


async def test_the_host_that_a_trusted_proxy_names_is_the_one_that_counts(fenced):
    client = {"X_Forwarded_For": "192.0.2.1", "X_Forwarded_Host": "localhost:1", "X_Forwarded_Proto": "https"}
    assert (await ask(fenced, **client, Origin="https://localhost:1")).status == 200
    for origin in ("http://localhost:1", "https://localhost", "https://localhost:2"):
        (await ask(fenced, **client, Origin=origin)).refused(403, "FORBIDDEN")


THROUGH = {"X-Forwarded-For": "192.0.2.1"}


async def patch(api, changes):
    body = json.dumps({"changes": changes})
    return await api.call("PATCH", "/api/v1/config", data=body, headers={"Content-Type": "application/json"})


async def test_nobody_locks_himself_out(tmp_path):
    """Neither by a change nor by a rollback; the list of others is his to make."""
    with running(tmp_path, APP_SERVER_TRUSTED_PROXIES="127.0.0.1") as server:
        async with connected(server) as api, connected(server, **THROUGH) as other:
            refused = await patch(api, {"security.ip_allowlist": ["192.0.2.0/24"], "task.max_task_retries": 5})
            assert refused.faults() == ["changes.security.ip_allowlist"]
            assert "127.0.0.1" in refused.json["error"]["message"]
            assert (await patch(other, {"security.ip_allowlist": ["127.0.0.1"]})).status == 400
            assert (await api.get("/api/v1/config")).data["version"] == 0

            assert (await patch(api, {"security.ip_allowlist": ["127.0.0.1", "192.0.2.1"]})).data["version"] == 1
            assert (await other.get(TASKS)).status == 200
            assert (await patch(api, {"security.ip_allowlist": ["127.0.0.0/8"]})).data["version"] == 2
            (await other.get(TASKS)).refused(403, "FORBIDDEN")
            assert (await patch(api, {"security.ip_allowlist": ["192.0.2.1", "127.0.0.1"]})).data["version"] == 3
            assert (await other.post("/api/v1/config/rollback", {"version": 2})).faults() == ["version"]
            assert (await patch(api, {"security.ip_allowlist": None})).data["version"] == 4
            assert (await other.get(TASKS)).status == 200


async def test_a_hangup_brings_the_list_of_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[security]\nip_allowlist = ["127.0.0.1"]\n')
    with running(tmp_path, "--config", str(file)) as server:
        assert (await ask(server)).status == 200
        file.write_text('[security]\nip_allowlist = ["10.0.0.0/8"]\n')
        os.kill(server.pid, signal.SIGHUP)

        async def is_closed():
            return (await ask(server)).status == 403

        await until(is_closed)


async def test_each_caller_behind_a_proxy_has_a_rate_of_its_own(tmp_path):
    """And not all of them that of the proxy; nobody gets another one by writing what the proxy would."""
    rates = {"ENABLED": "true", "REQUESTS_PER_SECOND": "0.1", "BURST": "2"}
    environ = {f"APP_RATE_LIMIT_{name}": value for name, value in rates.items()}
    with running(tmp_path, **environ, APP_SERVER_TRUSTED_PROXIES="127.0.0.1") as server:
        for client in ("192.0.2.1", "192.0.2.2"):
            said = [client, f"8.8.8.8, {client}", f"9.9.9.9, {client}"]
            statuses = [(await ask(server, X_Forwarded_For=it)).status for it in said]
            assert statuses == [200, 200, 429]
