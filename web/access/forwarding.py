"""What proxies say about whom they speak for: `X-Forwarded-*`, and `Forwarded` (RFC 7239).

Each proxy adds what it saw on the right. So both are read from the right, and only as long as whoever wrote the next
entry is trusted: what lies further to the left may be anybody's invention and is not even looked at. Where the two
contradict each other, one of them comes from the caller through a proxy that does not know it: that is refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from web.access.networks import Address, Networks, address
from web.codec import Fault, Invalid

FOR, PROTO, HOST, STANDARD = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"
HOPS_MAX = 32  # proxies in a row

_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::\d{1,5})?|([0-9A-Fa-f:.]+)")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_PAIR = re.compile(r'[ \t]*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",; \t]+))[ \t]*(?:([;,])|$)')


class Lines(NamedTuple):
    """Of each of these headers all that was said, with commas in between; empty where it was not sent."""

    client: str = ""
    scheme: str = ""
    host: str = ""
    standard: str = ""


HEADERS = Lines(FOR, PROTO, HOST, STANDARD)


class Said(NamedTuple):
    """What is not said is None."""

    client: Address | None
    scheme: str | None
    host: str | None


def forwarded(lines: Lines, peer: Address, trusted: Networks) -> Said:
    """What a trusted peer says. Raises Invalid if it cannot be understood."""
    usual = _usual(lines, peer, trusted)
    if not lines.standard:
        return usual
    standard = _standard(lines, peer, trusted)
    for one, other in zip(usual, standard, strict=True):
        if one is not None and other is not None and one != other:
            raise _fault(STANDARD, "contradicts X-Forwarded-*: a proxy must remove the one that it does not write")
    return standard if usual.client is None and standard.client is not None else usual


def _usual(lines: Lines, peer: Address, trusted: Networks) -> Said:
    client, hops = _walk(FOR, _listed(lines.client), peer, trusted)
    scheme, host = (_of_hop(_listed(line), hops) for line in (lines.scheme, lines.host))
    return Said(client, _scheme(PROTO, scheme), _host(HOST, host))


def _standard(lines: Lines, peer: Address, trusted: Networks) -> Said:
    elements = list(_elements(lines.standard))
    client, hops = _walk(STANDARD, [it.get("for", "") for it in elements], peer, trusted)
    there = elements[-hops]
    return Said(client, _scheme(STANDARD, there.get("proto")), _host(STANDARD, there.get("host")))


def _walk(name: str, entries: Sequence[str], peer: Address, trusted: Networks) -> tuple[Address | None, int]:
    """The first that is not trusted, or the last there is; and its place from the right, 0 for none."""
    client, hops = peer, 0
    for entry in reversed(entries):
        if client not in trusted:
            break
        if hops == HOPS_MAX:
            raise _fault(name, f"must not name more than {HOPS_MAX} proxies")
        client, hops = _node(name, entry), hops + 1
    return (client, hops) if hops else (None, 0)


def _node(name: str, text: str) -> Address:
    if match := _NODE.fullmatch(text):
        try:
            return address(match[1] or match[2] or match[3])
        except ValueError:
            pass
    raise _fault(name, "must name the address of whoever the proxy speaks for")


def _listed(line: str) -> Sequence[str]:
    return [entry.strip() for entry in line.split(",")] if line.strip() else ()


def _of_hop(values: Sequence[str], hops: int) -> str | None:
    """What was said by the proxy that named the client; it may be that only one of them says anything."""
    return values[-min(max(hops, 1), len(values))] if values else None


def _elements(text: str) -> Iterator[Mapping[str, str]]:
    element: dict[str, str] = {}
    at, more = 0, True
    while more:
        match = _PAIR.match(text, at)
        if match is None or match[1].lower() in element:
            raise _fault(STANDARD, "must be as RFC 7239 has it")
        element[match[1].lower()] = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        at, more = match.end(), match[4] is not None
        if match[4] != ";":
            yield element
            element = {}


def _scheme(name: str, text: str | None) -> str | None:
    if text is not None and text.lower() not in ("http", "https"):
        raise _fault(name, "must say http or https")
    return text and text.lower()


def _host(name: str, text: str | None) -> str | None:
    if text is not None and not _HOST.fullmatch(text):
        raise _fault(name, "must name a host, and perhaps a port")
    return text


def _fault(name: str, reason: str) -> Invalid:
    return Invalid([Fault(name, reason)])
