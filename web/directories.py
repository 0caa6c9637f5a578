"""Work directories: what lies in them, and the rules that operators lay down."""

from collections.abc import Sequence
from typing import TypedDict

from aiohttp.web import Request, Response

from dispatcher.fields import UNSET
from dispatcher.messages import Regulate
from dispatcher.presence import Presence
from dispatcher.record import DirectoryCount
from web.access.audit import tell
from web.answers import ok
from web.bodies import AboutDirectory, Nothing, Pause
from web.service import Service
from web.views import WorkDirectoryState, directory


class WorkDirectories(TypedDict):
    work_directories: list[WorkDirectoryState]


async def listing(service: Service, asked: Nothing, request: Request) -> Response:
    """List the work directories: how many tasks lie in each, who waits there, and which rules hold."""
    now = service.clock()
    counts, present = await service.record.directories(), await service.present()
    told: WorkDirectories = {"work_directories": [_view(present, count, now) for count in counts]}
    return ok(told, now)


async def regulate(service: Service, asked: Regulate, request: Request) -> Response:
    """Lay down rules for a work directory; what is not given stays as it is."""
    return await _ruled(service, request, asked)


async def pause(service: Service, asked: Pause, request: Request) -> Response:
    """Hand out no task of a work directory until it is resumed."""
    return await _ruled(service, request, asked.rules())


async def resume(service: Service, asked: AboutDirectory, request: Request) -> Response:
    """Hand out the tasks of a work directory again: ends a pause and a drain."""
    return await _ruled(service, request, Regulate(work_directory=asked.work_directory, paused=False, draining=False))


async def drain(service: Service, asked: AboutDirectory, request: Request) -> Response:
    """Hand out no more tasks of a work directory; an event tells when nothing is being worked on there any more."""
    return await _ruled(service, request, Regulate(work_directory=asked.work_directory, draining=True))


async def _ruled(service: Service, request: Request, rules: Regulate) -> Response:
    tell(request, _laid_down(rules), rules.work_directory)
    await service.ask(rules)
    now = service.clock()
    count, present = await service.record.directory(rules.work_directory), await service.present()
    return ok(_view(present, count, now), now)


def _laid_down(rules: Regulate) -> dict[str, object]:
    """As the audit log tells it."""
    names = ("max_working", "paused", "paused_reason", "paused_until", "draining")
    return {name: value for name in names if (value := getattr(rules, name)) is not UNSET}


def _view(present: Sequence[Presence], count: DirectoryCount, now: int) -> WorkDirectoryState:
    return directory(count, sum(it.waiting_in(count.rules.work_directory) for it in present), now)
