"""How a reader of a stream says what it has seen already."""

import re

from aiohttp.web import Request

from web.codec import Fault, Invalid

ID = re.compile(r"\d{1,19}", re.ASCII)
ID_MAX = 2**63 - 1


def last_event_id(request: Request) -> int | None:
    """The id of the last event that a reader had before it came again; stronger than the address, which a browser
    repeats unchanged. An empty one says nothing: so does a browser that has seen none."""
    given = ",".join(request.headers.getall("Last-Event-ID", ()))
    if not given:
        return None
    if not ID.fullmatch(given) or int(given) > ID_MAX:
        raise Invalid([Fault("Last-Event-ID", "must be the id of an event, a whole number")])
    return int(given)
