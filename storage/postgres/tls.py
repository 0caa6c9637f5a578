"""What a URL says of TLS: refused before anything is tried if it cannot be used, and told if it does not say enough."""

import os
import ssl
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, unquote

import asyncpg

from storage.errors import StorageError

VERIFIED = ("verify-ca", "verify-full")
MODES = ("disable", "allow", "prefer", "require", *VERIFIED)
FILES = ("sslrootcert", "sslcrl", "sslcert", "sslkey")
BETTER = "sslmode=verify-full&sslrootcert=FILE checks it"


def refuse_unusable(url: str) -> None:
    """Raises StorageError, which says nothing of the URL but what it says of TLS."""
    asked = _asked(url)
    mode = asked.get("sslmode")
    if mode is not None and mode not in MODES:
        raise StorageError(f"sslmode must be one of {', '.join(MODES)}")
    for name in FILES:
        if (file := asked.get(name)) and (why := _unreadable(file)):
            raise StorageError(f"{name}: {file} cannot be read: {why}")
    if root := asked.get("sslrootcert"):
        try:
            ssl.create_default_context(cafile=root)
        except ssl.SSLError:
            raise StorageError(f"sslrootcert: {root} holds no certificate") from None
    elif mode in VERIFIED and not _own_root():
        raise StorageError(f"sslmode={mode} needs sslrootcert=FILE: by whose certificates to check")


def doubts(url: str) -> str | None:
    """What may be wrong with who is at the other side; None if that is checked, or wanted otherwise, or no way leads
    through a network."""
    asked = _asked(url)
    mode = asked.get("sslmode")
    if mode in VERIFIED or mode == "disable":
        return None
    if mode == "require":
        return None if asked.get("sslrootcert") or _own_root() else f"encrypted, but with whom is not checked: {BETTER}"
    if all(map(_is_near, _hosts(url, asked))):
        return None
    return f"it may be that the connection is not encrypted, and with whom it is made is not checked: {BETTER}"


def is_hopeless(error: BaseException) -> bool:
    """Whether it would be the same the next time, until somebody changes something."""
    wrong = isinstance(error, ssl.SSLCertVerificationError | asyncpg.ClientConfigurationError)
    return wrong or "rejected SSL upgrade" in str(error)


def told(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if "rejected SSL upgrade" in str(error):
        return "it offers no TLS, and sslmode asks for it"
    return str(error) or type(error).__name__


def _asked(url: str) -> dict[str, str]:
    """The parameters of the URL, and what the environment says of TLS, as the driver looks at them."""
    query = url.partition("?")[2]
    try:
        given = {name: values[-1] for name, values in parse_qs(query, strict_parsing=True).items()} if query else {}
    except ValueError:
        raise StorageError("what follows the ? in the URL must be name=value&name=value") from None
    variables = {name: os.environ.get(f"PG{name.upper()}") for name in ("sslmode", *FILES)}
    return {name: value for name, value in variables.items() if value} | given


def _unreadable(file: str) -> str | None:
    try:
        with open(file, "rb"):
            return None
    except OSError as error:
        return error.strerror


def _own_root() -> bool:
    try:
        return (Path.home() / ".postgresql" / "root.crt").exists()
    except (RuntimeError, OSError):
        return False


def _hosts(url: str, asked: dict[str, str]) -> list[str]:
    """Of each its name or its socket; none: a socket of this machine."""
    places = url.partition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2]
    found = unquote(places) or asked.get("host") or os.environ.get("PGHOST") or ""
    return [_without_port(host) for host in found.split(",") if host]


def _without_port(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_near(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
