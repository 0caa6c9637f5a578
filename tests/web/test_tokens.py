"""JSON Web Tokens: who bears one that holds comes in with what it says, all others are turned away."""

import asyncio
import base64
import hmac
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from itertools import count
from types import SimpleNamespace

import jwt
import pytest
from aiohttp import ClientPayloadError, web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, Api, connected, refused_start, until
from tests.web.inside import inside
from web.access import published, tokens
from web.settings import SettingsError
from web.sources import gather, settings_of

pytestmark = pytest.mark.once

SECRET = "a-secret-of-thirty-two-characters-or-more"
ISSUER, AUDIENCE = "https://id.example", "task-orchestrator"
RSA, RSA_OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
KINDS = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
COMMON = {"APP_SECURITY_JWT_ISSUER": ISSUER, "APP_SECURITY_JWT_AUDIENCE": AUDIENCE}
BY_SECRET = {**COMMON, "APP_SECURITY_JWT_ALGORITHM": "HS256", "APP_SECURITY_JWT_SECRET": SECRET}
WRONG = "the key is wrong, or no longer in force"


def pem(private):
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(private, kid, **more):
    algorithm = next(name for name, kind in KINDS.items() if isinstance(private, type(kind)))
    made = jwt.algorithms.get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
    return {name: value for name, value in {**made, "kid": kid, **more}.items() if value is not None}


def claims(**changed):
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 600, "iat": now, "scope": "submit read work"}
    return {name: value for name, value in {**whole, **changed}.items() if value is not None}


def signed(key=SECRET, algorithm="HS256", headers=None, **changed):
    return jwt.encode(claims(**changed), key, algorithm, headers)


def part(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def get(api, token, path=TASKS):
    return await api.call("GET", path, headers={"Authorization": f"Bearer {token}"})


async def who(api, token):
    return (await get(api, token, "/api/v1/session")).data


async def comes_in(api, token):
    """As soon as the keys have been read again."""

    async def is_in():
        return (await get(api, token)).status == 200

    await until(is_in)


async def turned_away(api, token):
    """As whoever has a wrong key."""
    answer = await get(api, token)
    assert answer.refused(401, "UNAUTHORIZED") == {}
    assert answer.json["error"]["message"] == WRONG
    assert answer.headers["WWW-Authenticate"] == "Bearer"


class Provider:
    """Publishes keys on loopback, and counts who asks for them."""

    def __init__(self):
        self.keys, self.asked, self.status, self.body = [], 0, 200, None
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request):
        self.asked += 1
        await self.gate.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return web.Response(status=self.status, body=body, headers={"Location": "/elsewhere"})


