-- Version 1 of the record on PostgreSQL; migrations/NNNN_*.sql bring every database, new or old, from here to the present.
-- Times are milliseconds since the epoch, durations seconds, JSON is text, as it came.
--
-- What grows without end lies in partitions by the hash of its work directory, which is part of every key there: a
-- distributed database can spread the same tables over machines by that column. They are few, as every statement opens
-- all of them with all of their indexes. Text is compared byte by byte.

create table tasks (
    work_directory      text    collate "C" not null,
    arrival             bigint  not null,
    task_id             text    collate "C" not null,
    created_at          bigint  not null,
    created_by          text,
    idempotency_key     text    collate "C",
    request_digest      text,

    prompt              text    not null,
    folded              text, -- the prompt as texts are compared that may differ in case; null: it is the prompt itself
    priority            smallint not null check (priority between 0 and 2),
    tags                text    not null,
    max_retries         integer not null,
    auto_retry          boolean not null,
    retry_delay_seconds double precision not null,
    timeout_seconds     double precision not null,
    expires_at          bigint,
    depends_on          text    not null,
    on_dependency_failure text  not null check (on_dependency_failure in ('wait', 'cancel', 'run')),
    metadata            text    not null,

    status              text    collate "C" not null
        check (status in ('waiting', 'working', 'completed', 'failed', 'cancelled')),
    ready               boolean not null check (not ready or status = 'waiting'),
    available_at        bigint  not null,
    unmet               text    not null,
    has_dependants      boolean not null,
    tell_from           bigint  check (tell_from is null or status in ('completed', 'failed', 'cancelled')),
    retry_count         integer not null,
    lost_leases         integer not null,
    version             bigint  not null,
    updated_at          bigint  not null,

    attempt             integer not null,
    claimed_by          text,
    worker_id           text    collate "C",
    claim_id            text    collate "C",
    lease_token         text,
    lease_seconds       double precision,
    lease_expires_at    bigint  check ((lease_expires_at is not null) = (status = 'working')),
    deadline_at         bigint,
    started_at          bigint,
    progress            text,
    progress_told_at    bigint,
    log_lines           bigint  not null,
    log_bytes           bigint  not null,

    completed_at        bigint,
    result              text,
    error_message       text,

    due_at              bigint, -- when something happens to it by itself

    primary key (work_directory, arrival)
) partition by hash (work_directory);

create index tasks_by_id on tasks (task_id);
-- What claims take from: the most urgent of a directory first, of those the oldest.
create index tasks_ready on tasks (work_directory, priority desc, arrival) where ready;
create index tasks_due on tasks (due_at) where due_at is not null;
create index tasks_working on tasks (work_directory, worker_id) where status = 'working';
create index tasks_claimed on tasks (claim_id) where claim_id is not null;

-- The same for claims that ask for tags.
create table ready_tags (
    work_directory text     collate "C" not null,
    tag            text     collate "C" not null,
    priority       smallint not null,
    arrival        bigint   not null
) partition by hash (work_directory);

create unique index ready_tags_in_order on ready_tags (work_directory, tag, priority desc, arrival);

-- Which task bears which tags.
create table task_tags (
    work_directory text   collate "C" not null,
    tag            text   collate "C" not null,
    arrival        bigint not null,
    primary key (work_directory, tag, arrival)
) partition by hash (work_directory);

create index task_tags_by_tag on task_tags (tag, arrival);

-- Who waits for whom: the tasks that a waiting task still depends on.
create table dependencies (
    parent_id      text   collate "C" not null,
    work_directory text   collate "C" not null, -- of the one that waits
    arrival        bigint not null, -- likewise
    primary key (parent_id, arrival, work_directory)
) partition by hash (work_directory);

-- One row per change of state: the history of each task and directory, and the event feed.
create table history (
    seq            bigint   not null,
    type           text     collate "C" not null,
    task_id        text     collate "C", -- null if it is about no task, as are priority and status
    work_directory text     collate "C" not null, -- '' if it is about the servers
    priority       smallint,
    status         text     collate "C",
    worker_id      text     collate "C",
    attempt        integer  not null,
    at             bigint   not null,
    details        text     not null,
    lease_token    text, -- of a claim
    primary key (seq, work_directory)
) partition by hash (work_directory);

create index history_by_task on history (task_id, seq) where task_id is not null;
create index history_by_directory on history (work_directory, seq);

-- What the attempts at each task have printed; it goes behind the task, when that has been deleted.
create table task_logs (
    work_directory text   collate "C" not null,
    arrival        bigint not null, -- of the task
    number         bigint not null, -- 1, 2, 3 … over all attempts
    attempt        integer not null,
    at             bigint not null,
    line           text   not null,
    primary key (work_directory, arrival, number)
) partition by hash (work_directory);

do $$
declare
    divided text;
    part integer;
begin
    foreach divided in array array['tasks', 'ready_tags', 'task_tags', 'dependencies', 'history', 'task_logs'] loop
        for part in 0..3 loop
            execute format(
                'create table %I partition of %I for values with (modulus 4, remainder %s)',
                divided || '_' || part, divided, part
            );
        end loop;
    end loop;
end
$$;

-- Which task an idempotency key stands for.
create table idempotency_keys (
    key            text   collate "C" primary key,
    work_directory text   collate "C" not null,
    arrival        bigint not null
);

