"""GET /metrics: what was counted so far, and how things stand now."""

import asyncio
from collections.abc import Iterator

from aiohttp.web import Request, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from web.access.audit import Audit
from web.access.calling import caller
from web.access.rate_settings import ENDPOINT_CLASSES
from web.access.rates import KINDS, Rates
from web.answers import Failure
from web.bodies import Nothing
from web.service import Service


async def scrape(service: Service, asked: Nothing, request: Request) -> Response:
    """Everything that is measured, as Prometheus reads it."""
    if caller.get().reach is not None:
        raise Failure(403, "FORBIDDEN", "this tells of every work directory, and the key is not for all")
    now = [*_in_memory(service), *await _on_record(service)]
    text = await asyncio.to_thread(service.metrics.text, now)
    return Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _in_memory(service: Service) -> Iterator[Metric]:
    dispatcher = service.dispatcher
    yield _gauge("mailbox_messages", "Messages that wait to be decided.", dispatcher.mailbox_size)
    yield _gauge(
        "mailbox_oldest_seconds", "Age of the oldest message that is not saved yet.", dispatcher.oldest_seconds
    )
    yield _gauge("parked_claims", "Claims that wait for a task.", dispatcher.parked)
    yield _gauge("requests_in_flight", "Requests being handled, open streams among them.", service.requests)
    yield _gauge("event_loop_lag_seconds", "How late the event loop is.", service.pulse.lag_seconds)
    worst = service.pulse.worst_seconds
    yield _gauge("event_loop_lag_max_seconds", "How late it was at worst in the last minute.", worst)
    yield from _audit(service.audit)
    yield from _rates(service.rates)
    lost = service.log.lost
    yield CounterMetricFamily("log_lines_lost", "Lines of the log that could not be written in time.", value=lost)


def _audit(audit: Audit) -> Iterator[Metric]:
    yield CounterMetricFamily("audit_entries", "Entries that this server put into the audit log.", value=audit.entries)
    about = "Requests turned away for who they came from, each counted in some entry of the audit log."
    yield CounterMetricFamily("audit_refusals", about, value=audit.refusals)
    about = "Those of them that are counted there without saying from where they came, for there were too many."
    yield CounterMetricFamily("audit_refusals_unnamed", about, value=audit.unnamed)
    yield _gauge("audit_entries_waiting", "Entries that are not in the audit log yet.", audit.waiting)


def _rates(rates: Rates) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "rate_limit_refused", "Requests of those who came too often.", labels=["kind", "endpoint_class"]
    )
    for kind in KINDS:
        for name in ENDPOINT_CLASSES:
            refused.add_metric([kind, name], rates.refused[kind, name])
    kept = GaugeMetricFamily("rate_limit_buckets", "Callers that are counted now.", labels=["kind"])
    forgotten = CounterMetricFamily(
        "rate_limit_forgotten", "Callers forgotten for want of room, who begin anew.", labels=["kind"]
    )
    for kind in KINDS:
        tables = [table.buckets for table in rates.tables() if table.kind == kind]
        kept.add_metric([kind], sum(map(len, tables)))
        forgotten.add_metric([kind], sum(buckets.forgotten for buckets in tables))
    yield from (refused, kept, forgotten)


async def _on_record(service: Service) -> list[Metric]:
    """What the record does not tell in time is left out."""
    looks = service.looks
    working, waiting, oldest, room, others = await asyncio.gather(
        looks.working(), looks.waiting(), looks.oldest_waiting_seconds(), looks.room(), looks.others()
    )
    now: list[Metric] = []
    if others.value is not None:
        now.append(_gauge("instances", "Servers on this record, this one included.", 1 + len(others.value)))
    if working.value is not None:
        now.append(_gauge("active_tasks", "Tasks that are being worked on.", working.value))
    if waiting.value is not None:
        now.append(_gauge("waiting_tasks", "Tasks that wait, ready or not.", waiting.value))
    if oldest.value is not None:
        now.append(_gauge("oldest_waiting_seconds", "Since the oldest of them was created.", oldest.value))
    if room.value and room.value.log_bytes is not None:
        now.append(_gauge("database_log_bytes", "Length of the write-ahead log.", room.value.log_bytes))
    if room.value and room.value.free_bytes is not None:
        now.append(_gauge("disk_free_bytes", "Free on the disk of the database.", room.value.free_bytes))
    return now


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)