@pytest.fixture
async def provider():
    made = Provider()
    app = web.Application()
    app.router.add_get("/keys", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield made
    await runner.cleanup()


@pytest.fixture
def hurried(monkeypatch):
    """Keys may be read again at once."""
    monkeypatch.setattr(published, "READ_AGAIN_SECONDS", 0.01)


@asynccontextmanager
async def going_by(directory, provider, algorithm="RS256", **environ):
    environ |= {"APP_SECURITY_JWT_ALGORITHM": algorithm, "APP_SECURITY_JWT_JWKS_URL": provider.url}
    async with inside(directory, **{**COMMON, **environ}) as (api, service, _):
        await until(lambda: provider.asked)
        yield api, service


# Who comes in


async def test_a_token_says_who_calls_and_what_they_may(tmp_path):
    async with inside(tmp_path, **BY_SECRET) as (api, _, _):
        assert await who(api, signed()) == {
            "name": "ann",
            "scopes": ["read", "submit", "work"],
            "work_directories": ["*"],
        }
        ann = Api(api.session, api.url)
        api.session.headers["Authorization"] = f"Bearer {signed()}"
        task = await ann.create("/srv/app")
        assert task["created_by"] == "ann"
        (await ann.post("/api/v1/keys", {"name": "x", "scopes": ["read"]})).refused(403, "FORBIDDEN")


@pytest.mark.parametrize("algorithm", [*KINDS])
async def test_each_algorithm_works_with_a_public_key_in_a_file(tmp_path, algorithm):
    file = tmp_path / "public.pem"
    file.write_bytes(pem(KINDS[algorithm]))
    environ = {"APP_SECURITY_JWT_ALGORITHM": algorithm, "APP_SECURITY_JWT_PUBLIC_KEY_FILE": str(file)}
    async with inside(tmp_path, **environ) as (api, _, _):
        good = signed(KINDS[algorithm], algorithm, iss=None, aud=None)
        assert (await who(api, good))["name"] == "ann"
        await turned_away(api, good[:-8] + ("AAAAAAAA" if good[-8:] != "AAAAAAAA" else "BBBBBBBB"))


@pytest.mark.parametrize("algorithm", [*KINDS])
async def test_each_algorithm_works_with_published_keys(tmp_path, provider, algorithm):
    provider.keys = [jwk(private, name) for name, private in KINDS.items()] + [{"kty": "oct", "k": "c2VjcmV0"}, 7, {}]
    async with going_by(tmp_path, provider, algorithm) as (api, _):
        assert (await who(api, signed(KINDS[algorithm], algorithm, {"kid": algorithm})))["name"] == "ann"
        for other in KINDS.keys() - {algorithm}:
            await turned_away(api, signed(KINDS[other], other, {"kid": other}))
            await turned_away(api, signed(KINDS[other], other, {"kid": algorithm}))


async def test_claims_map_to_scopes_names_and_directories(tmp_path):
    named = {
        "APP_SECURITY_JWT_SCOPES": "tasks:write=submit,ops=operate,ops=read",
        "APP_SECURITY_JWT_SCOPE_CLAIM": "roles",
        "APP_SECURITY_JWT_NAME_CLAIM": "email",
        "APP_SECURITY_JWT_WORK_DIRECTORIES_CLAIM": "dirs",
    }
    async with inside(tmp_path, **BY_SECRET, **named) as (api, _, _):
        token = signed(roles=["ops", "admin", "submit", 5, None], email="ann@example.org", dirs=["/srv/*"])
        assert await who(api, token) == {
            "name": "ann@example.org",
            "scopes": ["operate", "read"],
            "work_directories": ["/srv/*"],
        }
        text = signed(roles="tasks:write unknown", email="b", dirs="*")
        assert await who(api, text) == {"name": "b", "scopes": ["submit"], "work_directories": ["*"]}
        for dirs in (None, [], "", [1], ["x" * 513], ["/a"] * 101, {"/srv": 1}):
            await turned_away(api, signed(roles="ops", email="b", dirs=dirs))
        for name in (None, "", " ", 7, "x" * 101, "a\nb", ["a"], "\u202e"):
            await turned_away(api, signed(email=name, dirs="*"))


async def test_what_no_scope_was_given_for_may_nothing(tmp_path):
    async with inside(tmp_path, **BY_SECRET) as (api, _, _):
        for scope in ("", None, "root", {"admin": True}, 7):
            token = signed(scope=scope)
            assert (await who(api, token))["scopes"] == []
            (await get(api, token)).refused(403, "FORBIDDEN")


async def test_keys_and_tokens_live_side_by_side_but_not_under_one_name(tmp_path):
    async with inside(tmp_path, API_SECRET_KEY="a-key", **BY_SECRET) as (api, _, _):
        assert (await who(api, "a-key"))["name"] == "api_key"
        assert (await who(api, signed()))["name"] == "ann"
        made = await api.call(
            "POST",
            "/api/v1/keys",
            json={"name": "ann", "scopes": ["read"]},
            headers={"Authorization": "Bearer a-key"},
        )
        assert made.status == 201
        await turned_away(api, signed())
        await turned_away(api, signed(sub="api_key"))


async def test_a_door_for_tokens_is_closed_to_all_others(tmp_path):
    async with inside(tmp_path, **BY_SECRET) as (api, _, _):
        (await api.get(TASKS)).refused(401, "UNAUTHORIZED")
        session = await api.post("/api/v1/session", {"key": signed()[:500]})
        session.refused(401, "UNAUTHORIZED")
        assert (await api.get("/health")).status == 200


# Who does not

NOW = int(time.time())
FORGED = {
    "of another secret": lambda: signed("another-secret-of-thirty-two-characters"),
    "unsigned": lambda: f"{part({'alg': 'none'})}.{part(claims())}.",
    "unsigned, in capitals": lambda: f"{part({'alg': 'NONE'})}.{part(claims())}.",
    "without an algorithm": lambda: f"{part({'typ': 'JWT'})}.{part(claims())}.{part(b'x' * 32)}",
    "of another algorithm": lambda: signed(SECRET * 2, "HS512"),
    "of another issuer": lambda: signed(iss="https://evil.example"),
    "of no issuer": lambda: signed(iss=None),
    "of many issuers": lambda: f"{part({'alg': 'HS256'})}.{part(claims(iss=[ISSUER]))}.{part(b'x' * 32)}",
    "for another audience": lambda: signed(aud="another"),
    "for no audience": lambda: signed(aud=None),
    "for an audience like ours": lambda: signed(aud=[AUDIENCE + "x"]),
    "without an end": lambda: signed(exp=None),
    "over": lambda: signed(exp=int(time.time()) - 31),
    "over since ever": lambda: signed(exp=-1),
    "of a strange end": lambda: signed(exp="tomorrow"),
    "of a list as its end": lambda: signed(exp=[9e9]),
    "without end": lambda: signed(exp=float("inf")),
    "of no number as its end": lambda: signed(exp=float("nan")),
    "not yet": lambda: signed(nbf=int(time.time()) + 60),
    "made tomorrow": lambda: signed(iat=int(time.time()) + 86400),
    "of nobody": lambda: signed(sub=None),
    "of a number": lambda: f"{signed(sub='1')}x",
    "critical": lambda: signed(headers={"crit": ["exp"]}),
    "critical, of nothing": lambda: signed(headers={"crit": []}),
    "detached": lambda: f"{part({'alg': 'HS256', 'b64': False, 'crit': ['b64']})}..{part(b'x' * 32)}",
    "with its own key": lambda: jwt.encode(claims(), RSA, "RS256", {"jwk": jwk(RSA, "x"), "kid": "x"}),
    "with the address of its key": lambda: jwt.encode(claims(), RSA, "RS256", {"jku": "http://127.0.0.1/", "kid": "x"}),
    "within a token": lambda: f"{part({'alg': 'HS256', 'cty': 'JWT'})}.{part(signed().encode())}.{part(b'x' * 32)}",
    "huge": lambda: signed(filler="x" * 5600),
    "nested deep": lambda: f"{part(b'{' + b'[' * 5000)}.{part(claims())}.{part(b'x')}",
    "a header that is a list": lambda: f"eyJ{part([1])}.{part(claims())}.",
    "empty": lambda: "eyJ..",
    "cut off": lambda: signed()[:-1],
    "longer": lambda: signed() + "A",
    "of four parts": lambda: signed() + ".x",
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("strict"), environ=BY_SECRET).start()
    yield server
    assert server.terminate() == 0


@pytest.mark.parametrize("kind", [*FORGED])
async def test_a_forged_token_is_turned_away_and_not_told_why(strict, kind):
    async with connected(strict) as api:
        await turned_away(api, FORGED[kind]())
        assert (await who(api, signed()))["name"] == "ann"
    assert "Traceback" not in strict.log.read_text()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "dirs"])
