"""How the settings change while the server runs: one change after the other, each recorded before it holds."""

import asyncio
import logging
from collections.abc import Callable

from attrs import evolve

from dispatcher.errors import RecordFailed, SettingsOutdated, Unavailable
from dispatcher.messages import Adopt, Reconfigure
from web.access.audit import OK
from web.codec import Invalid
from web.configuration import Configuration, begin
from web.service import Service
from web.settings import SettingsError
from web.sources import Given

RETRY_SECONDS = 1  # after the record could not be read
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
        while True:
            before = service.configuration
            after = plan(before)
            changes = before.differences(after)
            try:
                if changes:
                    message = Reconfigure(
                        rules=after.settings.task.rules(),
                        if_version=before.version,
                        who=who,
                        reason=reason,
                        changes=changes,
                        runtime=after.runtime,
                    )
                    after = evolve(after, version=await service.dispatcher.ask(message))
            except SettingsOutdated:  # another server was faster
                await _catch_up(service)
                continue
            service.adopt(after)
            if changes:
                log.info("settings, version %s, by %s: %s", after.version, who, ", ".join(changes))
            return after


async def keep_step(service: Service, reconfigured: asyncio.Event) -> None:
    """Go by what other servers on the same record have set. Until it is cancelled."""
    while await reconfigured.wait():
        reconfigured.clear()
        try:
            async with service.reconfiguring:
                await _catch_up(service)
        except (RecordFailed, TimeoutError) as error:
            log.warning("the settings cannot be read: %s", str(error) or "the record does not answer")
            await asyncio.sleep(RETRY_SECONDS)
            reconfigured.set()


async def _catch_up(service: Service) -> None:
    """What cannot be used of it is left out, as at the start."""
    versions, _ = await service.record.config_versions(1, 0)
    for newest in versions:
        if newest.version > service.configuration.version:
            after, faults = begin(service.configuration.given, newest.version, newest.runtime)
            for fault in faults:
                log.warning("set at run time, but of no effect: %s: %s", fault.field, fault.reason)
            service.adopt(after)
            service.dispatcher.heed(Adopt(after.settings.task.rules(), after.version))
            log.info("settings, version %s, by %s at another server", newest.version, newest.who)


async def read_again(service: Service, gather: Callable[[], Given]) -> None:
    """What SIGHUP does. Nobody waits for an answer, so what comes of it is logged."""
    before = service.configuration.version
    outcome = await _read_again(service, gather)
    told = {"by": "SIGHUP", "version": service.configuration.version, "before": before}
    service.audit.note("config_reload", outcome, details=told)


async def _read_again(service: Service, gather: Callable[[], Given]) -> str:
    """What came of it, as the audit log tells it."""
    given = await asyncio.to_thread(gather)
    if given.file is None and not given.faults:
        log.info("SIGHUP: there is no file of settings to be read again")
        return OK
    try:
        before: list[int] = []

        def plan(now: Configuration) -> Configuration:
            before.append(now.version)
            return now.read_again(given)

        after = await reconfigure(service, plan, "SIGHUP")
        changes = "no changes" if [after.version] == before else "with changes"
        log.info("SIGHUP: the settings were read again, %s", changes)
        return OK
    except (SettingsError, Invalid) as error:
        for fault in error.faults:
            log.error("SIGHUP: %s: %s", fault.field, fault.reason)
        log.error("SIGHUP: none of the settings was changed")
        return "VALIDATION_ERROR"
    except (Unavailable, RecordFailed, TimeoutError) as error:
        log.error("SIGHUP: the settings could not be changed: %s", str(error) or "the record does not answer")
        return "UNAVAILABLE"
