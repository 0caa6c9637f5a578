"""Rules of settings: networks, proxies, and origins of web pages."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from annotated_types import MaxLen

from dispatcher.fields import Rule
from web.access.networks import network, not_everybody

ANYBODY = "*"  # an origin that stands for all
_PORTS = {"http": 80, "https": 443}


def cors_origin(origin: str) -> str:
    """`https://app.example`, as browsers write it, or `*` for all."""
    if origin == ANYBODY:
        return origin
    try:
        parts = urlsplit(origin)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port not in (0, _PORTS[parts.scheme])
    except ValueError:
        usable = False
    if not usable or origin != f"{parts.scheme}://{parts.netloc}".lower() or not re.fullmatch(r"[!-~]+", origin):
        raise ValueError("must be scheme://host or scheme://host:port in small letters, without a usual port, or *")
    if re.search(r"[@*,]", origin):
        raise ValueError("must be exact: no names, no wildcards in it")
    return origin


Network = Annotated[str, MaxLen(100), Rule(network)]
Proxy = Annotated[str, MaxLen(100), Rule(network), Rule(not_everybody)]
CorsOrigin = Annotated[str, MaxLen(300), Rule(cors_origin)]