-- The rules of each work directory, and how many tasks there are, kept in step with every change.
create table work_directories (
    work_directory text    collate "C" primary key,
    waiting        bigint  not null default 0,
    working        bigint  not null default 0,
    completed      bigint  not null default 0,
    failed         bigint  not null default 0,
    cancelled      bigint  not null default 0,
    max_working    integer check (max_working > 0),
    paused         boolean not null default false,
    paused_reason  text    check (paused_reason is null or paused),
    paused_until   bigint  check (paused_until is null or paused),
    draining       boolean not null default false
);

-- Arrivals are taken by whoever creates tasks, before it is known whether it will; some are never used.
create sequence arrivals;

-- The number given out last in the history. Whoever writes there locks this row first, until it has committed: so the
-- numbers have no gap, and nobody ever sees one before those below it.
create table last_numbers (
    only_row boolean primary key check (only_row),
    seq      bigint not null
);

insert into last_numbers values (true, 0);

-- The servers that share this record. `batch` counts what each has committed, in the same transaction, so that one whose
-- commit was not answered can find out what came of it. `presence`: who is connected to it, for the others to tell.
create table instances (
    instance_id text   collate "C" primary key,
    started_at  bigint not null,
    seen_at     bigint not null,
    batch       bigint not null,
    presence    text   not null
);

-- What one of them does for all, until `until` or longer: telling the webhook, adding up statistics, removing leftovers.
create table duties (
    duty        text   collate "C" primary key,
    instance_id text   collate "C" not null,
    until       bigint not null
);

-- How far the webhook has been told of the history; no row: there is none.
create table webhook (
    only_row boolean primary key check (only_row),
    seq      bigint not null
);

-- Each change of the settings while a server ran; the newest row tells what is set at run time.
create table config_versions (
    version bigint primary key,
    at      bigint not null,
    who     text   not null,
    reason  text,
    changes text   not null, -- what the history shows: secrets masked
    runtime text   not null -- secrets as they are, never shown
);

-- Who may call. Of the keys themselves there is only the SHA-256. One that was revoked stays: it is known that there were
-- keys, and no two in force bear the same name.
create table keys (
    digest           text    collate "C" primary key,
    name             text    collate "C" not null,
    scopes           text    not null,
    work_directories text    not null, -- patterns
    created_at       bigint not null,
    created_by       text,
    expires_at       bigint,
    revoked_at       bigint,
    last_used_at     bigint
);

create unique index keys_in_force on keys (name) where revoked_at is null;

-- What happened in each minute and in each hour, in each work directory ('' for all of them together); `span` is the
-- length of that time in milliseconds, `at` its begin. What the latest batches add to it stands in `additions`.
create table rollups (
    work_directory text    collate "C" not null,
    span           integer not null check (span in (60000, 3600000)),
    at             bigint  not null check (at % span = 0),

    -- How many lines the history has of each type.
    created        bigint not null,
    claimed        bigint not null,
    completed      bigint not null,
    failed         bigint not null,
    cancelled      bigint not null,
    retried        bigint not null,
    released       bigint not null,
    lease_expired  bigint not null,
    deleted        bigint not null,

    -- The tasks created then, as they are now, or were when they were deleted.
    now_waiting    bigint not null,
    now_working    bigint not null,
    now_completed  bigint not null,
    now_failed     bigint not null,
    now_cancelled  bigint not null,
    now_low        bigint not null,
    now_medium     bigint not null,
    now_high       bigint not null,

    -- How long tasks had waited that were claimed, and attempts taken that completed or failed their task:
    -- {"bins": {BIN: number}, "most": ms, "sum": ms}
    waiting        text,
    processing     text,

    primary key (work_directory, span, at)
);

-- [[work_directory, minute, [as many numbers as above], [waiting, in ms …], [processing, in ms …]], …], a row per batch.
create table additions (
    number  bigint generated always as identity primary key,
    tallies text not null
);

-- Tasks that were deleted, and whose logs are yet to be removed.
create table logs_left (
    work_directory text   collate "C" not null,
    arrival        bigint not null,
    primary key (work_directory, arrival)
);

-- Lists. Every change of a task's status or worker writes to all of these that it belongs to: they are few and narrow. An
-- index of the prompts' text would make a claim four times as dear, and beside the tasks a creation: texts are searched
-- for in the prompts themselves, the newest first, for as long as is bearable.
create index tasks_by_arrival on tasks (arrival);
create index tasks_by_created on tasks (created_at, arrival);
create index tasks_by_updated on tasks (updated_at, arrival);
create index tasks_by_status on tasks (status, priority, created_at, arrival);
create index tasks_by_worker on tasks (worker_id, arrival) where worker_id is not null;
create index tasks_waiting on tasks (work_directory, created_at) where status = 'waiting';

-- Who did what that matters, and what came of it. Each entry bears the hash of the one before it, and a hash of all that
-- it says, that one included. Nothing is ever changed or removed but what an unfinished move has written.
create table audit (
    number        bigint primary key, -- 1, 2, 3 …
    at            bigint not null,
    who           text,
    address       text,
    action        text   not null,
    target        text,
    outcome       text   not null,
    request_id    text,
    details       text   not null,
    previous_hash text   not null,
    hash          text   not null
);

create function audit_is_append_only() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        if new.number <> (select coalesce(max(number), 0) + 1 from audit) then
            raise exception 'the audit log grows at its end only';
        end if;
        return new;
    end if;
    if tg_op = 'UPDATE' or to_regclass('unfinished_move') is null then
        raise exception 'the audit log is append-only';
    end if;
    return old;
end $$;

create trigger audit_rows before insert or update or delete on audit
for each row execute function audit_is_append_only();

create trigger audit_as_a_whole before truncate on audit execute function audit_is_append_only();
