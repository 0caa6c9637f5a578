"""TLS: the certificate that the server shows, which may be replaced while connections stay."""

import logging
import re
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from web.codec import Fault
from web.settings import Server, SettingsError

CERT, KEY = "server.tls_cert", "server.tls_key"
HANDSHAKE_SECONDS = (
    10.0  # how long who connects may take over TLS's greeting, if not even less is allowed for a request
)
GOODBYE_SECONDS = 1.0  # how long the other side may take over its goodbye

_CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----")
_REASONS = {
    "KEY_VALUES_MISMATCH": (KEY, "{key} is not the key of {cert}"),
    "KEY_TYPE_MISMATCH": (KEY, "{key} is not the key of {cert}"),
    "EE_KEY_TOO_SMALL": (CERT, "{cert} has a key that is too short to be safe"),
    "CA_MD_TOO_WEAK": (CERT, "{cert} is signed in a way that is no longer safe"),
}

log = logging.getLogger(__name__)


class Certificate:
    """Of these files, from the first certificate on; `context` is what is listened with.

    Each handshake takes the newest context for its own. To load new files into the one in use would leave it with a
    certificate and a key that do not go together, should the key be wrong.
    """

    def __init__(self, cert: str, key: str) -> None:
        """Raises SettingsError."""
        self._cert, self._key = cert, key
        self.context = self._newest = _load(cert, key)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def read_again(self) -> bool:
        """What SIGHUP does: whether it could be used. Nobody waits for an answer, so what comes of it is logged."""
        try:
            self._newest = _load(self._cert, self._key)
        except SettingsError as error:
            log.error("SIGHUP: %s; the certificate stays as it was", error)
            return False
        log.info("SIGHUP: the certificate was read again")
        return True

    def options(self, server: Server) -> Mapping[str, Any]:
        """For `create_server`."""
        return {
            "ssl": self.context,
            "ssl_handshake_timeout": min(HANDSHAKE_SECONDS, server.request_timeout_seconds),
            "ssl_shutdown_timeout": GOODBYE_SECONDS,
        }


def certificate_of(server: Server) -> Certificate | None:
    """None without TLS. Raises SettingsError."""
    if server.tls_cert is None or server.tls_key is None:
        return None
    return Certificate(server.tls_cert, server.tls_key)


def _load(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2: forward secrecy, and nothing that has been broken
    context.set_alpn_protocols(["http/1.1"])
    _check(CERT, cert, _CERTIFICATE, "certificate")
    _check(KEY, key, _PRIVATE_KEY, "private key")
    try:
        context.load_cert_chain(cert, key, password=_refuse)
    except ssl.SSLError as error:
        name, reason = _REASONS.get(
            error.reason, (CERT, f"{{cert}} and {{key}} cannot be used: {error.reason or error}")
        )
        raise _fault(name, reason.format(cert=cert, key=key)) from None
    except _Encrypted:
        raise _fault(KEY, f"{key} is encrypted, and nobody is there to say its password") from None
    except OSError as error:
        raise _fault(CERT, f"{cert} and {key} cannot be read: {error.strerror}") from None
    if Path(key).stat().st_mode & stat.S_IROTH:
        log.warning("%s: %s can be read by every user of this machine", KEY, key)
    return context


def _check(name: str, file: str, form: re.Pattern[bytes], what: str) -> None:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise _fault(name, f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise _fault(name, f"{file!a} is no name of a file") from None
    if not form.search(content):
        raise _fault(name, f"{file} holds no {what} in PEM")


class _Encrypted(Exception):
    pass


def _refuse() -> str:
    raise _Encrypted


def _fault(name: str, reason: str) -> SettingsError:
    return SettingsError([Fault(name, reason)])
