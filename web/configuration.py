"""What is in force and where it comes from, and what would be in force after a change. Values, nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from attrs import evolve, field, frozen

from web.codec import Fault, Invalid
from web.settings import SETTINGS, Setting, Settings, SettingsError
from web.sources import Given, Origin, key_of, settings_of, settle

MASK = "********"
NEEDS_RESTART = "takes a restart: set it in the file, the environment or an option"
KEY_SHOWN = 100  # characters of a name that is none
NOWHERE = Origin("default", "")
AT_RUN_TIME = Origin("runtime", "")


@frozen(kw_only=True)
class Configuration:
    """`version` grows by one with each change while the server runs; `runtime` is all that is set so, by its key."""

    given: Given
    settings: Settings
    version: int = 0
    runtime: Mapping[str, object] = field(factory=dict, repr=False)

    def origin(self, key: str) -> Origin:
        return AT_RUN_TIME if key in self.runtime else self.given.origins.get(key, NOWHERE)

    # What would be in force

    def with_changes(self, changes: Mapping[str, object]) -> "Configuration":
        """Null takes back what was set at run time, where it is not a value itself; what is in force already is no
        change. Raises Invalid with every fault."""
        faults = [Fault(f"changes.{key[:KEY_SHOWN]}", reason) for key, reason in _refused(changes)]
        known = {key: value for key, value in changes.items() if key in SETTINGS and SETTINGS[key].reloadable}
        taken = {key for key, value in known.items() if value is None and not SETTINGS[key].may_be_null}
        wanted = {key: value for key, value in {**self.runtime, **known}.items() if key not in taken}
        try:
            settings = settle(self.given, wanted)
        except Invalid as error:
            inside = (f"changes.{it.field}" if key_of(it.field) in changes else it.field for it in error.faults)
            raise Invalid([*faults, *map(Fault, inside, (it.reason for it in error.faults))]) from None
        if faults:
            raise Invalid(faults)
        for key in known.keys() - taken:
            if SETTINGS[key].of(settings) == SETTINGS[key].of(self.settings):
                wanted = _as_in(self.runtime, key, wanted)
        return evolve(self, settings=settings, runtime=wanted)

    def as_at(self, version: int, runtime: Mapping[str, object]) -> "Configuration":
        """With the run-time values of that version. Raises Invalid if they can no longer be used."""
        faults = [*_refused(runtime)]
        try:
            settings = settle(self.given, runtime)
        except Invalid as error:
            faults += [(it.field, it.reason) for it in error.faults]
        if faults:
            raise Invalid([Fault("version", f"of version {version}, {key}: {reason}") for key, reason in faults])
        return evolve(self, settings=settings, runtime=runtime)

    def read_again(self, given: Given) -> "Configuration":
        """With what options, environment and file say now. Raises SettingsError with every fault, or Invalid if it
        does not go with what was set at run time."""
        was, now = settings_of(self.given), settings_of(given)
        stuck = [it for it in SETTINGS.values() if not it.reloadable and it.of(was) != it.of(now)]
        if stuck:
            raise SettingsError(given.named(Fault(it.key, "changed, which takes a restart")) for it in stuck)
        return evolve(self, given=given, settings=settle(given, self.runtime))

    def differences(self, after: "Configuration") -> dict[str, dict[str, object]]:
        """What a change to `after` changes, `{"section.key": {"from", "to"}}`, as it may be shown."""
        return {
            key: {"from": shown(setting, self.settings), "to": shown(setting, after.settings)}
            for key, setting in SETTINGS.items()
            if setting.of(self.settings) != setting.of(after.settings) or self._pinned(key) != after._pinned(key)
        }

    def _pinned(self, key: str) -> bool:
        return key in self.runtime


def begin(given: Given, version: int, runtime: Mapping[str, object]) -> tuple[Configuration, list[Fault]]:
    """At the start, and what of the run-time values could not be used: it is left out, for nobody could mend it if the
    server did not start. Raises SettingsError if what is given cannot be used by itself."""
    settings_of(given)
    faults = [Fault(key, reason) for key, reason in _refused(runtime)]
    kept = {key: value for key, value in runtime.items() if key not in {fault.field for fault in faults}}
    while True:
        try:
            settings = settle(given, kept)
            return Configuration(given=given, settings=settings, version=version, runtime=kept), faults
        except Invalid as error:
            faults += error.faults
            wrong = {key_of(fault.field) for fault in error.faults} & kept.keys() or kept.keys()
            kept = {key: value for key, value in kept.items() if key not in wrong}


def shown(setting: Setting, settings: Settings) -> object:
    """A value as anybody may see it."""
    value = setting.of(settings)
    if value is None:
        return None
    if setting.secret:
        return MASK
    return setting.show(value) if setting.show else _plain(value)


def _plain(value: Any) -> object:
    """As JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _refused(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Of these keys those that may not change while the server runs, and why."""
    for key in keys:
        if section := next((it for it in SETTINGS.values() if it.section == key), None):
            yield key, f"is a section: name its settings one by one, such as {section.key!r}"
        elif key not in SETTINGS:
            near = get_close_matches(key[:KEY_SHOWN], SETTINGS, n=1, cutoff=0)[0]
            yield key, f"unknown setting, did you mean {near!r}?"
        elif not SETTINGS[key].reloadable:
            yield key, NEEDS_RESTART


def _as_in(before: Mapping[str, object], key: str, after: Mapping[str, object]) -> dict[str, object]:
    """`after`, but for one key, which stays as it was."""
    rest = {name: value for name, value in after.items() if name != key}
    return {**rest, key: before[key]} if key in before else rest
