"""Where settings come from: `gather` collects what is given, `settings_of` and `settle` make settings of it.

The strongest first: what was set while the server ran, the option on the command line, the variable
APP_<SECTION>_<KEY>, a short variable such as DATABASE_URL, the key in the TOML file, the default. The file is the one
given, or config/<APP_ENV>.toml in the working directory if APP_ENV is set; a file that is named must exist.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from web.codec import Fault, Invalid, Text, structure
from web.settings import SETTINGS, Setting, Settings, SettingsError

Source = Literal["default", "file", "environment", "option", "runtime"]


@frozen
class Origin:
    """Where a value was given, and the name of it there: an option, a variable, or the file."""

    source: Source
    name: str


@frozen
class Given:
    """What options, environment and file say: `values` as they stand there, by section; `origins` by "section.key".

    `faults` are those that were found in reading them.
    """

    file: Path | None
    values: Mapping[str, Any] = field(repr=False)
    origins: Mapping[str, Origin]
    faults: tuple[Fault, ...]

    def named(self, fault: Fault) -> Fault:
        """With the name that the value has where it was given."""
        key = key_of(fault.field)
        origin = self.origins.get(key)
        if origin is None and self.file is None:
            return fault
        if origin is None or origin.source == "file":
            return Fault(f"{fault.field} in {self.file}", fault.reason)
        return Fault(origin.name + fault.field[len(key) :], fault.reason)


def key_of(path: str) -> str:
    """The setting that a path such as `security.cors_origins[2]` leads into."""
    return ".".join(re.split(r"[.\[]", path)[:2])


def load(cli: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """The settings at the start. `cli` maps options (`log_level`) to their values, None if not given.

    Raises SettingsError with every fault of every source.
    """
    return settings_of(gather(cli, environ, config))


def gather(cli: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None) -> Given:
    """What is given; the arguments are those of `load`."""
    faults = list(_unknown_variables(environ))
    file, values = config, dict[str, Any]()
    try:
        file = file or _file_of(environ)
        values = _read_toml(file) if file else {}
    except SettingsError as error:
        faults += error.faults
    origins = {
        key: Origin("file", str(file))
        for key, setting in SETTINGS.items()
        if isinstance(table := values.get(setting.section), dict) and setting.field.name in table
    }
    return Given(file, values, origins | _overlay(values, cli, environ), tuple(faults))


def settings_of(given: Given) -> Settings:
    """Raises SettingsError with every fault, by the name that its value has where it was given."""
    faults = list(given.faults)
    try:
        settings = settle(given, {})
    except Invalid as error:
        faults += map(given.named, error.faults)
    if faults:
        raise SettingsError(faults)
    return settings


def settle(given: Given, runtime: Mapping[str, object]) -> Settings:
    """With what is set at run time, `{"section.key": value}`. Raises Invalid, whose faults begin with that key."""
    values = dict(given.values)
    for key, value in runtime.items():
        section, _, name = key.partition(".")
        values[section] = {**values.get(section, {}), name: value}
    return structure(values, Settings)


def _file_of(environ: Mapping[str, str]) -> Path | None:
    name = environ.get("APP_ENV")
    if name is None:
        return None
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise SettingsError([Fault("APP_ENV", "must be a plain name such as development or production")])
    return Path("config", f"{name}.toml")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError([Fault(str(file), f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise SettingsError([Fault(str(file), f"is not TOML: {error}")]) from None
    except RecursionError:
        raise SettingsError([Fault(str(file), "is nested too deep")]) from None


def _overlay(values: dict[str, Any], cli: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, Origin]:
    """Put what options and variables say over the file's `values`; tells which of them each setting comes from."""
    origins = {}
    for key, setting in SETTINGS.items():
        table = values.setdefault(setting.section, {})
        for origin, value in _sources(setting, cli, environ):
            if value is not None and isinstance(table, dict):
                table[setting.field.name] = Text(value) if isinstance(value, str) else value
                origins[key] = origin
    return origins


def _sources(
    setting: Setting, cli: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[tuple[Origin, object]]:
    """Where a setting may be given besides the file, and what is given there; the strongest last."""
    if variable := setting.field.metadata.get("variable"):
        yield Origin("environment", variable), environ.get(variable)
    yield Origin("environment", setting.variable), environ.get(setting.variable)
    if option := setting.field.metadata.get("option"):
        yield Origin("option", f"--{option.replace('_', '-')}"), cli.get(option)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Fault]:
    known = ["APP_ENV", *(setting.variable for setting in SETTINGS.values())]
    for name in sorted(environ):
        if name.startswith("APP_") and name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0)[0]
            yield Fault(name, f"unknown variable, did you mean {near!r}?")
