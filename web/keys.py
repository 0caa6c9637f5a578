"""The keys that open the door: made, listed and revoked; and the session of a browser, which is made from one."""

from functools import partial
from typing import TypedDict

from aiohttp.web import Request, Response

from dispatcher.caller import Scope
from dispatcher.keys import Key
from web.access.addresses import came_securely
from web.access.audit import tell
from web.access.calling import caller
from web.access.door import no_longer_in_force
from web.access.keys import Admitted
from web.access.limiting import Visit
from web.access.sessions import HOURS, close_session, open_session
from web.answers import Failure, ok
from web.bodies import AboutKey, Credential, NewKey, Nothing
from web.codec import rfc3339
from web.service import Service
from web.views import moment


class KeyView(TypedDict):
    name: str
    scopes: list[Scope]
    work_directories: list[str]
    created_at: str
    created_by: str | None
    expires_at: str | None
    last_used_at: str | None


class CreatedKey(KeyView):
    """`key` is shown this once."""

    key: str


class Keys(TypedDict):
    keys: list[KeyView]


class Revoked(TypedDict):
    name: str
    revoked: bool


class Session(TypedDict):
    """Who calls, and what they may do; `work_directories` as patterns. `name` is null where no key is needed."""

    name: str | None
    scopes: list[Scope]
    work_directories: list[str]


async def create(service: Service, asked: NewKey, request: Request) -> Response:
    """Make a key. It is shown in this answer and never again."""
    tell(request, told_of_key(asked), asked.name)
    asked.check_expiry(service.clock())
    key, secret = await service.door.keys.create(
        asked.name, asked.scopes, asked.work_directories, asked.expires_at, caller.get().name
    )
    return ok(created(key, secret), service.clock(), 201)


def created(key: Key, secret: str) -> CreatedKey:
    return {**_view(key), "key": secret}


async def listing(service: Service, asked: Nothing, request: Request) -> Response:
    """List the keys, the oldest first: what each may do, and when it was last used."""
    await service.door.keys.load()  # other servers tell when they have seen one
    said: Keys = {"keys": [_view(key) for key in service.door.keys.all()]}
    return ok(said, service.clock())


async def revoke(service: Service, asked: AboutKey, request: Request) -> Response:
    """Revoke a key: it opens nothing from now on, and whoever came in with it is sent away."""
    if service.door.tokens is None and service.door.keys.is_last_admin(asked.name):
        raise Failure(409, "LAST_ADMIN", "no other key has admin: make another one first")
    if not await service.door.keys.revoke(asked.name):
        raise Failure(404, "NOT_FOUND", f"there is no key of the name {asked.name!a}")
    said: Revoked = {"name": asked.name, "revoked": True}
    return ok(said, service.clock())


async def session(service: Service, asked: Nothing, request: Request) -> Response:
    """Tell who calls, and what they may do."""
    return ok(_session(), service.clock())


async def open_(service: Service, asked: Credential, request: Request) -> Response:
    """Open a session for a browser: the answer sets a cookie, which stands for the key."""
    now = service.clock()
    visit = Visit(service.rates, request, "open")
    admitted, digest = await visit.admit(asked.key, partial(_find, service, asked.key))
    name, ends = admitted.caller.name or "", now + HOURS * 3_600_000
    caller.set(admitted.caller)
    response = ok(_session(), now, 201)
    expires_at = min(ends, admitted.expires_at or ends)
    open_session(response, name, digest, expires_at, now, secure=came_securely(request))
    return response


async def _find(service: Service, secret: str) -> tuple[Admitted, str]:
    await service.door.keys.look_up(secret)
    admitted = service.door.keys.find(secret)
    if admitted is None or admitted.digest is None:
        raise no_longer_in_force()
    return admitted, admitted.digest


async def close(service: Service, asked: Nothing, request: Request) -> Response:
    """End the session of a browser: its cookie is taken away."""
    response = ok(_session(), service.clock())
    close_session(response, secure=came_securely(request))
    return response


def told_of_key(new: NewKey) -> dict[str, object]:
    """As the audit log tells it."""
    return {"scopes": new.scopes, "work_directories": new.work_directories, "expires_at": moment(new.expires_at)}


def _session() -> Session:
    now = caller.get()
    patterns = list(now.reach.patterns) if now.reach else ["*"]
    return {"name": now.name, "scopes": sorted(now.scopes), "work_directories": patterns}


def _view(key: Key) -> KeyView:
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "work_directories": list(key.work_directories),
        "created_at": rfc3339(key.created_at),
        "created_by": key.created_by,
        "expires_at": moment(key.expires_at),
        "last_used_at": moment(key.last_used_at),
    }
