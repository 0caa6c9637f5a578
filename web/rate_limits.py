"""GET /api/v1/rate-limits: how often callers may come, and how it stands."""

from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from typing import TypedDict

from aiohttp.web import Request, Response

from web.access.buckets import HEAVY_MOST, LIGHT_MOST, SECOND, Standing
from web.access.rates import KINDS, Kind, Table
from web.answers import ok
from web.bodies import Nothing
from web.service import Service

EMPTIEST = 20  # buckets shown


class RateSays(TypedDict):
    requests_per_second: float
    burst: int


class SettingsSay(TypedDict):
    requests_per_second: float
    burst: int
    per_ip: bool
    per_key: bool
    per_endpoint: dict[str, RateSays]
    failed_authentications_per_minute: int


class TableSays(TypedDict):
    """One sort of buckets: `forgotten` were not full when others took their place; `kept_most` is their bound."""

    kind: Kind
    endpoint_class: str | None
    requests_per_second: float
    burst: int
    kept: int
    kept_most: int
    forgotten: int


class BucketSays(TypedDict):
    """`who` is an address, the network of one (IPv6), or the name of a key."""

    kind: Kind
    endpoint_class: str | None
    who: str
    limit: int
    remaining: int
    reset_seconds: float
    retry_after_seconds: float


class RefusedSay(TypedDict):
    kind: Kind
    endpoint_class: str
    requests: int


class RateLimitsSay(TypedDict):
    enabled: bool
    settings: SettingsSay
    limits: list[TableSays]
    refused: dict[Kind, int]
    refused_by_class: list[RefusedSay]
    emptiest: list[BucketSays]


async def show(service: Service, asked: Nothing, request: Request) -> Response:
    """How often callers may come, how many buckets are kept, who was refused, and whose are the emptiest.

    Each server counts for itself: with several on one record, this tells of the one that answers.
    """
    rates, limit = service.rates, service.settings.rate_limit
    tables, by_kind = list(rates.tables()), Counter[Kind]()
    for (kind, _), count in rates.refused.items():
        by_kind[kind] += count
    endpoints = {name: _rate(rate.per_second, rate.burst) for name, rate in limit.endpoint_rates.items()}
    says: RateLimitsSay = {
        "enabled": rates.enabled,
        "settings": {
            **_rate(limit.requests_per_second, limit.burst),
            "per_ip": limit.per_ip,
            "per_key": limit.per_key,
            "per_endpoint": endpoints,
            "failed_authentications_per_minute": limit.failed_authentications_per_minute,
        },
        "limits": [_table(table) for table in tables],
        "refused": {kind: by_kind[kind] for kind in KINDS},
        "refused_by_class": [
            {"kind": kind, "endpoint_class": name, "requests": count}
            for (kind, name), count in sorted(rates.refused.items())
        ],
        "emptiest": [_bucket(*it) for it in nsmallest(EMPTIEST, _emptiest(tables), key=_fullness)],
    }
    return ok(says, service.clock())


def _rate(per_second: float, burst: int) -> RateSays:
    return {"requests_per_second": per_second, "burst": burst}


def _table(table: Table) -> TableSays:
    return {
        "kind": table.kind,
        "endpoint_class": table.endpoint_class,
        **_rate(round(table.buckets.rate.per_second, 6), table.buckets.rate.burst),
        "kept": len(table.buckets),
        "kept_most": LIGHT_MOST + HEAVY_MOST,
        "forgotten": table.buckets.forgotten,
    }


def _emptiest(tables: list[Table]) -> Iterator[tuple[Table, str, Standing]]:
    for table in tables:
        for who, standing in table.buckets.emptiest(EMPTIEST):
            yield table, who, standing


def _fullness(bucket: tuple[Table, str, Standing]) -> float:
    _, _, standing = bucket
    return standing.remaining / standing.limit


def _bucket(table: Table, who: str, standing: Standing) -> BucketSays:
    return {
        "kind": table.kind,
        "endpoint_class": table.endpoint_class,
        "who": who,
        "limit": standing.limit,
        "remaining": standing.remaining,
        "reset_seconds": round(standing.full_in / SECOND, 3),
        "retry_after_seconds": round(standing.refused_for / SECOND, 3),
    }
