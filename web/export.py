"""Every task of a list, as a stream: in slices, so that neither it nor its reader fills the memory."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from aiohttp.web import Request, StreamResponse

from dispatcher.record import Filter, Sort
from dispatcher.task import Task
from web.codec import encode
from web.delivery import delivering
from web.negotiation import compress
from web.service import Service
from web.views import WholeTask, whole

SLICE = 200  # tasks that are in memory at a time

Form = Callable[[Sequence[WholeTask], bool], bytes]  # (some tasks, are they the first?) -> what they look like


def as_lines(tasks: Sequence[WholeTask], first: bool) -> bytes:
    """One JSON object per line, as in a page of the list."""
    return b"".join(encode(task) + b"\n" for task in tasks)


def as_csv(tasks: Sequence[WholeTask], first: bool) -> bytes:
    """RFC 4180, with a line of names. What is no text, number or time is JSON; nothing stands for null."""
    text = io.StringIO()
    table = csv.writer(text)
    if first:
        table.writerow(COLUMNS)
    table.writerows([_cell(name, value) for name, value in task.items()] for task in tasks)
    return text.getvalue().encode()


FORMS: Mapping[str, Form] = {"text/csv": as_csv, "application/x-ndjson": as_lines}
COLUMNS = (
    *("task_id", "work_directory", "prompt", "priority", "tags", "status", "worker_id", "attempt", "lease_expires_at"),
    *("deadline_at", "progress", "created_at", "updated_at", "available_at", "started_at", "completed_at", "result"),
    *("error_message", "retry_count", "max_retries", "auto_retry", "retry_delay_seconds", "timeout_seconds"),
    *("expires_at", "depends_on", "on_dependency_failure", "blocked_by", "metadata", "created_by", "version"),
)
JSON_COLUMNS = {"tags", "progress", "result", "depends_on", "blocked_by", "metadata", "auto_retry"}


def _cell(name: str, value: Any) -> object:
    return encode(value).decode() if name in JSON_COLUMNS and value is not None else value


async def export(service: Service, request: Request, only: Filter, sort: Sort, form: str) -> StreamResponse:
    """ConnectionError if the other side does not read, has gone, or the server stops: the stream breaks off, and the
    reader can tell."""
    headers = {"Content-Type": f"{form}; charset=utf-8", "Vary": "Accept, Accept-Encoding"}
    response = StreamResponse(headers=headers)
    if request.method == "HEAD":
        return response
    compress(request, response)
    timeout = service.settings.server.request_timeout_seconds
    is_first = True
    async for tasks in _slices(service, only, sort):
        if service.draining.is_set():
            raise ConnectionAbortedError("the server stops")
        written = await asyncio.to_thread(_written, form, tasks, is_first)  # they may be large
        async with delivering(request, timeout):
            if is_first:
                await response.prepare(request)
            await response.write(written)
        is_first = False
    async with delivering(request, timeout):
        await response.write_eof()
    return response


def _written(form: str, tasks: Sequence[Task], first: bool) -> bytes:
    return FORMS[form]([whole(task) for task in tasks], first)


async def _slices(service: Service, only: Filter, sort: Sort) -> AsyncIterator[Sequence[Task]]:
    """At least one, if need be empty. Sorted by change, the list ends where it ended at the beginning: what changes
    meanwhile would come again and again."""
    began, after = service.clock(), None
    while True:
        page = await service.record.page(only, sort, SLICE, after=after, counted=False)
        tasks = [task for task in page.tasks if sort != "updated_at" or task.updated_at <= began]
        yield tasks
        after = page.end
        if after is None or len(tasks) < len(page.tasks):
            return