HEADS = st.sampled_from(["alg", "kid", "typ", "cty", "crit", "b64", "jku", "jwk", "x5u", "zip", "enc"])
STRICT = {**BY_SECRET, "APP_SECURITY_JWT_WORK_DIRECTORIES_CLAIM": "dirs"}


@given(st.dictionaries(HEADS, ANYTHING, max_size=3), st.dictionaries(NAMES, ANYTHING, max_size=3), st.booleans())
def test_whatever_a_token_says_it_holds_or_it_does_not(head, body, is_whole):
    """Even if it is rightly signed."""
    header = {"alg": "HS256", **head}
    said = f"{part(header)}.{part({**claims(dirs='*'), **body} if is_whole else body)}"
    token = f"{said}.{part(hmac.digest(SECRET.encode(), said.encode(), 'sha256'))}"
    checked = tokens.open_tokens(settings_of(gather({}, STRICT)).security, lambda: int(time.time() * 1000))
    found = asyncio.run(checked.find(token))
    if found is not None:
        assert header["alg"] == "HS256"
        assert not {"crit", "b64"} & header.keys()
        assert found.expires_at > time.time() * 1000
        assert found.caller.scopes <= {"submit", "work", "read", "operate", "admin", "payload"}


@given(st.text() | st.text("eyJ.-_=Aa0", max_size=60))
def test_whatever_looks_like_a_token_is_looked_at_safely(text):
    checked = tokens.open_tokens(settings_of(gather({}, STRICT)).security, lambda: 0)
    assert asyncio.run(checked.find(text)) is None


