"""What the settings of JSON Web Tokens may say, each by itself and all of them together."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, get_args
from urllib.parse import urlsplit

from dispatcher.caller import Scope

TokenAlgorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
SECRET_CHARACTERS_MIN = 32  # as many bytes as HS256 makes of it


class TokenSettings(Protocol):
    """Those of [security] that are about tokens."""

    @property
    def jwt_algorithm(self) -> TokenAlgorithm | None: ...
    @property
    def jwt_secret(self) -> str | None: ...
    @property
    def jwt_public_key_file(self) -> str | None: ...
    @property
    def jwt_jwks_url(self) -> str | None: ...
    @property
    def jwt_jwks_file(self) -> str | None: ...
    @property
    def jwt_issuer(self) -> str | None: ...
    @property
    def jwt_audience(self) -> str | None: ...


def jwks_url(url: str) -> str:
    """`https://host/path`, or `http://` on this machine; without a name and password in it."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError("must be an https URL, without credentials and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(parts.hostname or "")):
        raise ValueError("must be an https URL: who can change what comes from there makes the tokens")
    return url


def scope_mapping(line: str) -> str:
    """`theirs=ours`: what stands in a token, and the scope that it gives."""
    theirs, equals, ours = line.rpartition("=")
    if not equals or not theirs.strip() or ours not in get_args(Scope):
        raise ValueError(f"must be such as ops=operate, with one of {', '.join(get_args(Scope))} behind the last =")
    return line


def token_faults(settings: TokenSettings) -> Iterable[tuple[str, str]]:
    """Whatever makes a token worth less than it seems is refused."""
    sources: Sequence[tuple[str, object]] = [
        ("jwt_secret", settings.jwt_secret),
        ("jwt_public_key_file", settings.jwt_public_key_file),
        ("jwt_jwks_url", settings.jwt_jwks_url),
        ("jwt_jwks_file", settings.jwt_jwks_file),
    ]
    given = [name for name, value in sources if value is not None]
    algorithm = settings.jwt_algorithm
    if algorithm is None:
        if given or settings.jwt_issuer or settings.jwt_audience:
            yield "jwt_algorithm", f"is required with {(given or ['jwt_issuer and jwt_audience'])[0]}"
        return
    for name in given[1:]:
        yield name, f"cannot be given together with {given[0]}: there is one place where the keys come from"
    if not given:
        wanted = "jwt_secret" if algorithm == "HS256" else "jwt_public_key_file, jwt_jwks_url or jwt_jwks_file"
        yield "jwt_algorithm", f"needs {wanted}"
    for name in given:
        if algorithm == "HS256" and name != "jwt_secret":
            yield name, "is of public keys, which HS256 does not have: anybody could sign with them"
        elif algorithm != "HS256" and name == "jwt_secret":
            yield name, f"is not for {algorithm}, which has a public key: give that"
    if {"jwt_jwks_url", "jwt_jwks_file"} & set(given):
        for name, value in (("jwt_issuer", settings.jwt_issuer), ("jwt_audience", settings.jwt_audience)):
            if value is None:
                yield name, f"is required with {given[0]}, whose keys sign tokens for others, too"


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
