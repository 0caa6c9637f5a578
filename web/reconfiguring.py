"""How the settings change while the server runs: one change after the other, each recorded before it holds."""

import asyncio
import logging
from collections.abc import Callable

from attrs import evolve

from dispatcher.errors import RecordFailed, Unavailable
from dispatcher.messages import Reconfigure
from web.codec import Invalid
from web.configuration import Configuration
from web.service import Service
from web.settings import SettingsError
from web.sources import Given

CHANGES_MAX = 100  # waiting for their turn; beyond, Unavailable

log = logging.getLogger(__name__)


async def reconfigure(
    service: Service, plan: Callable[[Configuration], Configuration], who: str, reason: str | None = None
) -> Configuration:
    """What is in force afterwards; unchanged where the plan changes nothing. Raises what the plan raises, Unavailable,
    or TimeoutError if the record hangs. Once it has begun it is done, even if nobody waits for it any more."""
    if len(service.errands) >= CHANGES_MAX:
        raise Unavailable("too many changes of the settings are waiting")
    errand = asyncio.create_task(_adopt(service, plan, who, reason))
    service.errands.add(errand)
    errand.add_done_callback(_done(service))
    async with asyncio.timeout(service.settings.database.timeout_seconds):
        return await asyncio.shield(errand)


def _done(service: Service) -> "Callable[[asyncio.Task[Configuration]], None]":
    def done(errand: "asyncio.Task[Configuration]") -> None:
        service.errands.discard(errand)
        if not errand.cancelled():
            errand.exception()  # whoever asked may have left, so that nobody else looks at it

    return done


async def _adopt(
    service: Service, plan: Callable[[Configuration], Configuration], who: str, reason: str | None
) -> Configuration:
    async with service.reconfiguring:
        before = service.configuration
        after = plan(before)
        changes = before.differences(after)
        if changes:
            message = Reconfigure(
                rules=after.settings.task.rules(), who=who, reason=reason, changes=changes, runtime=after.runtime
            )
            after = evolve(after, version=await service.dispatcher.ask(message))
        service.adopt(after)
        if changes:
            log.info("settings, version %s, by %s: %s", after.version, who, ", ".join(changes))
        return after


async def read_again(service: Service, gather: Callable[[], Given]) -> None:
    """What SIGHUP does. Nobody waits for an answer, so what comes of it is logged."""
    given = await asyncio.to_thread(gather)
    if given.file is None and not given.faults:
        log.warning("SIGHUP: there is no file of settings to be read again")
        return
    try:
        before: list[int] = []

        def plan(now: Configuration) -> Configuration:
            before.append(now.version)
            return now.read_again(given)

        after = await reconfigure(service, plan, "SIGHUP")
        changes = "no changes" if [after.version] == before else "with changes"
        log.info("SIGHUP: the settings were read again, %s", changes)
    except (SettingsError, Invalid) as error:
        for fault in error.faults:
            log.error("SIGHUP: %s: %s", fault.field, fault.reason)
        log.error("SIGHUP: none of the settings was changed")
    except (Unavailable, RecordFailed, TimeoutError) as error:
        log.error("SIGHUP: the settings could not be changed: %s", str(error) or "the record does not answer")