async def test_a_public_key_is_no_secret(tmp_path):
    """Whoever takes it for one signs whatever they want with what everybody knows."""
    file = tmp_path / "public.pem"
    file.write_bytes(pem(RSA))
    environ = {"APP_SECURITY_JWT_ALGORITHM": "RS256", "APP_SECURITY_JWT_PUBLIC_KEY_FILE": str(file)}
    head, body = part({"alg": "HS256", "typ": "JWT"}), part(claims(iss=None, aud=None))
    forged = f"{head}.{body}.{part(hmac.digest(pem(RSA), f'{head}.{body}'.encode(), 'sha256'))}"
    async with inside(tmp_path, **environ) as (api, _, _):
        await turned_away(api, forged)
        await turned_away(api, signed(RSA_OTHER, "RS256", iss=None, aud=None))
        assert (await who(api, signed(RSA, "RS256", iss=None, aud=None)))["name"] == "ann"


async def test_times_hold_with_some_leeway(strict):
    async with connected(strict) as api:
        now = int(time.time())
        for good in (signed(exp=now - 5), signed(nbf=now + 5), signed(iat=now + 5)):
            assert (await who(api, good))["name"] == "ann"


# Published keys


async def test_a_kid_is_a_name_and_no_path(tmp_path, provider, hurried):
    provider.keys = [jwk(RSA, "one"), jwk(RSA_OTHER, "two")]
    odd = ["../../etc/passwd", "/dev/null", "one\0", "' or 1=1", provider.url, "", "ONE", "x" * 201, 7, ["one"], None]
    async with going_by(tmp_path, provider) as (api, _):
        assert (await who(api, signed(RSA, "RS256", {"kid": "one"})))["name"] == "ann"
        for kid in odd:
            body = f"{part({'alg': 'RS256', 'kid': kid})}.{part(claims())}"
            await turned_away(api, f"{body}.{part(signature_of(body))}")
        await turned_away(api, signed(RSA, "RS256", {"kid": "two"}))


def signature_of(body):
    return jwt.algorithms.get_default_algorithms()["RS256"].sign(body.encode(), RSA)


async def test_keys_rotate_without_a_restart(tmp_path, provider, hurried):
    provider.keys = [jwk(RSA, "old")]
    async with going_by(tmp_path, provider) as (api, _):
        old, new = signed(RSA, "RS256", {"kid": "old"}), signed(RSA_OTHER, "RS256", {"kid": "new"})
        assert (await who(api, old))["name"] == "ann"
        await turned_away(api, new)
        provider.keys = [jwk(RSA_OTHER, "new")]
        await comes_in(api, new)
        await turned_away(api, old)  # although it was known a moment ago


