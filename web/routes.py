"""The route table: what can be asked, in which words, and what the answer says."""

from aiohttp.web import Request

from dispatcher.messages import Cancel, Create, Delete, Edit, Fail, Heartbeat, Log, Regulate, Release, Retry
from web import (
    audit,
    batches,
    bulk,
    config,
    directories,
    docs,
    events,
    explain,
    health,
    keys,
    limits,
    lists,
    logs,
    rate_limits,
    scrape,
    show,
    statistics,
    stream,
    tasks,
    workers,
)
from web.access.door import SESSION_PATH
from web.bodies import (
    AboutDirectory,
    AboutKey,
    AboutTask,
    AuditEnd,
    AuditQuery,
    Batch,
    ChangeSettings,
    ClaimBody,
    CompleteBody,
    Credential,
    EventsQuery,
    HistoryQuery,
    Logs,
    Many,
    ManyOfPriority,
    NewKey,
    Next,
    Nothing,
    Pause,
    Rollback,
    SettingsHistory,
    Show,
    Stream,
    TaskEventsQuery,
)
from web.filters import ListQuery
from web.route import Route, by_path
from web.statistics import AboutRange, StatisticsView
from web.views import ClaimedTask, WholeTask, WorkDirectoryState

METRICS_PATH = "/metrics"

