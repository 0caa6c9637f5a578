"""The HTTP client: one method per call, one exception per kind of failure, and no hidden retries."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import aiohttp

from task_orchestrator.answers import decoded, refusal, unreachable
from task_orchestrator.session import CONNECT_SECONDS, Json, Session
from task_orchestrator.sse import Event, EventParser

MANY_SECONDS = 600.0  # how long the server may need for very many tasks
SILENCE_SECONDS = 45.0  # a stream sends a comment every 15 s: after three missed ones it is dead

JsonList = list[Json]


class Client(Session):
    """A session with one server. Use it as an async context manager, or call close().

    Every method returns the `data` of the server's answer as plain dicts and lists, and raises `Refused` when the
    server said no and `Unreachable` when no answer came. Times are RFC 3339 strings, durations seconds.
    Keyword arguments that are left out (None) are not sent, so the server's defaults hold. Raises ValueError for
    an address that is not http:// or https://, a key that does not fit into a header, or a `ca_file` (the authorities
    to be believed, instead of the system's) that cannot be read.
    """

    async def submit(
        self,
        prompt: str,
        *,
        work_directory: str,
        priority: str | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Json:
        """Create a task; `fields` are any others of the contract, such as `max_retries` or `metadata`.

        Returns `{task_id, status, created_at, …}`. With an `idempotency_key` a repeated call returns the same task.
        """
        body = {"prompt": prompt, "work_directory": work_directory, "priority": priority, "tags": tags, **fields}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return await self.data("POST", "tasks", body=body, headers=headers)

    async def submit_many(
        self, tasks: Sequence[Mapping[str, Any]], *, atomic: bool | None = None, idempotency_key: str | None = None
    ) -> Json:
        """Create up to 1000 tasks, each with the fields of the contract and perhaps a `ref`: others of them may depend
        on it as `ref:NAME`. All or none, unless `atomic` is False.

        Returns `{tasks: [{index, task_id, …}], errors: [{index, code, message, details}]}`.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return await self.data("POST", "tasks/batch", body={"tasks": list(tasks), "atomic": atomic}, headers=headers)

    async def get(
        self,
        task_id: str,
        *,
        wait_seconds: float | None = None,
        until: str | None = None,
    ) -> Json:
        """The whole task. With `until="terminal"` the answer waits up to `wait_seconds` (0 to 60) for the outcome."""
        query = {"wait_seconds": wait_seconds, "until": until}
        return await self.data("GET", _task(task_id), query=query, wait_seconds=wait_seconds)

    async def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        work_directory: str | Sequence[str] | None = None,
        priority: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
        tag_mode: str | None = None,
        worker_id: str | Sequence[str] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        q: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
        cursor: str | None = None,
    ) -> Json:
        """A page of tasks: `{tasks, total, total_is_exact, page, limit, offset, next_cursor}`.

        Of those that match every filter given; of several values any will do, of tags with `tag_mode="any"` too. Times
        are RFC 3339, `q` is text in the prompt. Newest first, unless `sort` says created_at, updated_at or priority
        (`-` in front: the other way round). Goes on at an `offset`, or with the `next_cursor` of the page before.
        """
        lists = {"status": status, "work_directory": work_directory, "priority": priority, "tags": tags}
        query = {
            **{name: _by_comma(values) for name, values in lists.items()},
            "tag_mode": tag_mode,
            "worker_id": _by_comma(worker_id),
            "created_after": created_after,
            "created_before": created_before,
            "q": q,
            "sort": sort,
            "limit": limit,
            "offset": offset,
            "cursor": cursor,
        }
        return await self.data("GET", "tasks", query=query)

    async def history(self, task_id: str) -> JsonList:
        """What happened to a task, oldest first: `{seq, type, status, worker_id, attempt, at, details}` each."""
        entries: JsonList = []
        after: int | None = 0
        while after is not None:
            page = await self.data("GET", _task(task_id, "history"), query={"after": after})
            entries += page["history"]
            after = page["next_after"]
        return entries

    async def explain(self, task_id: str) -> Json:
        """Why it is not being worked on: `{status, position, estimated_wait_seconds, blocked_by: [{kind, detail}]}`."""
        return await self.data("GET", _task(task_id, "explain"))

    async def claim(
        self,
        *,
        work_directory: str | Sequence[str],
        worker_id: str | None = None,
        limit: int = 1,
        wait_seconds: float | None = None,
        lease_seconds: float | None = None,
        tags: Sequence[str] | None = None,
        claim_id: str | None = None,
    ) -> JsonList:
        """Claim up to `limit` tasks, each with the `lease_token` that every later call about it needs.

        The same `claim_id` again gives the same tasks while their leases live, so a lost answer loses nothing.
        """
        several = not isinstance(work_directory, str)
        body = {
            "work_directories" if several else "work_directory": work_directory,
            "worker_id": worker_id,
            "limit": limit,
            "wait_seconds": wait_seconds,
            "lease_seconds": lease_seconds,
            "tags": tags,
            "claim_id": claim_id,
        }
        claimed: JsonList = (await self.data("POST", "tasks/claim", body=body, wait_seconds=wait_seconds))["tasks"]
        return claimed

    async def heartbeat(
        self,
        task_id: str,
        lease_token: str,
        *,
        lease_seconds: float | None = None,
        progress: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Json:
        """Renew a lease: `{lease_expires_at, deadline_at}`. Refused with `LEASE_LOST` when it is no longer ours.

        `metadata` is merged into the task's: its members take the place of those of the same name, null removes one.
        """
        body = {"lease_token": lease_token, "lease_seconds": lease_seconds, "progress": progress, "metadata": metadata}
        return await self.data("POST", _task(task_id, "heartbeat"), body=body)

    async def complete(
        self, task_id: str, *, lease_token: str | None = None, result: Any = None, **fields: Any
    ) -> Json:
        """Report success: `{task_id, status, completed_at, next}`. Repeating it with the same token is harmless."""
        body = {"lease_token": lease_token, "result": result, **fields}
        return await self.data("POST", _task(task_id, "complete"), body=body)

    async def fail(
        self,
        task_id: str,
        error_message: str,
        *,
        lease_token: str | None = None,
        retryable: bool | None = None,
        retry_after_seconds: float | None = None,
    ) -> Json:
        """Report failure. Repeating it with the same token is harmless."""
        body = {
            "error_message": error_message,
            "lease_token": lease_token,
            "retryable": retryable,
            "retry_after_seconds": retry_after_seconds,
        }
        return await self.data("POST", _task(task_id, "fail"), body=body)

    async def release(
        self, task_id: str, lease_token: str, *, reason: str | None = None, delay_seconds: float | None = None
    ) -> Json:
        """Give a claimed task back to the queue; no retry is burnt."""
        body = {"lease_token": lease_token, "reason": reason, "delay_seconds": delay_seconds}
        return await self.data("POST", _task(task_id, "release"), body=body)

    async def log(self, task_id: str, lines: Sequence[str], *, lease_token: str | None = None) -> Json:
        """Add up to 1000 lines to the log of a task we work on: `{task_id, accepted, last_number}`.

        Not harmless to repeat: what is said twice is kept twice.
        """
        return await self.data("POST", _task(task_id, "logs"), body={"lines": list(lines), "lease_token": lease_token})

    async def logs(self, task_id: str, *, after: int = 0, limit: int | None = None, attempt: int | None = None) -> Json:
        """What the attempts at a task have printed: `{task_id, lines: [{number, attempt, at, line}], next_after}`."""
        return await self.data(
            "GET", _task(task_id, "logs"), query={"after": after, "limit": limit, "attempt": attempt}
        )

    def follow(
        self, task_id: str, *, after: int = 0, attempt: int | None = None, opened: Callable[[], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """The same as it is printed: events `log` (a line), and `end` `{task_id, status}` when no more will come.

        It ends without that when the server closes it and raises Unreachable when it breaks; reconnecting, after the
        number of the last line, is the caller's business. `opened` is called once the server has let us in.
        """
        query = {"follow": True, "after": after, "attempt": attempt}
        return self._events(_task(task_id, "logs"), query, opened)

    async def cancel(self, task_id: str, reason: str | None = None, force: bool = False) -> Json:
        """Nobody is to work on it any more: the whole task. One that is being worked on needs `force`."""
        return await self.data("POST", _task(task_id, "cancel"), body={"reason": reason, "force": force})

    async def retry(self, task_id: str) -> Json:
        """Let a failed task wait again, for one of its `max_retries`: the whole task."""
        return await self.data("POST", _task(task_id, "retry"), body={})

    async def steer_many(
        self,
        verb: Literal["cancel", "retry", "delete", "priority"],
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        all: bool | None = None,
        priority: str | None = None,
        reason: str | None = None,
        dry_run: bool | None = None,
    ) -> Json:
        """Do it to each of these tasks to which it may be done; an empty `filter` needs `all`. A `dry_run` only counts.

        Returns `{matched, changed, skipped: [{task_id, code}], skipped_count}`.
        """
        body = {"ids": ids, "filter": filter, "all": all, "priority": priority, "reason": reason, "dry_run": dry_run}
        return await self.data("POST", f"tasks/{verb}", body=body, wait_seconds=MANY_SECONDS)

    async def directories(self) -> JsonList:
        """Every work directory: how many tasks it has by status, its rules, and how many workers wait there."""
        directories: JsonList = (await self.data("GET", "work-directories"))["work_directories"]
        return directories

    async def statistics(
        self,
        *,
        since: str | None = None,
        to: str | None = None,
        bucket: str | None = None,
        work_directory: str | None = None,
    ) -> Json:
        """What happened from `since` to `to` (RFC 3339; the last 24 hours), by `bucket`: minute, hour or day."""
        query = {"from": since, "to": to, "bucket": bucket, "work_directory": work_directory}
        return await self.data("GET", "statistics", query=query)

    async def pause(self, work_directory: str, reason: str | None = None, until: str | None = None) -> Json:
        """Nobody is given a task of this directory until it is resumed, or until that time comes: the directory."""
        body = {"paused_reason": reason, "paused_until": until}
        return await self.data("POST", "work-directories/pause", query={"path": work_directory}, body=body)

    async def resume(self, work_directory: str) -> Json:
        """Ends a pause and a drain: the directory."""
        return await self.data("POST", "work-directories/resume", query={"path": work_directory}, body={})

    async def drain(self, work_directory: str) -> Json:
        """Those who hold a task of this directory finish it, nobody gets another: the directory."""
        return await self.data("POST", "work-directories/drain", query={"path": work_directory}, body={})

    async def limit(self, work_directory: str, max_working: int | None) -> Json:
        """At most so many tasks of this directory are worked on at once, None for no limit: the directory."""
        body = {"max_working": max_working}
        return await self.data("PATCH", "work-directories", query={"path": work_directory}, body=body, nulls=True)

    async def audit(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        who: str | None = None,
        action: str | Sequence[str] | None = None,
        outcome: str | Sequence[str] | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Json:
        """A page of the audit log: `{audit: [{number, at, who, address, action, target, outcome, …}], next_after,
        next_before}`. Newest first, or those before a number; with `after`, those behind that one, oldest first."""
        query = {"after": after, "before": before, "limit": limit, "who": who, "from": since, "to": until}
        query |= {"action": _by_comma(action), "outcome": _by_comma(outcome)}
        return await self.data("GET", "audit", query=query)

    async def verify_audit(self, head: str | None = None) -> Json:
        """Compute the hashes of the audit log again: `{verified, entries, head: {number, hash}, broken}`. `head`, as
        NUMBER:HASH, is an entry that is known to have been there."""
        return await self.data("GET", "audit/verify", query={"head": head}, wait_seconds=MANY_SECONDS)

    async def config(self) -> Json:
        """The settings in force: `{version, settings: {"section.key": {value, source, default, reloadable}}}`."""
        return await self.data("GET", "config")

    async def configure(self, changes: Mapping[str, Any], reason: str | None = None) -> Json:
        """Change settings, `{"section.key": value}`, while the server runs; None takes back what was set so before.

        All or none. Returns the settings afterwards, as `config` does.
        """
        body = {"changes": changes, **({"reason": reason} if reason is not None else {})}
        return await self.data("PATCH", "config", body=body, nulls=True)

    async def config_history(self, *, limit: int | None = None, offset: int | None = None) -> Json:
        """Who changed which settings, newest first: `{versions: [{version, at, who, reason, changes}], total}`."""
        return await self.data("GET", "config/history", query={"limit": limit, "offset": offset})

    async def rollback_config(self, version: int, reason: str | None = None) -> Json:
        """Set at run time what was set so at that version, and nothing else: the settings afterwards."""
        return await self.data("POST", "config/rollback", body={"version": version, "reason": reason})

    async def keys(self) -> JsonList:
        """`{name, scopes, work_directories, created_at, created_by, expires_at, last_used_at}` of each."""
        keys: JsonList = (await self.data("GET", "keys"))["keys"]
        return keys

    async def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        work_directories: Sequence[str] | None = None,
        expires_at: str | None = None,
    ) -> Json:
        """Make a key. What `keys` tells of it, and `key`: the key itself, which nobody will see again.

        `work_directories` are patterns: `*` stands for any characters, `?` for one; not given: all.
        """
        body = {"name": name, "scopes": scopes, "work_directories": work_directories, "expires_at": expires_at}
        return await self.data("POST", "keys", body=body)

    async def revoke_key(self, name: str) -> Json:
        """It opens nothing from now on: `{name, revoked}`."""
        return await self.data("DELETE", f"keys/{quote(name, safe='')}", body={})

    async def limits(self) -> Json:
        """Every bound of the interface by its name, such as `prompt_characters`."""
        limits: Json = (await self.data("GET", "limits"))["limits"]
        return limits

    async def rate_limits(self) -> Json:
        """How often callers may come, how many were refused, and whose buckets are the emptiest."""
        return await self.data("GET", "rate-limits")

    async def workers(self) -> JsonList:
        """Who was seen in the last hour: `{worker_id, work_directories, working, last_seen_at, connection}` each."""
        workers: JsonList = (await self.data("GET", "workers"))["workers"]
        return workers

    async def health(self) -> Json:
        """The health document, also when it says `unhealthy`."""
        status, document = await self.exchange("GET", "/health")
        if "status" not in document:
            raise refusal(status, document)
        return document

    def stream(
        self,
        *,
        work_directory: str,
        worker_id: str | None = None,
        capacity: int = 1,
        lease_seconds: float | None = None,
        tags: Sequence[str] | None = None,
        mode: str | None = None,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """A worker's stream: events `task` (a claimed task), `cancel` `{task_id, reason}` and `drain`.

        With `tags` only tasks that bear all of them come. `opened` is called once the server has let us in.
        It ends when the server closes it and raises Unreachable when it breaks; reconnecting is the caller's
        business. Close it with contextlib.aclosing() to leave early.
        """
        query = {
            "work_path": work_directory,
            "worker_id": worker_id,
            "capacity": capacity,
            "lease_seconds": lease_seconds,
            "tags": tags or None,
            "mode": mode,
        }
        return self._events("tasks/stream", query, opened)

    def events(
        self,
        task_id: str | None = None,
        *,
        after: int | None = None,
        work_directory: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        opened: Callable[[], None] | None = None,
        stands_at: Callable[[str], None] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The event feed, of one task or of all that matches: `{seq, type, task_id, work_directory, status, …}` each.

        It begins behind the event `after`; without it with the creation of the task, or else with what happens from
        now on. `gap` `{from, to}` tells of events that are not on record any more. `stands_at` is told the id to come
        again with, also where nothing has happened yet. Like `stream` it may end or break at any time; of a task that
        is over and of which all has been seen before it ends without having been `opened`.
        """
        path = "events" if task_id is None else _task(task_id, "events")
        query = {"after": after, "work_directory": work_directory, "types": types or None}
        return self._events(path, query, opened, stands_at)

    async def _events(
        self,
        path: str,
        query: Mapping[str, Any],
        opened: Callable[[], None] | None,
        stands_at: Callable[[str], None] | None = None,
    ) -> AsyncGenerator[Event, None]:
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        parser = EventParser()
        try:
            async with self.open("GET", f"/api/v1/{path}", timeout, query=query) as response:
                if response.status == 204:
                    return
                if response.status != 200 or response.content_type != "text/event-stream":
                    retry_after = response.headers.get("Retry-After")
                    raise refusal(response.status, decoded(await response.read()), retry_after)
                if opened is not None:
                    opened()
                async for chunk in response.content.iter_any():
                    for event in parser.feed(chunk):
                        yield event
                    if stands_at is not None and parser.id:
                        stands_at(parser.id)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable(self.url, error, f"the stream from {self.url} broke") from error


def _task(task_id: str, verb: str = "") -> str:
    return f"tasks/{quote(task_id, safe='')}" + (f"/{verb}" if verb else "")


def _by_comma(values: str | Sequence[str] | None) -> str | None:
    return values if values is None or isinstance(values, str) else ",".join(values)