async def test_keys_in_a_file_rotate_too(tmp_path, hurried):
    file = tmp_path / "keys.json"

    def publish(*keys):
        file.write_text(json.dumps({"keys": keys}))

    publish(jwk(RSA, "old"))
    environ = {"APP_SECURITY_JWT_ALGORITHM": "RS256", "APP_SECURITY_JWT_JWKS_FILE": str(file), **COMMON}
    async with inside(tmp_path, **environ) as (api, _, _):
        old, new = signed(RSA, "RS256", {"kid": "old"}), signed(RSA_OTHER, "RS256", {"kid": "new"})
        await comes_in(api, old)
        publish(jwk(RSA_OTHER, "new"))
        await comes_in(api, new)
        await turned_away(api, old)
        file.unlink()
        await turned_away(api, signed(RSA, "RS256", {"kid": "newer"}))
        await comes_in(api, signed(RSA_OTHER, "RS256", {"kid": "new"}, jti="1"))


async def test_unknown_keys_do_not_hammer_the_provider(tmp_path, provider):
    provider.keys = [jwk(RSA, "one")]
    async with going_by(tmp_path, provider) as (api, _):
        good = signed(RSA, "RS256", {"kid": "one"})
        assert (await who(api, good))["name"] == "ann"
        forged = [signed(RSA_OTHER, "RS256", {"kid": f"random-{number}"}) for number in range(100)]
        await asyncio.gather(*(turned_away(api, token) for token in forged))
        assert provider.asked == 1
        assert (await who(api, good))["name"] == "ann"


async def test_many_who_wait_for_a_new_key_ask_once(tmp_path, provider, hurried):
    provider.keys = [jwk(RSA, "one")]
    async with going_by(tmp_path, provider) as (api, service):
        assert (await who(api, signed(RSA, "RS256", {"kid": "one"})))["name"] == "ann"
        asked = provider.asked
        provider.gate.clear()
        provider.keys = [jwk(RSA_OTHER, "new")]
        fresh = [signed(RSA_OTHER, "RS256", {"kid": "new"}, jti=str(number)) for number in range(20)]
        waiting = [asyncio.create_task(who(api, token)) for token in fresh]
        await until(lambda: provider.asked > asked and service.requests == len(fresh))
        provider.gate.set()
        assert {it["name"] for it in await asyncio.gather(*waiting)} == {"ann"}
        assert provider.asked - asked <= 2


@pytest.mark.parametrize(
    "broken",
    [
        {"status": 500},
        {"status": 302},
        {"body": b"not json"},
        {"body": b"[" * 100_000},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": 7}'},
        {"body": b'{"keys": ["' + b"x" * published.SET_BYTES_MAX + b'"]}'},
    ],
    ids=["error", "moved", "no JSON", "deep", "none", "no list", "large"],
)
async def test_a_provider_that_fails_takes_nothing_away(tmp_path, provider, hurried, broken):
    provider.keys = [jwk(RSA, "one")]
    async with going_by(tmp_path, provider) as (api, _):
        good = signed(RSA, "RS256", {"kid": "one"})
        assert (await who(api, good))["name"] == "ann"
        vars(provider).update(broken)
        asked, forged = provider.asked, signed(RSA_OTHER, "RS256", {"kid": "new"})

        async def asked_again():
            await turned_away(api, forged)
            return provider.asked > asked

        await until(asked_again)
        assert (await who(api, signed(RSA, "RS256", {"kid": "one"}, jti="another")))["name"] == "ann"
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "the keys of tokens" in line]
    assert len(told) == 1


