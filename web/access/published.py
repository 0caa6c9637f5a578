"""The public keys that tokens are checked with: where they come from, and how they stay up to date."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWTError

from dispatcher.errors import Unavailable

READ_EVERY_SECONDS = 300.0  # so long a key may still count that its issuer has taken back
READ_AGAIN_SECONDS = 10.0  # and no sooner, whatever keys the tokens name
FETCH_SECONDS = 5
SET_BYTES_MAX = 256 * 1024
SET_KEYS_MAX = 100
RSA_BITS_MIN = 2048

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
PublicKeys = Mapping[str | None, PublicKey]  # by `kid`; None: of one that bears none

log = logging.getLogger(__name__)


class Unusable(Exception):
    """What should be a key, or a set of them, is none."""


def fits(algorithm: str, key: object) -> bool:
    """Whether this is a public key that is made for the algorithm, and a strong one."""
    if algorithm == "RS256":
        return isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN
    if algorithm == "ES256":
        return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey)


def of_pem(content: bytes, algorithm: str) -> PublicKeys:
    """Raises Unusable."""
    if b"PRIVATE KEY" in content:
        raise Unusable("has a private key in it: only the public one belongs here")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("has no public key in PEM in it") from None
    if not isinstance(key, PublicKey) or not fits(algorithm, key):
        raise Unusable(f"has a key in it that {algorithm} cannot be checked with")
    return {None: key}


def of_set(content: bytes, algorithm: str) -> PublicKeys:
    """Those keys of a JSON Web Key Set that are there to check signatures of this algorithm. Raises Unusable."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        raise Unusable("is not JSON") from None
    members = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(members, list):
        raise Unusable("is not a set of keys")
    usable: dict[str | None, PublicKey] = {}
    for member in members[:SET_KEYS_MAX]:
        kid = member.get("kid") if isinstance(member, dict) else 0
        if (kid is None or isinstance(kid, str)) and (key := _key(member, algorithm)):
            usable.setdefault(kid, key)
    if not usable:
        raise Unusable(f"has no key in it that {algorithm} can be checked with")
    return usable


def _key(member: Mapping[str, Any], algorithm: str) -> PublicKey | None:
    is_meant = (
        member.get("use", "sig") == "sig"
        and member.get("alg", algorithm) in (algorithm, "Ed25519" if algorithm == "EdDSA" else algorithm)
        and "verify" in member.get("key_ops", ["verify"])
        and "d" not in member  # nobody's secret any more
        and member.get("kty") != "oct"
    )
    if not is_meant:
        return None
    try:
        key = PyJWK(dict(member), algorithm).key
    except (PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, PublicKey) and fits(algorithm, key) else None


async def fetched(url: str) -> bytes:
    """Raises Unusable."""
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=FETCH_SECONDS), trust_env=False) as session,
            session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
        ):
            if response.status != 200:
                raise Unusable(f"answered {response.status}")
            content = await response.content.read(SET_BYTES_MAX + 1)
            while len(content) <= SET_BYTES_MAX and (more := await response.content.read(SET_BYTES_MAX)):
                content += more
    except (ClientError, OSError, TimeoutError) as error:
        raise Unusable(f"cannot be had: {type(error).__name__}") from None
    if len(content) > SET_BYTES_MAX:
        raise Unusable(f"is larger than {SET_BYTES_MAX} bytes")
    return content


def content_of(file: str) -> bytes:
    """Raises Unusable."""
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(SET_BYTES_MAX + 1)
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    if len(content) > SET_BYTES_MAX:
        raise Unusable(f"is larger than {SET_BYTES_MAX} bytes")
    return content


class Published:
    """Keys as they are published, read again now and then, and when a token names one that is not known. While they
    cannot be read, those that are known count on."""

    def __init__(self, place: str, read: Callable[[], Awaitable[PublicKeys]], keys: PublicKeys) -> None:
        """`keys`: those known already; `place` is told in the log."""
        self.keys, self.version = keys, 0  # which grows whenever they change
        self._place, self._read = place, read
        self._began = -READ_AGAIN_SECONDS
        self._is_reading = False
        self._fault: str | None = None
        self._wanted, self._done = asyncio.Event(), asyncio.Event()

    async def find(self, kid: str | None) -> PublicKey | None:
        """Raises Unavailable as long as no keys are known at all."""
        key = self._known(kid)
        if key is None and (self._is_reading or monotonic() - self._began >= READ_AGAIN_SECONDS):
            if not self._is_reading:
                self._done.clear()
                self._wanted.set()
            await self._done.wait()
            key = self._known(kid)
        if key is None and not self.keys:
            raise Unavailable("the keys that tokens are checked with cannot be had")
        return key

    def _known(self, kid: str | None) -> PublicKey | None:
        if kid is None and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        return self.keys.get(kid)

    async def keep_fresh(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._read_now()
            await asyncio.sleep(self._began + READ_AGAIN_SECONDS - monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY_SECONDS - READ_AGAIN_SECONDS):
                    await self._wanted.wait()

    async def _read_now(self) -> None:
        self._wanted.clear()
        self._is_reading, self._began = True, monotonic()
        self._done.clear()
        fault = None
        try:
            keys = await self._read()
            if keys.keys() != self.keys.keys() or any(keys[kid] != self.keys[kid] for kid in keys):
                self.keys, self.version = keys, self.version + 1
        except Unusable as error:
            fault = str(error)
        except Exception:  # we are at fault, and others wait for us
            log.exception("the keys of tokens: %s", self._place)
        finally:
            self._is_reading = False
            self._done.set()
        if fault != self._fault:
            log.warning("the keys of tokens: %s %s", self._place, fault or "can be read again")
            self._fault = fault
