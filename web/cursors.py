"""Where the next page of a list begins, as a text that callers hand back as it is."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

import orjson
from attrs import asdict, frozen

from dispatcher.record import Filter, Sort, Spot
from web.codec import Fault, Invalid

NUMBER_MAX = 2**63 - 1


@frozen
class Cursor:
    """The spot behind which the page begins, how many tasks came before, and how many behind it do not belong to it:
    they come before, too, but were not reached yet."""

    spot: Spot
    before: int
    ahead: int


def write(cursor: Cursor, only: Filter, sort: Sort) -> str:
    numbers = [cursor.spot.key, cursor.spot.arrival, cursor.before, cursor.ahead]
    return urlsafe_b64encode(orjson.dumps([*numbers, _digest(numbers, only, sort)])).decode().rstrip("=")


def read(text: str, only: Filter, sort: Sort) -> Cursor:
    """Raises Invalid if it is not the cursor of a list with this filter and sort."""
    try:
        content = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        *numbers, digest = orjson.loads(content)
        key, arrival, before, ahead = numbers
        cursor = Cursor(Spot(key, arrival), before, ahead)
        known = all(type(number) is int and 0 <= number <= NUMBER_MAX for number in numbers)
        if known and digest == _digest(numbers, only, sort) and write(cursor, only, sort) == text:
            return cursor
    except (ValueError, TypeError):
        pass
    reason = "must be the next_cursor of a page with the same filter and sort, as it was given"
    raise Invalid([Fault("cursor", reason)])


def _digest(numbers: list[int], only: Filter, sort: Sort) -> str:
    """It keeps callers from taking a cursor for another list by mistake; nothing is lost to those who forge one."""
    wanted = {name: sorted(value) if isinstance(value, tuple) else value for name, value in asdict(only).items()}
    return blake2b(orjson.dumps([numbers, wanted, sort]), digest_size=9).hexdigest()
