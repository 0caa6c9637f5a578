-- Version 1 of the record; migrations/NNNN_*.sql bring every file, new or old, from here to the present.
-- Times are milliseconds since the epoch, durations seconds, JSON is text.

create table tasks (
    arrival             integer primary key,
    task_id             text    not null unique,
    created_at          integer not null,
    created_by          text,
    idempotency_key     text,
    request_digest      text,

    work_directory      text    not null,
    prompt              text    not null,
    priority            integer not null check (priority between 0 and 2),
    tags                text    not null check (json_type(tags) = 'array'),
    max_retries         integer not null,
    auto_retry          integer not null check (auto_retry in (0, 1)),
    retry_delay_seconds real    not null,
    timeout_seconds     real    not null,
    expires_at          integer,
    depends_on          text    not null check (json_type(depends_on) = 'array'),
    on_dependency_failure text  not null check (on_dependency_failure in ('wait', 'cancel', 'run')),
    metadata            text    not null check (json_type(metadata) = 'object'),

    status              text    not null check (status in ('waiting', 'working', 'completed', 'failed', 'cancelled')),
    ready               integer not null check (ready = 0 or ready = 1 and status = 'waiting'),
    available_at        integer not null,
    unmet               text    not null check (json_type(unmet) = 'array'),
    has_dependants      integer not null check (has_dependants in (0, 1)),
    tell_from           integer check (tell_from is null or status in ('completed', 'failed', 'cancelled')),
    retry_count         integer not null,
    lost_leases         integer not null,
    version             integer not null,
    updated_at          integer not null,

    attempt             integer not null,
    claimed_by          text,
    worker_id           text,
    claim_id            text,
    lease_token         text,
    lease_seconds       real,
    lease_expires_at    integer check ((lease_expires_at is not null) = (status = 'working')),
    deadline_at         integer,
    started_at          integer,
    progress            text,
    progress_told_at    integer,
    log_lines           integer not null,
    log_bytes           integer not null,

    completed_at        integer,
    result              text,
    error_message       text,

    due_at              integer -- when something happens to it by itself
) strict;

-- What claims take from: one lane per directory and priority, in order of arrival.
create index tasks_ready on tasks (work_directory, priority, arrival) where ready = 1;
create index tasks_due on tasks (due_at) where due_at is not null;
create unique index tasks_by_idempotency_key on tasks (idempotency_key) where idempotency_key is not null;

-- The same lanes for claims that ask for tags.
create table ready_tags (
    work_directory text    not null,
    tag            text    not null,
    priority       integer not null,
    arrival        integer not null,
    primary key (work_directory, tag, priority, arrival)
) strict, without rowid;

-- Who waits for whom: the tasks that a waiting task still depends on.
create table dependencies (
    parent_id text    not null,
    arrival   integer not null, -- of the one that waits
    primary key (parent_id, arrival)
) strict, without rowid;

-- One row per change of state: the history of each task and directory, and the event feed.
create table history (
    seq            integer primary key,
    type           text    not null,
    task_id        text, -- null if it is about no task, as are priority and status
    work_directory text, -- null if it is about the server
    priority       integer,
    status         text,
    worker_id      text,
    attempt        integer not null,
    at             integer not null,
    details        text    not null check (json_type(details) = 'object'),
    lease_token    text -- of a claim
) strict;

create index history_by_task on history (task_id, seq) where task_id is not null;

-- The rules of each work directory, and how many tasks there are, kept in step with every change, so that nobody has to
-- count them.
create table work_directories (
    work_directory text primary key,
    waiting        integer not null default 0 check (waiting >= 0),
    working        integer not null default 0 check (working >= 0),
    completed      integer not null default 0 check (completed >= 0),
    failed         integer not null default 0 check (failed >= 0),
    cancelled      integer not null default 0 check (cancelled >= 0),
    max_working    integer check (max_working > 0),
    paused         integer not null default 0 check (paused in (0, 1)),
    paused_reason  text check (paused_reason is null or paused = 1),
    paused_until   integer check (paused_until is null or paused = 1),
    draining       integer not null default 0 check (draining in (0, 1))
) strict, without rowid;

-- The numbers given out last; never given out again, even if their rows are deleted.
create table last_numbers (
    only_row integer primary key check (only_row = 1),
    arrival  integer not null,
    seq      integer not null
) strict;

insert into last_numbers values (1, 0, 0);

-- Written after the disk was full, to see whether there is room again; otherwise empty.
create table room (filling blob) strict;

-- How far the webhook has been told of the history; no row: there is none.
create table webhook (
    only_row integer primary key check (only_row = 1),
    seq      integer not null
) strict;

-- Each change of the settings while the server ran; the newest row tells what is set at run time.
create table config_versions (
    version integer primary key,
    at      integer not null,
    who     text    not null,
    reason  text,
    changes text    not null check (json_type(changes) = 'object'), -- what the history shows: secrets masked
    runtime text    not null check (json_type(runtime) = 'object') -- secrets as they are, never shown
) strict;

