"""Work directories: what lies in them, and the rules that operators lay down."""

from typing import TypedDict

from aiohttp.web import Request, Response

from dispatcher.messages import Regulate
from dispatcher.record import DirectoryCount
from web.answers import ok
from web.bodies import AboutDirectory, Nothing, Pause
from web.service import Service
from web.views import WorkDirectoryState, directory


class WorkDirectories(TypedDict):
    work_directories: list[WorkDirectoryState]


async def listing(service: Service, asked: Nothing, request: Request) -> Response:
    """List the work directories: how many tasks lie in each, who waits there, and which rules hold."""
    now = service.clock()
    counts = await service.record.directories()
    told: WorkDirectories = {"work_directories": [_view(service, count, now) for count in counts]}
    return ok(told, now)


async def regulate(service: Service, asked: Regulate, request: Request) -> Response:
    """Lay down rules for a work directory; what is not given stays as it is."""
    return await _ruled(service, asked)


async def pause(service: Service, asked: Pause, request: Request) -> Response:
    """Hand out no task of a work directory until it is resumed."""
    return await _ruled(service, asked.rules())


async def resume(service: Service, asked: AboutDirectory, request: Request) -> Response:
    """Hand out the tasks of a work directory again: ends a pause and a drain."""
    return await _ruled(service, Regulate(work_directory=asked.work_directory, paused=False, draining=False))


async def drain(service: Service, asked: AboutDirectory, request: Request) -> Response:
    """Hand out no more tasks of a work directory; an event tells when nothing is being worked on there any more."""
    return await _ruled(service, Regulate(work_directory=asked.work_directory, draining=True))


async def _ruled(service: Service, rules: Regulate) -> Response:
    await service.ask(rules)
    now = service.clock()
    return ok(_view(service, await service.record.directory(rules.work_directory), now), now)


def _view(service: Service, count: DirectoryCount, now: int) -> WorkDirectoryState:
    return directory(count, service.dispatcher.waiting_in(count.rules.work_directory), now)
