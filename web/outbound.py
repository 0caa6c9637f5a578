"""Requests of our own to the outside: signed, bounded in time, and to public addresses only unless allowed."""

import asyncio
import base64
import hmac
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any, cast

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector, ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from web.settings import Webhooks

USER_AGENT = "task-orchestrator"
ANSWER_BYTES_MAX = 1024 * 1024  # of what an endpoint says in answer to one request; its status is all that counts
# An IPv4 address is in the last four bytes of these.
EMBEDDING = [ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96")]

Post = Callable[[str, bytes], Awaitable[None]]


class NotDelivered(Exception):
    """The endpoint did not take it. `gone`: it says that it never will again."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


def is_public(address: str) -> bool:
    """Not an address of this machine, of a local network, or of several at once."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if any(ip in network for network in EMBEDDING):
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class PublicOnly(AbstractResolver):
    """Checked on the addresses that are connected to: a name may be resolved anew at any time."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [it for it in found if is_public(it["host"])]
        if not public:
            raise OSError(None, "it has no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class _Brief(ResponseHandler):
    """An endpoint that talks without end, be it in interim answers, is hung up on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._heard = 0

    def set_response_params(self, **params: Any) -> None:
        self._heard = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self._heard += len(data)
        if self._heard <= ANSWER_BYTES_MAX:
            super().data_received(data)
        elif self.transport is not None:
            self.transport.abort()


class _Connector(TCPConnector):
    """Its connections are brief ones; aiohttp has no public way to say so."""

    def __init__(self, resolver: AbstractResolver | None) -> None:
        super().__init__(resolver=resolver, use_dns_cache=False)
        self._factory = cast(Any, partial(_Brief, loop=asyncio.get_running_loop()))


@asynccontextmanager
async def endpoint(settings: Webhooks) -> AsyncIterator[Post]:
    """How to say something to it. The function given takes an id and a body, and raises NotDelivered."""
    assert settings.url is not None
    assert settings.secret is not None
    url, secret = URL(settings.url), settings.secret
    host = url.host or ""
    refused = not settings.allow_private and _is_address(host) and not is_public(host)

    async def post(id: str, body: bytes) -> None:
        if refused:
            raise NotDelivered("it has no public address")
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT, **signature(secret, id, body)}
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if not 200 <= response.status < 300:
                    raise NotDelivered(f"it answered {response.status}", gone=response.status == 410)
        except (ClientError, OSError, TimeoutError) as error:
            raise NotDelivered(_why(error)) from error

    connector = _Connector(None if settings.allow_private else PublicOnly())
    timeout = ClientTimeout(total=settings.timeout_seconds)
    async with ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield post


def signature(secret: str, id: str, body: bytes) -> dict[str, str]:
    """The headers of the Standard Webhooks specification: HMAC-SHA256 over id, time and body, in base64."""
    timestamp = str(int(time.time()))  # the receiver compares it with the clock on its wall
    content = b".".join((id.encode(), timestamp.encode(), body))
    digest = base64.b64encode(hmac.digest(_key(secret), content, sha256)).decode()
    return {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{digest}"}


def _why(error: Exception) -> str:
    """Without the address, which is not for everybody who may look at the health."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ClientConnectorError):
        reason = error.os_error.strerror or str(error.os_error)
        return f"it cannot be connected to: {reason}"
    return f"it cannot be talked to: {type(error).__name__}"


def _key(secret: str) -> bytes:
    """`whsec_` announces a key in base64; anything else is the key itself."""
    return base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
