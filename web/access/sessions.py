"""The session of a browser: a cookie made from a key. It is void with the key, for the key's digest signs it, so that
no server has to remember it."""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256

from aiohttp.web import Request, StreamResponse

COOKIE = "task_orchestrator_session"
HOURS = 12
VALUE = re.compile(r"([\w-]+=*)\.([1-9]\d{0,14})\.([0-9a-f]{64})", re.ASCII)


def open_session(response: StreamResponse, name: str, digest: str, expires_at: int, now: int, *, secure: bool) -> None:
    """`expires_at` is in ms since the epoch."""
    value = f"{_coded(name)}.{expires_at}.{_signature(name, digest, expires_at)}"
    seconds = (expires_at - now) // 1000
    response.set_cookie(COOKIE, value, path="/", max_age=seconds, httponly=True, samesite="Strict", secure=secure)


def close_session(response: StreamResponse, *, secure: bool) -> None:
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=secure)


def session_of(request: Request, digest_of_name: Callable[[str], str | None], now: int) -> tuple[str, int] | None:
    """The digest of the key that the cookie was made from, and when the session ends; None: there is no session that
    holds."""
    found = VALUE.fullmatch(request.cookies.get(COOKIE, ""))
    if found is None:
        return None
    try:
        name, expires_at = urlsafe_b64decode(found[1]).decode(), int(found[2])
    except ValueError:
        return None
    if _coded(name) != found[1]:  # one session is one cookie
        return None
    digest = digest_of_name(name)
    if digest is None or expires_at <= now or not hmac.compare_digest(found[3], _signature(name, digest, expires_at)):
        return None
    return digest, expires_at


def unexpired_cookie(request: Request, now: int) -> str:
    """As it was sent, whether it holds or not; empty if there is none."""
    found = VALUE.fullmatch(request.cookies.get(COOKIE, ""))
    return found[0] if found and int(found[2]) > now else ""


def _coded(name: str) -> str:
    return urlsafe_b64encode(name.encode()).decode()


def _signature(name: str, digest: str, expires_at: int) -> str:
    return hmac.new(bytes.fromhex(digest), f"{name}\n{expires_at}".encode(), sha256).hexdigest()
