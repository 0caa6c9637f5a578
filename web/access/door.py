"""The door: who comes in, as whom, and who is turned away."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp.web import Request
from attrs import evolve

from dispatcher.caller import ANYONE, Scope
from dispatcher.ports import Clock
from web.access.browsers import check_own_page
from web.access.calling import caller
from web.access.keys import Admitted, Keys
from web.access.redaction import Veil
from web.access.sessions import session_of, unexpired_cookie
from web.answers import Failure

if TYPE_CHECKING:  # it needs the extra `jwt`
    from web.access.tokens import Tokens

OPEN = Admitted(ANYONE)
SESSION_PATH = "/api/v1/session"
OPEN_PATHS = ("/health", "/docs", "/openapi.json")  # without a key: probes, and what the contract is


def is_open(method: str, path: str) -> bool:
    """Whoever asks for this needs no key."""
    if path.startswith(OPEN_PATHS):
        return path in OPEN_PATHS or path.startswith(tuple(f"{it}/" for it in OPEN_PATHS))
    return method == "OPTIONS" or (method, path) == ("POST", SESSION_PATH)


class Door:
    def __init__(self, keys: Keys, clock: Clock, *, is_local: bool, tokens: "Tokens | None" = None) -> None:
        """`is_local`: only this machine can reach the server. `tokens` None: nobody comes in with one."""
        self.keys, self._clock, self.is_local, self.tokens = keys, clock, is_local, tokens
        self.veil = Veil()

    @property
    def is_open(self) -> bool:
        """Whoever comes without a key may do everything: nobody has said yet who may not."""
        return self.is_local and not self.keys.has_had_admin and self.tokens is None

    async def admit(self, request: Request) -> Admitted:
        """By the key or the token as a bearer token, the key in X-API-Key, or the session. Raises a 401 Failure,
        RecordFailed, or Unavailable where a token cannot be looked at."""
        if secret := _secret(request):
            await self.keys.look_up(secret)
            if admitted := self.keys.find(secret) or await self._by_token(secret):
                return admitted
        elif admitted := self._by_session(request):
            check_own_page(request)
            return admitted
        if self.is_open and not (secret and self.keys.has_had_any):
            return OPEN
        raise no_longer_in_force() if secret else _unauthorized("a key is needed: as a bearer token, or in X-API-Key")

    async def _by_token(self, secret: str) -> Admitted | None:
        """Not if it bears the name of a key, whose tasks it would have."""
        admitted = await self.tokens.find(secret) if self.tokens else None
        return admitted if admitted and self.keys.of_name(admitted.caller.name or "") is None else None

    def shown(self, request: Request) -> str:
        """What they bring to be let in, right or wrong; empty: nothing. A session that has ended counts as nothing, for
        browsers go on sending it."""
        return _secret(request) or unexpired_cookie(request, self._clock())

    def _by_session(self, request: Request) -> Admitted | None:
        found = session_of(request, self.keys.of_name, self._clock())
        admitted = self.keys.found(found[0]) if found else None
        if found is None or admitted is None:
            return None
        return evolve(admitted, expires_at=min(found[1], admitted.expires_at or found[1]))

    @contextmanager
    def inside(self, admitted: Admitted, patience: asyncio.Timeout) -> Iterator[None]:
        """Meanwhile whatever is done is done for them; `patience` ends when they may no longer be here."""
        if admitted.expires_at is not None:
            seconds = (admitted.expires_at - self._clock()) / 1000
            patience.reschedule(asyncio.get_running_loop().time() + seconds)
        token = caller.set(admitted.caller)
        try:
            with self.keys.present(admitted, patience), self.veil.before(admitted.caller):
                yield
        finally:
            caller.reset(token)


def check_scope(scope: Scope | None) -> None:
    """Raises a 403 Failure."""
    if scope is not None and not caller.get().may(scope):
        raise Failure(403, "FORBIDDEN", f"this takes a key with the scope {scope}", {"scope": scope})


def no_longer_in_force() -> Failure:
    return _unauthorized("the key is wrong, or no longer in force")


def _unauthorized(reason: str) -> Failure:
    return Failure(401, "UNAUTHORIZED", reason, headers={"WWW-Authenticate": "Bearer"})


def _secret(request: Request) -> str:
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")
