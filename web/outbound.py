"""Requests of our own to the outside: signed, bounded in time, and to public addresses only unless allowed."""

import base64
import hmac
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector, ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from web.settings import Webhooks

USER_AGENT = "task-orchestrator"
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

    connector = TCPConnector(resolver=None if settings.allow_private else PublicOnly(), use_dns_cache=False)
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
