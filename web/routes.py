"""The route table: what can be asked, in which words, and what the answer says."""

from dispatcher.messages import Cancel, Create, Delete, Edit, Fail, Heartbeat, Log, Regulate, Release, Retry
from web import (
    batches,
    bulk,
    config,
    directories,
    docs,
    events,
    explain,
    health,
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
from web.bodies import (
    AboutDirectory,
    AboutTask,
    Batch,
    ChangeSettings,
    ClaimBody,
    CompleteBody,
    EventsQuery,
    HistoryQuery,
    Logs,
    Many,
    ManyOfPriority,
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
    Route("POST", "/api/v1/tasks", tasks.create, Create, says=WholeTask),
    Route("POST", "/api/v1/tasks/batch", batches.create_many, Batch, says=batches.MadeTasks),
    Route("POST", "/api/v1/tasks/cancel", bulk.cancel, Many, says=bulk.ManySteered),
    Route("POST", "/api/v1/tasks/retry", bulk.retry, Many, says=bulk.ManySteered),
    Route("POST", "/api/v1/tasks/delete", bulk.delete, Many, says=bulk.ManySteered),
    Route("POST", "/api/v1/tasks/priority", bulk.priority, ManyOfPriority, says=bulk.ManySteered),
    Route("GET", "/api/v1/tasks", lists.listing, ListQuery, says=lists.TaskPage),
    Route("GET", "/api/v1/tasks/next", tasks.claim_next, Next, says=ClaimedTask | None),
    Route("POST", "/api/v1/tasks/claim", tasks.claim, ClaimBody, says=tasks.ClaimedTasks),
    Route("GET", "/api/v1/tasks/stream", stream.stream, Stream),
    Route("GET", "/api/v1/tasks/{task_id}", show.show, Show, says=show.ShownTask),
    Route("GET", "/api/v1/tasks/{task_id}/history", show.history, HistoryQuery, says=show.History),
    Route("GET", "/api/v1/tasks/{task_id}/explain", explain.explain, AboutTask, says=explain.Explanation),
    Route("GET", "/api/v1/tasks/{task_id}/events", events.task_events, TaskEventsQuery),
    Route("GET", "/api/v1/tasks/{task_id}/logs", logs.read, Logs, says=logs.Page),
    Route("POST", "/api/v1/tasks/{task_id}/logs", logs.append, Log, says=logs.Accepted),
    Route("POST", "/api/v1/tasks/{task_id}/heartbeat", tasks.heartbeat, Heartbeat, says=tasks.Renewed),
    Route("POST", "/api/v1/tasks/{task_id}/complete", tasks.complete, CompleteBody, says=tasks.Completed),
    Route("POST", "/api/v1/tasks/{task_id}/fail", tasks.fail, Fail, says=tasks.Returned),
    Route("POST", "/api/v1/tasks/{task_id}/release", tasks.release, Release, says=tasks.Returned),
    Route("PATCH", "/api/v1/tasks/{task_id}", tasks.edit, Edit, says=WholeTask),
    Route("PUT", "/api/v1/tasks/{task_id}", tasks.edit, Edit, says=WholeTask),
    Route("DELETE", "/api/v1/tasks/{task_id}", tasks.delete, Delete, says=tasks.Deleted),
    Route("POST", "/api/v1/tasks/{task_id}/cancel", tasks.cancel, Cancel, says=WholeTask),
    Route("POST", "/api/v1/tasks/{task_id}/retry", tasks.retry, Retry, says=WholeTask),
    Route("GET", "/api/v1/work-directories", directories.listing, Nothing, says=directories.WorkDirectories),
    Route("PATCH", "/api/v1/work-directories", directories.regulate, Regulate, by_path, says=WorkDirectoryState),
    Route("POST", "/api/v1/work-directories/pause", directories.pause, Pause, by_path, says=WorkDirectoryState),
    Route(
        "POST", "/api/v1/work-directories/resume", directories.resume, AboutDirectory, by_path, says=WorkDirectoryState
    ),
    Route(
        "POST", "/api/v1/work-directories/drain", directories.drain, AboutDirectory, by_path, says=WorkDirectoryState
    ),
    Route("GET", "/api/v1/workers", workers.listing, Nothing, says=workers.Workers),
    Route("GET", "/api/v1/events", events.events, EventsQuery, says=events.EventPage),
    Route("GET", "/api/v1/config", config.show, Nothing, says=config.ConfigSays),
    Route("PATCH", "/api/v1/config", config.change, ChangeSettings, says=config.ConfigSays),
    Route("GET", "/api/v1/config/history", config.history, SettingsHistory, says=config.HistorySays),
    Route("POST", "/api/v1/config/rollback", config.rollback, Rollback, says=config.ConfigSays),
    Route("GET", "/api/v1/limits", limits.show, Nothing, says=limits.LimitsSays),
    Route("GET", "/api/v1/rate-limits", rate_limits.show, Nothing, says=rate_limits.RateLimitsSay),
    Route("GET", "/api/v1/statistics", statistics.statistics, AboutRange, says=StatisticsView),
    Route("GET", "/health", health.health, Nothing, says=health.Health),
    Route("GET", "/health/live", health.live, Nothing, says=health.Alive),
    Route("GET", "/health/ready", health.ready, Nothing, says=health.Ready),
    Route("GET", METRICS_PATH, scrape.scrape, Nothing),
    Route("GET", "/openapi.json", docs.document, Nothing),
    Route("GET", "/docs", docs.page, Nothing),
)
