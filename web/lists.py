"""The list of tasks: a page of it as JSON, or all of it as a stream of CSV or of lines of JSON."""

import asyncio
from typing import TypedDict

from aiohttp.web import Request, Response, StreamResponse

from dispatcher.record import Page
from web.answers import ok
from web.codec import Fault, Invalid
from web.cursors import Cursor, read, write
from web.export import FORMS, export
from web.filters import ListQuery
from web.negotiation import choose
from web.service import Service
from web.views import WholeTask, whole

JSON = "application/json"
PAGING = ("limit", "offset", "cursor")


class TaskPage(TypedDict):
    """Where `total_is_exact` is false there are at least `total`. A page may hold fewer than `limit` before the last
    one, so go on as long as there is a `next_cursor`."""

    tasks: list[WholeTask]
    total: int
    total_is_exact: bool
    page: int
    limit: int
    offset: int
    next_cursor: str | None


async def listing(service: Service, asked: ListQuery, request: Request) -> StreamResponse:
    """Tasks that match every filter given: a page as JSON, or all of them as text/csv or application/x-ndjson."""
    wanted = choose(request, [JSON, *FORMS])
    if wanted == JSON:
        return await _page(service, asked)
    if faults := [
        Fault(name, f"cannot be given for {wanted}, which is the whole list")
        for name in PAGING
        if name in request.query
    ]:
        raise Invalid(faults)
    with service.streaming("export"):
        return await export(service, request, asked.filter(), asked.sort, wanted)


async def _page(service: Service, asked: ListQuery) -> Response:
    page, offset = await find(service, asked)

    def answer() -> Response:
        return ok(_says(asked, page, offset), service.clock(), headers={"Vary": "Accept"})

    return await asyncio.to_thread(answer)  # its tasks may be large


async def find(service: Service, asked: ListQuery) -> tuple[Page, int]:
    """The page, and how many tasks lie before it."""
    only, sort = asked.filter(), asked.sort
    if asked.cursor is None:
        offset = asked.offset or 0
        return await service.record.page(only, sort, asked.limit, offset=offset), offset
    cursor = read(asked.cursor, only, sort)
    page = await service.record.page(only, sort, asked.limit, offset=cursor.ahead, after=cursor.spot)
    return page, cursor.before


def _says(asked: ListQuery, page: Page, offset: int) -> TaskPage:
    return {
        "tasks": [whole(task) for task in page.tasks],
        "total": total(page, offset),
        "total_is_exact": page.total_is_exact,
        "page": offset // asked.limit + 1,
        "limit": asked.limit,
        "offset": offset,
        "next_cursor": next_cursor(asked, page, offset),
    }


def total(page: Page, offset: int) -> int:
    return page.total if page.total_is_exact else max(page.total, offset + len(page.tasks))


def next_cursor(asked: ListQuery, page: Page, offset: int) -> str | None:
    behind = offset + len(page.tasks)
    return write(Cursor(page.end, behind, page.ahead), asked.filter(), asked.sort) if page.end else None