-- Who may call. Of the keys themselves there is only the SHA-256. One that was revoked stays: it is known that there were
-- keys, and no two in force bear the same name.
create table keys (
    digest           text    primary key,
    name             text    not null,
    scopes           text    not null,
    work_directories text    not null, -- patterns
    created_at       integer not null,
    created_by       text,
    expires_at       integer,
    revoked_at       integer,
    last_used_at     integer
) strict, without rowid;

create unique index keys_in_force on keys (name) where revoked_at is null;

-- What the attempts at each task have printed; it goes behind the task, when that has been deleted.
create table task_logs (
    arrival integer not null, -- of the task
    number  integer not null, -- 1, 2, 3 … over all attempts
    attempt integer not null,
    at      integer not null,
    line    text    not null,
    primary key (arrival, number)
) strict, without rowid;

-- What happened in each minute and in each hour, in each work directory ('' for all of them together); `span` is the
-- length of that time in milliseconds, `at` its begin. What the latest batches add to it stands in `additions`.
create table rollups (
    work_directory text    not null,
    span           integer not null check (span in (60000, 3600000)),
    at             integer not null check (at % span = 0),

    -- How many lines the history has of each type.
    created        integer not null,
    claimed        integer not null,
    completed      integer not null,
    failed         integer not null,
    cancelled      integer not null,
    retried        integer not null,
    released       integer not null,
    lease_expired  integer not null,
    deleted        integer not null,

    -- The tasks created then, as they are now, or were when they were deleted.
    now_waiting    integer not null,
    now_working    integer not null,
    now_completed  integer not null,
    now_failed     integer not null,
    now_cancelled  integer not null,
    now_low        integer not null,
    now_medium     integer not null,
    now_high       integer not null,

    -- How long tasks had waited that were claimed, and attempts taken that completed or failed their task:
    -- {"bins": {BIN: number}, "most": ms, "sum": ms}
    waiting        text check (json_type(waiting) = 'object'),
    processing     text check (json_type(processing) = 'object'),

    primary key (work_directory, span, at)
) strict, without rowid;

-- [[work_directory, minute, [as many numbers as above], [waiting, in ms …], [processing, in ms …]], …], a row per batch.
create table additions (
    number  integer primary key,
    tallies text not null check (json_type(tallies) = 'array')
) strict;

-- Lists. What they are filtered and sorted by lies in narrow indexes, so that only the tasks of the page itself are read.
create index tasks_by_status on tasks (status, priority, arrival);
create index tasks_by_directory on tasks (work_directory, status, priority, arrival);
create index tasks_by_worker on tasks (worker_id, arrival) where worker_id is not null;
create index tasks_by_arrival on tasks (arrival, updated_at, status, priority, work_directory, worker_id);
create index tasks_by_update on tasks (updated_at, arrival, status, priority, work_directory, worker_id);

create table task_tags (
    tag     text    not null,
    arrival integer not null,
    primary key (tag, arrival)
) strict, without rowid;

-- Which prompts hold which three letters, under the arrivals of the tasks; a search looks into the prompts themselves for
-- the rest. It is filled behind the commits: prompts_indexed says how far. Merged in small steps, never all at once.
create virtual table prompts using fts5 (
    prompt, content = '', columnsize = 0, detail = none, tokenize = 'trigram case_sensitive 1'
);
insert into prompts (prompts, rank) values ('automerge', 0), ('crisismerge', 1000), ('usermerge', 16);

create table prompts_indexed (
    only_row integer primary key check (only_row = 1),
    arrival  integer not null -- of the last one
) strict;

insert into prompts_indexed values (1, 0);

-- Tasks that were deleted, and whose logs are yet to be removed.
create table logs_left (arrival integer primary key) strict;

-- Who did what that matters, and what came of it. Each entry bears the hash of the one before it, and a hash of all that
-- it says, that one included. Nothing is ever changed or removed but what an unfinished move has written.
create table audit (
    number        integer primary key, -- 1, 2, 3 …
    at            integer not null,
    who           text,
    address       text,
    action        text    not null,
    target        text,
    outcome       text    not null,
    request_id    text,
    details       text    not null,
    previous_hash text    not null,
    hash          text    not null
) strict;

create trigger audit_grows_at_its_end before insert on audit
when new.number <> (select coalesce(max(number), 0) + 1 from audit)
begin
    select raise(abort, 'the audit log grows at its end only');
end;

create trigger audit_is_not_changed before update on audit
begin
    select raise(abort, 'the audit log is append-only');
end;

create trigger audit_is_not_removed before delete on audit
when not exists (select 1 from sqlite_schema where name = 'unfinished_move')
begin
    select raise(abort, 'the audit log is append-only');
end;
