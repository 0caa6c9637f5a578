"""JSON Web Tokens: who bears one that holds comes in with what it says. Needs the extra `jwt`."""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, cast, get_args

import jwt

from dispatcher.caller import Caller, Reach, Scope
from dispatcher.ports import Clock
from web.access.keys import Admitted, digest_of
from web.access.published import PublicKey, PublicKeys, Published, Unusable, content_of, fetched, of_pem, of_set
from web.codec import Fault
from web.settings import Security, SettingsError

LOOKS = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*", re.ASCII)  # a header in base64 begins so: {"
TOKEN_CHARACTERS_MAX = 7168  # below what a header may have
KNOWN_MAX = 4096  # tokens that were checked lately and need not be again
KNOWN_SECONDS = 60
NAME_CHARACTERS_MAX = 100
PATTERNS_MAX, PATTERN_CHARACTERS_MAX = 100, 512
KID_CHARACTERS_MAX = 200
YEAR_10000 = 253_402_300_800

log = logging.getLogger(__name__)


class Refused(Exception):
    """The token does not hold; why is for the log alone."""


def looks_like_token(secret: str) -> bool:
    return LOOKS.fullmatch(secret) is not None


def open_tokens(security: Security, clock: Clock) -> "Tokens":
    """Raises SettingsError if a file cannot be used; what must be fetched may come later."""
    algorithm = security.jwt_algorithm
    assert algorithm
    if url := security.jwt_jwks_url:

        async def fetch() -> PublicKeys:
            return of_set(await fetched(url), algorithm)

        return Tokens(security, clock, Published(url, fetch, {}))
    for name, file, keys_of in (
        ("jwt_public_key_file", security.jwt_public_key_file, of_pem),
        ("jwt_jwks_file", security.jwt_jwks_file, of_set),
    ):
        if file is not None:
            read = partial(_keys_in, file, keys_of, algorithm)
            try:
                keys = read()
            except Unusable as error:
                raise SettingsError([Fault(f"security.{name}", f"{file} {error}")]) from None
            return Tokens(security, clock, Published(file, partial(asyncio.to_thread, read), keys))
    return Tokens(security, clock, None)


def _keys_in(file: str, keys_of: Any, algorithm: str) -> PublicKeys:
    keys: PublicKeys = keys_of(content_of(file), algorithm)
    return keys


class Tokens:
    def __init__(self, security: Security, clock: Clock, published: Published | None) -> None:
        """`published` None: they are signed with the secret."""
        assert security.jwt_algorithm
        self._settings, self._clock, self._published = security, clock, published
        self._algorithm: str = security.jwt_algorithm
        self._scopes: dict[str, set[Scope]] = {}
        for line in security.jwt_scopes or [f"{scope}={scope}" for scope in get_args(Scope)]:
            theirs, _, ours = line.rpartition("=")
            self._scopes.setdefault(theirs, set()).add(cast(Scope, ours))
        self._known: OrderedDict[str, tuple[Admitted, float, int]] = OrderedDict()

    async def keep_fresh(self) -> None:
        """Until it is cancelled."""
        if self._published:
            await self._published.keep_fresh()

    async def find(self, token: str) -> Admitted | None:
        """Who bears it, if it holds. Raises Unavailable if there are no keys to check it with."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            return None
        digest = digest_of(token)
        admitted = self._recall(digest)
        if admitted is None:
            try:
                admitted = await self._check(token)
            except Refused as why:
                log.info("a token was refused: %s", why)
                return None
            self._remember(digest, admitted)
        return admitted if (admitted.expires_at or 0) > self._clock() else None

    def _recall(self, digest: str) -> Admitted | None:
        admitted, until, version = self._known.get(digest, (None, 0.0, 0))
        if admitted is None or until <= monotonic() or version != self._version:
            self._known.pop(digest, None)
            return None
        return admitted

    def _remember(self, digest: str, admitted: Admitted) -> None:
        self._known[digest] = admitted, monotonic() + KNOWN_SECONDS, self._version
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    @property
    def _version(self) -> int:
        return self._published.version if self._published else 0

    async def _check(self, token: str) -> Admitted:
        """Raises Refused."""
        settings = self._settings
        try:
            key = await self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[self._algorithm],
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=settings.jwt_leeway_seconds,
                options={"require": ["exp", *_required(settings)], "enforce_minimum_key_length": True},
            )
            return self._admitted(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Refused(type(error).__name__) from None  # what else it says may be the caller's words

    async def _key(self, header: Mapping[str, Any]) -> PublicKey | str:
        """Nothing in the header but `kid` has a say in it."""
        if header.get("alg") != self._algorithm:
            raise Refused(f"it is not signed with {self._algorithm}")
        if "crit" in header or "b64" in header:
            raise Refused("it makes demands that are not understood here")
        if self._published is None:
            assert self._settings.jwt_secret
            return self._settings.jwt_secret
        kid = header.get("kid")
        if kid is not None and (not isinstance(kid, str) or len(kid) > KID_CHARACTERS_MAX):
            raise Refused("its kid is none")
        if (key := await self._published.find(kid)) is None:
            raise Refused("it was signed with a key that is not known")
        return key

    def _admitted(self, claims: Mapping[str, Any]) -> Admitted:
        """Raises Refused."""
        name = claims.get(self._settings.jwt_name_claim)
        if not isinstance(name, str) or not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise Refused("it names nobody")
        ends = min(int(claims["exp"]) + self._settings.jwt_leeway_seconds, YEAR_10000)
        return Admitted(Caller(name, self._scopes_of(claims), self._reach_of(claims)), int(ends * 1000))

    def _scopes_of(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        """What is none of ours gives nothing."""
        given = _words(claims.get(self._settings.jwt_scope_claim, ""))
        return frozenset(scope for word in given for scope in self._scopes.get(word, ()))

    def _reach_of(self, claims: Mapping[str, Any]) -> Reach | None:
        if (claim := self._settings.jwt_work_directories_claim) is None:
            return None
        given = claims.get(claim)
        patterns = [given] if isinstance(given, str) else given
        if not isinstance(patterns, list) or not 1 <= len(patterns) <= PATTERNS_MAX:
            raise Refused("it names no work directories")
        if not all(isinstance(it, str) and 0 < len(it) <= PATTERN_CHARACTERS_MAX for it in patterns):
            raise Refused("it names work directories that are none")
        return None if "*" in patterns else Reach(tuple(patterns))


def _required(settings: Security) -> list[str]:
    """The claims that it must have besides its end."""
    return ["iss"] * (settings.jwt_issuer is not None) + ["aud"] * (settings.jwt_audience is not None)


def _words(given: object) -> Sequence[str]:
    """Text with spaces between, or a list."""
    if isinstance(given, str):
        return given.split()
    return [word for word in given if isinstance(word, str)] if isinstance(given, list) else []