async def test_a_server_starts_without_its_provider_and_says_so(tmp_path, provider, hurried):
    provider.status, provider.keys = 503, [jwk(RSA, "one")]
    async with going_by(tmp_path, provider) as (api, _):
        good = signed(RSA, "RS256", {"kid": "one"})
        (await get(api, good)).refused(503, "UNAVAILABLE")
        provider.status = 200
        await comes_in(api, good)


WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)
UNFIT = {
    "for encryption": lambda: jwk(RSA, "k", use="enc"),
    "of another algorithm": lambda: jwk(RSA, "k", alg="PS256"),
    "to sign with": lambda: jwk(RSA, "k", key_ops=["sign"]),
    "private": lambda: jwt.algorithms.get_default_algorithms()["RS256"].to_jwk(RSA, as_dict=True) | {"kid": "k"},
    "weak": lambda: jwk(WEAK, "k"),
    "of another kind": lambda: jwk(EC, "k"),
    "without a modulus": lambda: jwk(RSA, "k", n=None),
    "no number": lambda: jwk(RSA, "k", n="!"),
    "symmetric": lambda: {"kty": "oct", "kid": "k", "k": part(b"x" * 32)},
    "nameless": lambda: jwk(RSA, 7),
}


@pytest.mark.parametrize("kind", [*UNFIT])
def test_a_published_key_that_is_not_meant_or_weak_is_none(kind):
    good = jwk(RSA_OTHER, "good", use="sig", alg="RS256", key_ops=["verify"])
    keys = published.of_set(json.dumps({"keys": [UNFIT[kind](), good]}).encode(), "RS256")
    assert keys.keys() == {"good"}


def test_an_elliptic_key_on_another_curve_is_none():
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert not published.fits("ES256", other)
    assert published.fits("ES256", EC.public_key())


# How long it lasts


async def test_a_stream_ends_with_its_token(tmp_path):
    async with inside(tmp_path, **BY_SECRET, APP_SECURITY_JWT_LEEWAY_SECONDS="0") as (api, _, _):
        headers = {"Authorization": f"Bearer {signed(exp=int(time.time()) + 2)}"}
        began = time.monotonic()
        async with api.session.get(f"{api.url}/api/v1/events", headers=headers) as response:
            assert response.status == 200
            with pytest.raises(ClientPayloadError):
                await asyncio.wait_for(response.content.read(), 10)
        assert time.monotonic() - began < 5


async def test_what_was_checked_lately_is_not_checked_again_but_never_beyond_its_end(monkeypatch):
    security = settings_of(gather({}, {**BY_SECRET, "APP_SECURITY_JWT_LEEWAY_SECONDS": "0"})).security
    now, decoded = SimpleNamespace(ms=int(time.time() * 1000)), count()
    decode = jwt.decode
    monkeypatch.setattr(tokens.jwt, "decode", lambda *said, **more: (next(decoded), decode(*said, **more))[1])
    monkeypatch.setattr(tokens, "KNOWN_MAX", 10)
    checked = tokens.open_tokens(security, lambda: now.ms)
    token = signed()
    for _ in range(3):
        assert (await checked.find(token)).caller.name == "ann"
    assert next(decoded) == 1
    for number in range(30):
        await checked.find(signed(jti=str(number)))
    assert len(checked._known) == 10
    assert await checked.find(token)
    now.ms += 601_000
    assert await checked.find(token) is None


# What cannot be configured