ROUTES = (
    Route("POST", "/api/v1/tasks", tasks.create, Create, says=WholeTask, scope="submit"),
    Route("POST", "/api/v1/tasks/batch", batches.create_many, Batch, says=batches.MadeTasks, scope="submit"),
    Route("POST", "/api/v1/tasks/cancel", bulk.cancel, Many, says=bulk.ManySteered, scope="operate"),
    Route("POST", "/api/v1/tasks/retry", bulk.retry, Many, says=bulk.ManySteered, scope="operate"),
    Route("POST", "/api/v1/tasks/delete", bulk.delete, Many, says=bulk.ManySteered, scope="operate"),
    Route("POST", "/api/v1/tasks/priority", bulk.priority, ManyOfPriority, says=bulk.ManySteered, scope="operate"),
    Route("GET", "/api/v1/tasks", lists.listing, ListQuery, says=lists.TaskPage, scope="read"),
    Route("GET", "/api/v1/tasks/next", tasks.claim_next, Next, says=ClaimedTask | None, scope="work"),
    Route("POST", "/api/v1/tasks/claim", tasks.claim, ClaimBody, says=tasks.ClaimedTasks, scope="work"),
    Route("GET", "/api/v1/tasks/stream", stream.stream, Stream, scope="work"),
    Route("GET", "/api/v1/tasks/{task_id}", show.show, Show, says=show.ShownTask, scope="read"),
    Route("GET", "/api/v1/tasks/{task_id}/history", show.history, HistoryQuery, says=show.History, scope="read"),
    Route("GET", "/api/v1/tasks/{task_id}/explain", explain.explain, AboutTask, says=explain.Explanation, scope="read"),
    Route("GET", "/api/v1/tasks/{task_id}/events", events.task_events, TaskEventsQuery, scope="read"),
    Route("GET", "/api/v1/tasks/{task_id}/logs", logs.read, Logs, says=logs.Page, scope="read"),
    Route("POST", "/api/v1/tasks/{task_id}/logs", logs.append, Log, says=logs.Accepted, scope="work"),
    Route("POST", "/api/v1/tasks/{task_id}/heartbeat", tasks.heartbeat, Heartbeat, says=tasks.Renewed, scope="work"),
    Route("POST", "/api/v1/tasks/{task_id}/complete", tasks.complete, CompleteBody, says=tasks.Completed, scope="work"),
    Route("POST", "/api/v1/tasks/{task_id}/fail", tasks.fail, Fail, says=tasks.Returned, scope="work"),
    Route("POST", "/api/v1/tasks/{task_id}/release", tasks.release, Release, says=tasks.Returned, scope="work"),
    Route("PATCH", "/api/v1/tasks/{task_id}", tasks.edit, Edit, says=WholeTask, scope="operate"),
    Route("PUT", "/api/v1/tasks/{task_id}", tasks.edit, Edit, says=WholeTask, scope="operate"),
    Route("DELETE", "/api/v1/tasks/{task_id}", tasks.delete, Delete, says=tasks.Deleted, scope="operate"),
    Route("POST", "/api/v1/tasks/{task_id}/cancel", tasks.cancel, Cancel, says=WholeTask, scope="operate"),
    Route("POST", "/api/v1/tasks/{task_id}/retry", tasks.retry, Retry, says=WholeTask, scope="operate"),
    Route(
        "GET", "/api/v1/work-directories", directories.listing, Nothing, says=directories.WorkDirectories, scope="read"
    ),
    Route(
        "PATCH",
        "/api/v1/work-directories",
        directories.regulate,
        Regulate,
        by_path,
        says=WorkDirectoryState,
        scope="operate",
    ),
    Route(
        "POST",
        "/api/v1/work-directories/pause",
        directories.pause,
        Pause,
        by_path,
        says=WorkDirectoryState,
        scope="operate",
    ),
    Route(
        "POST",
        "/api/v1/work-directories/resume",
        directories.resume,
        AboutDirectory,
        by_path,
        says=WorkDirectoryState,
        scope="operate",
    ),
    Route(
        "POST",
        "/api/v1/work-directories/drain",
        directories.drain,
        AboutDirectory,
        by_path,
        says=WorkDirectoryState,
        scope="operate",
    ),
    Route("GET", "/api/v1/workers", workers.listing, Nothing, says=workers.Workers, scope="read"),
    Route("GET", "/api/v1/events", events.events, EventsQuery, says=events.EventPage, scope="read"),
    Route("GET", "/api/v1/config", config.show, Nothing, says=config.ConfigSays, scope="admin"),
    Route("PATCH", "/api/v1/config", config.change, ChangeSettings, says=config.ConfigSays, scope="admin"),
    Route("GET", "/api/v1/config/history", config.history, SettingsHistory, says=config.HistorySays, scope="admin"),
    Route("POST", "/api/v1/config/rollback", config.rollback, Rollback, says=config.ConfigSays, scope="admin"),
    Route("POST", "/api/v1/keys", keys.create, NewKey, says=keys.CreatedKey, scope="admin"),
    Route("GET", "/api/v1/keys", keys.listing, Nothing, says=keys.Keys, scope="admin"),
    Route("DELETE", "/api/v1/keys/{name}", keys.revoke, AboutKey, says=keys.Revoked, scope="admin"),
    Route("GET", SESSION_PATH, keys.session, Nothing, says=keys.Session),
    Route("POST", SESSION_PATH, keys.open_, Credential, says=keys.Session, lets_in=True),
    Route("GET", "/api/v1/audit", audit.listing, AuditQuery, says=audit.AuditPage, scope="admin"),
    Route("GET", "/api/v1/audit/verify", audit.verify, AuditEnd, says=audit.Verified, scope="admin"),
    Route("DELETE", SESSION_PATH, keys.close, Nothing, says=keys.Session),
    Route("GET", "/api/v1/limits", limits.show, Nothing, says=limits.LimitsSays),
    Route("GET", "/api/v1/rate-limits", rate_limits.show, Nothing, says=rate_limits.RateLimitsSay, scope="admin"),
    Route("GET", "/api/v1/statistics", statistics.statistics, AboutRange, says=StatisticsView, scope="read"),
    Route("GET", "/health", health.health, Nothing, says=health.Health),
    Route("GET", "/health/live", health.live, Nothing, says=health.Alive),
    Route("GET", "/health/ready", health.ready, Nothing, says=health.Ready),
    Route("GET", METRICS_PATH, scrape.scrape, Nothing, scope="read"),
    Route("GET", "/openapi.json", docs.document, Nothing),
    Route("GET", "/docs", docs.page, Nothing),
)

_CLASSES = {(route.method, route.path): route.scope or "open" for route in ROUTES}


def endpoint_class(request: Request) -> str:
    """One of rate_settings.ENDPOINT_CLASSES: the scope that a key must have for it, `open` if any will do or none."""
    match = request.match_info.route
    method = "GET" if match.method == "HEAD" else match.method
    return _CLASSES.get((method, match.resource.canonical), "open") if match.resource else "open"
