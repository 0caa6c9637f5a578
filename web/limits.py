"""Every bound that a caller can run into, read from where it is applied. A new one is one line in a table here."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict, get_args

from aiohttp.web import Request, Response
from annotated_types import Le, MaxLen
from attrs import fields

from dispatcher import fields as types
from dispatcher.actor import PARKED_MAX
from dispatcher.decisions.creation import IDEMPOTENCY_HOURS
from dispatcher.decisions.logs import LOG_BYTES_MAX, LOG_LINES_MAX
from dispatcher.decisions.reports import RETRY_DELAY_MAX_SECONDS
from dispatcher.mailbox import MAILBOX_MAX
from web.access.buckets import HEAVY_MOST, LIGHT_MOST
from web.access.rates import is_in_force
from web.answers import IDEMPOTENCY_KEY_CHARACTERS, ok
from web.bodies import Batch, ChangeSettings, ClaimBody, EventsQuery, Logs, Many, Nothing, Stream
from web.briefing import RESULTS_BYTES_MAX
from web.bulk import SKIPPED_MAX
from web.connections import LINE_BYTES_MAX
from web.filters import SEARCH_OFFSET_MAX, ListQuery, TaskFilter
from web.reconfiguring import CHANGES_MAX
from web.service import STREAMS_MAX, Service
from web.settings import Settings
from web.statistics import BUCKETS_MAX
from web.strict import FAULTS_MAX

# By the type of the field that is bound.
OF_FIELDS: Mapping[str, Any] = {
    "work_directory_characters": types.WorkDirectory,
    "prompt_characters": types.Prompt,
    "tags_per_task": types.Tags,
    "tag_characters": types.Tag,
    "dependencies_per_task": types.DependsOn,
    "ref_characters": types.Ref,
    "metadata_bytes": types.JsonObject,
    "result_bytes": types.Json,
    "error_message_bytes": types.ErrorMessage,
    "reason_characters": types.Reason,
    "progress_message_characters": types.ProgressMessage,
    "worker_id_characters": types.WorkerId,
    "claim_id_characters": types.ClaimId,
    "lease_token_characters": types.LeaseToken,
    "max_retries": types.MaxRetries,
    "max_working": types.MaxWorking,
    "timeout_seconds": types.Seconds,
    "lease_seconds": types.LeaseSeconds,
    "delay_seconds": types.DelaySeconds,
    "retry_delay_seconds": types.RetryDelaySeconds,
    "wait_seconds": types.WaitSeconds,
    "tasks_per_claim": types.ClaimLimit,
    "items_per_page": types.PageLimit,
    "work_directories_per_claim": fields(ClaimBody).work_directories.type,
    "tasks_per_batch": fields(Batch).tasks.type,
    "stream_capacity": fields(Stream).capacity.type,
    "values_per_filter": fields(TaskFilter).status.type,
    "search_characters": fields(TaskFilter).q.type,
    "cursor_characters": fields(ListQuery).cursor.type,
    "ids_per_request": fields(Many).ids.type,
    "log_lines_per_request": types.LogLines,
    "log_line_bytes": types.LogLine,
    "log_lines_per_page": fields(Logs).limit.type,
    "events_per_page": fields(EventsQuery).limit.type,
    "settings_changes_bytes": fields(ChangeSettings).changes.type,
}

# By constants.
FIXED: Mapping[str, float] = {
    "idempotency_key_characters": IDEMPOTENCY_KEY_CHARACTERS,
    "idempotency_hours": IDEMPOTENCY_HOURS,
    "doubled_retry_delay_seconds": RETRY_DELAY_MAX_SECONDS,
    "log_lines_per_task": LOG_LINES_MAX,
    "log_bytes_per_task": LOG_BYTES_MAX,
    "dependency_results_bytes": RESULTS_BYTES_MAX,
    "offset_of_a_search": SEARCH_OFFSET_MAX,
    "faults_per_answer": FAULTS_MAX,
    "messages_waiting": MAILBOX_MAX,
    "places_of_waiting_claims": PARKED_MAX,
    "changes_of_settings_waiting": CHANGES_MAX,
    "skipped_tasks_named": SKIPPED_MAX,
    "statistics_buckets": BUCKETS_MAX,
    "request_line_bytes": LINE_BYTES_MAX,
    "streams_of_a_kind": STREAMS_MAX,
    "rate_limit_buckets_of_a_kind": LIGHT_MOST + HEAVY_MOST,
}

# By settings; 0 for none.
CONFIGURED: Mapping[str, Callable[[Settings], float]] = {
    "max_body_bytes": lambda settings: settings.server.max_body_bytes,
    "request_timeout_seconds": lambda settings: settings.server.request_timeout_seconds,
    "database_timeout_seconds": lambda settings: settings.database.timeout_seconds,
    "requests_per_second": lambda settings: settings.rate_limit.requests_per_second if is_in_force(settings) else 0,
    "requests_at_once": lambda settings: settings.rate_limit.burst if is_in_force(settings) else 0,
    "max_concurrent_tasks": lambda settings: settings.task.max_concurrent_tasks,
}


class LimitsSays(TypedDict):
    limits: dict[str, float]


async def show(service: Service, asked: Nothing, request: Request) -> Response:
    """Every bound of the interface as it is now, each named with its unit."""
    configured = {name: of(service.settings) for name, of in CONFIGURED.items()}
    says: LimitsSays = {"limits": {**configured, **{name: most(it) for name, it in OF_FIELDS.items()}, **FIXED}}
    return ok(says, service.clock())


def most(type_: Any) -> float:
    """The largest value, length or size in bytes that a type allows."""
    for rule in getattr(type_, "__metadata__", ()):
        match rule:
            case MaxLen(max_length=limit) | types.MaxBytes(limit=limit) | Le(le=limit):
                assert isinstance(limit, int | float)
                return limit
    for arm in get_args(type_):
        if hasattr(arm, "__metadata__"):
            return most(arm)
    raise TypeError(f"{type_} has no upper bound")
