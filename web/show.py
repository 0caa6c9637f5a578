"""One task, as it is on record: whole, with what belongs to it, or once nobody works on it any more."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NotRequired, TypedDict, cast

from aiohttp.web import Request, Response

from dispatcher.errors import TaskNotFound
from dispatcher.hub import Closed, LostTouch, about_task
from dispatcher.record import EventFilter
from dispatcher.task import FINAL, Task
from web.answers import ok
from web.bodies import HistoryQuery, Show
from web.logs import Line, lines
from web.service import Service
from web.views import HistoryLine, WholeTask, all_shown, history_line, shown

LAST_LINES = 1000  # of its history and of its log; those before can be read by themselves


class ShownTask(WholeTask):
    """`history` and `logs` as far as `include` names them."""

    history: NotRequired[Sequence[HistoryLine]]
    logs: NotRequired[Sequence[Line]]


class History(TypedDict):
    """`next_after` is null if there are no more lines."""

    task_id: str
    history: Sequence[HistoryLine]
    next_after: int | None


async def show(service: Service, asked: Show, request: Request) -> Response:
    """The whole task; with `until` once nobody works on it any more, or as it is when the wait is over."""
    task = await look(service, asked)
    etag = {"ETag": f'"{task.version}"'}
    if asked.until or asked.include:  # these change without the version
        return ok(await included(service, asked, task), service.clock(), headers=etag | {"Cache-Control": "no-store"})
    headers = etag | {"Cache-Control": "no-cache"}
    if _has_it(request, etag["ETag"]):
        return Response(status=304, headers=headers)
    return ok(await shown(task), service.clock(), headers=headers)


async def history(service: Service, asked: HistoryQuery, request: Request) -> Response:
    """The steps of a task's life, oldest first: a page of them."""
    await _task(service, asked.task_id)
    stretch = await service.record.events(asked.after, asked.limit + 1, EventFilter(task_id=asked.task_id))
    page = stretch.entries[: asked.limit]
    is_cut = len(page) < len(stretch.entries) or stretch.up_to < stretch.last
    said: History = {
        "task_id": asked.task_id,
        "history": await all_shown(page, history_line),
        "next_after": page[-1].seq if is_cut else None,
    }
    return ok(said, service.clock())


async def look(service: Service, asked: Show) -> Task:
    return await (_final(service, asked) if asked.until else _task(service, asked.task_id))


async def included(service: Service, asked: Show, task: Task) -> ShownTask:
    told = cast(ShownTask, await shown(task))
    if "history" in asked.include:
        told["history"] = await all_shown(await service.record.history(task.task_id, LAST_LINES), history_line)
    if "logs" in asked.include:
        page = await service.record.log(task.task_id, max(0, task.log_lines - LAST_LINES), LAST_LINES)
        told["logs"] = lines(page.lines if page else ())
    return told


def _has_it(request: Request, etag: str) -> bool:
    """The caller has the task in this version already, or says that any will do."""
    given = ",".join(request.headers.getall("If-None-Match", ())).split(",")
    tags = {tag.strip().removeprefix("W/") for tag in given}
    return bool(tags & {etag, "*"})


async def _task(service: Service, task_id: str) -> Task:
    task = await service.record.task(task_id)
    if task is None:
        raise TaskNotFound(task_id)
    return task


async def _final(service: Service, asked: Show) -> Task:
    """The task once nobody works on it any more; as it is when the time is over or the server stops."""
    with service.hub.listen(about_task(asked.task_id)) as heard:
        task = await _task(service, asked.task_id)
        try:
            async with asyncio.timeout(asked.wait_seconds):
                while task.status not in FINAL:
                    with suppress(LostTouch):
                        if (await heard.next()).status not in FINAL:
                            continue
                    task = await _task(service, asked.task_id)
        except (TimeoutError, Closed):
            pass
        return task
