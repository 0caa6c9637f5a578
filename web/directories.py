"""Work directories: what lies in them, and the rules that operators lay down."""

from aiohttp.web import Request, Response

from dispatcher.messages import Regulate
from dispatcher.record import DirectoryCount
from web.answers import ok
from web.bodies import AboutDirectory, Nothing, Pause
from web.service import Service
from web.views import directory


async def listing(service: Service, asked: Nothing, request: Request) -> Response:
    now = service.clock()
    counts = await service.record.directories()
    return ok({"work_directories": [_view(service, count, now) for count in counts]}, now)


async def regulate(service: Service, asked: Regulate, request: Request) -> Response:
    return await _ruled(service, asked)


async def pause(service: Service, asked: Pause, request: Request) -> Response:
    return await _ruled(service, asked.rules())


async def resume(service: Service, asked: AboutDirectory, request: Request) -> Response:
    return await _ruled(service, Regulate(work_directory=asked.work_directory, paused=False, draining=False))


async def drain(service: Service, asked: AboutDirectory, request: Request) -> Response:
    return await _ruled(service, Regulate(work_directory=asked.work_directory, draining=True))


async def _ruled(service: Service, rules: Regulate) -> Response:
    await service.ask(rules)
    now = service.clock()
    return ok(_view(service, await service.record.directory(rules.work_directory), now), now)


def _view(service: Service, count: DirectoryCount, now: int) -> dict[str, object]:
    return directory(count, service.dispatcher.waiting_in(count.rules.work_directory), now)
