"""The settings: what is in force, how it is changed while the server runs, and who has changed what."""

from collections.abc import Mapping
from typing import TypedDict

from aiohttp.web import Request, Response

from dispatcher.configuration import ConfigVersion
from web.access.addresses import check_stays
from web.access.audit import tell
from web.access.calling import caller
from web.answers import ok
from web.bodies import ChangeSettings, Nothing, Rollback, SettingsHistory
from web.codec import Fault, Invalid, rfc3339
from web.configuration import Configuration, shown
from web.reconfiguring import reconfigure
from web.service import Service
from web.settings import SETTINGS, Settings
from web.sources import Source

DEFAULTS = Settings()
ALLOW_LIST = "security.ip_allowlist"


class SettingSays(TypedDict):
    value: object
    source: Source
    origin: str | None
    default: object
    reloadable: bool


class ConfigSays(TypedDict):
    version: int
    settings: dict[str, SettingSays]


# "from" is a word of Python's, so the class syntax cannot say it.
ChangeSays = TypedDict("ChangeSays", {"from": object, "to": object})


class VersionSays(TypedDict):
    version: int
    at: str
    who: str
    reason: str | None
    changes: Mapping[str, ChangeSays]


class HistorySays(TypedDict):
    versions: list[VersionSays]
    total: int


async def show(service: Service, asked: Nothing, request: Request) -> Response:
    """Every setting: its value, where that comes from, and whether it may change while the server runs."""
    return ok(_config(service.configuration), service.clock())


async def change(service: Service, asked: ChangeSettings, request: Request) -> Response:
    """Change settings while the server runs, all of them or none."""
    tell(request, {"settings": sorted(asked.changes), "reason": asked.reason})

    def plan(now: Configuration) -> Configuration:
        return _letting_in(now, now.with_changes(asked.changes), request, f"changes.{ALLOW_LIST}")

    after = await reconfigure(service, plan, _who(), asked.reason)
    tell(request, {"version": after.version})
    return ok(_config(after), service.clock())


async def history(service: Service, asked: SettingsHistory, request: Request) -> Response:
    """Who has changed which settings, newest first."""
    versions, total = await service.record.config_versions(asked.limit, asked.offset)
    says: HistorySays = {"versions": [_version(version) for version in versions], "total": total}
    return ok(says, service.clock())


async def rollback(service: Service, asked: Rollback, request: Request) -> Response:
    """Set at run time what was set so at an earlier version, and nothing else; 0 is before the first change."""
    tell(request, {"back_to": asked.version, "reason": asked.reason})
    then = await service.record.config_version(asked.version)
    if then is None and asked.version:
        raise Invalid([Fault("version", f"there is no version {asked.version}")])
    runtime = then.runtime if then else {}
    reason = asked.reason or f"rollback to version {asked.version}"

    def plan(now: Configuration) -> Configuration:
        return _letting_in(now, now.as_at(asked.version, runtime), request, "version")

    after = await reconfigure(service, plan, _who(), reason)
    tell(request, {"version": after.version})
    return ok(_config(after), service.clock())


def _letting_in(now: Configuration, after: Configuration, request: Request, field: str) -> Configuration:
    """Whoever changes the allow-list must still be let in afterwards; raises Invalid."""
    if after.settings.security.ip_allowlist != now.settings.security.ip_allowlist:
        check_stays(after.settings, request, field)
    return after


def _who() -> str:
    return caller.get().name or "anonymous"


def _config(configuration: Configuration) -> ConfigSays:
    return {"version": configuration.version, "settings": {key: _setting(configuration, key) for key in SETTINGS}}


def _setting(configuration: Configuration, key: str) -> SettingSays:
    setting, origin = SETTINGS[key], configuration.origin(key)
    return {
        "value": shown(setting, configuration.settings),
        "source": origin.source,
        "origin": origin.name or None,
        "default": shown(setting, DEFAULTS),
        "reloadable": setting.reloadable,
    }


def _version(version: ConfigVersion) -> VersionSays:
    return {
        "version": version.version,
        "at": rfc3339(version.at),
        "who": version.who,
        "reason": version.reason,
        "changes": version.changes,
    }