REFUSED = {
    "an algorithm is required": ({"JWT_SECRET": SECRET}, "JWT_ALGORITHM"),
    "none is none": ({"JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
    "there is one algorithm": ({"JWT_ALGORITHM": "RS256,ES256", "JWT_JWKS_FILE": "x"}, "JWT_ALGORITHM"),
    "a source is required": ({"JWT_ALGORITHM": "HS256"}, "JWT_ALGORITHM"),
    "a public key has no secret": ({"JWT_ALGORITHM": "RS256", "JWT_SECRET": SECRET}, "JWT_SECRET"),
    "a secret is not public": ({"JWT_ALGORITHM": "HS256", "JWT_PUBLIC_KEY_FILE": "x"}, "JWT_PUBLIC_KEY_FILE"),
    "a secret is long": ({"JWT_ALGORITHM": "HS256", "JWT_SECRET": "x" * 31}, "JWT_SECRET"),
    "there is one source": (
        {"JWT_ALGORITHM": "HS256", "JWT_SECRET": SECRET, "JWT_JWKS_FILE": "x"},
        "JWT_JWKS_FILE",
    ),
    "published keys are for an audience": (
        {"JWT_ALGORITHM": "RS256", "JWT_JWKS_FILE": "x", "JWT_ISSUER": "i"},
        "JWT_AUDIENCE",
    ),
    "published keys have an issuer": (
        {"JWT_ALGORITHM": "RS256", "JWT_JWKS_FILE": "x", "JWT_AUDIENCE": "a"},
        "JWT_ISSUER",
    ),
    "keys travel safely": (
        {"JWT_ALGORITHM": "RS256", "JWT_JWKS_URL": "http://id.example/keys", "JWT_AUDIENCE": "a", "JWT_ISSUER": "i"},
        "JWT_JWKS_URL",
    ),
    "a URL tells no password": ({"JWT_JWKS_URL": "https://u:p@id.example/"}, "JWT_JWKS_URL"),
    "a scope is one of ours": ({"JWT_SCOPES": "ops=root"}, "JWT_SCOPES[0]"),
    "a mapping has two sides": ({"JWT_SCOPES": "=read"}, "JWT_SCOPES[0]"),
    "there is not much leeway": ({"JWT_LEEWAY_SECONDS": "301"}, "JWT_LEEWAY_SECONDS"),
}


@pytest.mark.parametrize("rule", [*REFUSED])
def test_what_makes_tokens_worthless_is_refused(rule):
    given, named = REFUSED[rule]
    with pytest.raises(SettingsError) as caught:
        settings_of(gather({}, {f"APP_SECURITY_{name}": value for name, value in given.items()}))
    fields = {fault.field for fault in caught.value.faults}
    assert fields & {f"APP_SECURITY_{named}", f"security.{named.lower()}"}, caught.value
    assert SECRET not in str(caught.value)


def private_pem():
    return RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"nothing", "no public key"),
        (private_pem(), "private key"),
        (pem(EC), "RS256"),
        (pem(WEAK), "RS256"),
    ],
    ids=["missing", "none", "private", "other", "weak"],
)
def test_a_file_without_a_fit_public_key_is_refused_at_the_start(tmp_path, content, why):
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    environ = {"APP_SECURITY_JWT_ALGORITHM": "RS256", "APP_SECURITY_JWT_PUBLIC_KEY_FILE": str(file)}
    said = refused_start(tmp_path / "tasks.db", **environ)
    assert said.returncode == 2
    assert said.stderr.startswith("security.jwt_public_key_file: ")
    assert why in said.stderr
    assert said.stderr.count("\n") == 1


def test_without_the_extra_the_server_says_what_is_missing(tmp_path):
    script = (
        "import web.access.token_door as it\n"
        "it.find_spec = lambda name: None\n"
        "from web.serve import app\n"
        "import sys; sys.exit(app(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "--port", "0", "--database", f"sqlite:///{tmp_path}/tasks.db"]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **BY_SECRET}, check=False)
    assert said.returncode == 2
    assert said.stderr == "security.jwt_algorithm: takes the extra jwt: pip install 'task-orchestrator[jwt]'\n"


def test_nothing_of_it_is_loaded_unless_it_is_configured():
    script = "import web.serve, sys; assert not {'jwt', 'cryptography'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_others_may_come_from_elsewhere_with_tokens_alone(tmp_path):
    server = ServerProcess(tmp_path, "--host", "0.0.0.0", environ=BY_SECRET).start()
    assert server.terminate() == 0
