"""The settings of the server, each with its rule and its default, and `load`, which finds out what is set.

The strongest first: the option on the command line, the variable APP_<SECTION>_<KEY>, a short variable such as
DATABASE_URL, the key in the TOML file, the default. The file is the one given, or config/<APP_ENV>.toml in the working
directory if APP_ENV is set; a file that is named must exist.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from attrs import Attribute, Factory, field, fields, frozen

from dispatcher.fields import MaxRetries, Rule, Seconds
from web.codec import Fault, Invalid, Text, structure

SQLITE = "sqlite:///"
LEVELS = ("debug", "info", "warning", "error", "critical")


class SettingsError(ValueError):
    """The settings cannot be used; each fault's `field` is the option, variable or key of the file."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{fault.field}: {fault.reason}" for fault in self.faults))


def database_url(url: str) -> str:
    """`sqlite:///relative/path.db` or `sqlite:////absolute/path.db`."""
    path = url.removeprefix(SQLITE)
    if path == url or path in ("", ":memory:") or path.endswith("/") or re.search(r"[?#\x00-\x1f]", path):
        raise ValueError("must be sqlite:///relative/path.db or sqlite:////absolute/path.db")
    return url


def api_key(value: str) -> str:
    """Printable ASCII without spaces, as a header can carry it."""
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("must be printable ASCII without spaces")
    return value


def level(name: str) -> str:
    """One of LEVELS, in any case."""
    if name.lower() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return name.lower()


Timeout = Annotated[float, Gt(0), Le(3600)]
DatabaseUrl = Annotated[str, MaxLen(4096), Rule(database_url)]
ApiKey = Annotated[str, MaxLen(500), Rule(api_key)]
Level = Annotated[str, Rule(level)]


def _also(variable: str, option: str) -> dict[str, str]:
    """The short names of a setting: an environment variable, and an option (`log_level` is --log-level)."""
    return {"variable": variable, "option": option}


@frozen(kw_only=True)
class Server:
    host: Annotated[str, MinLen(1), MaxLen(255)] = field(default="127.0.0.1", metadata=_also("SERVER_HOST", "host"))
    port: Annotated[int, Ge(0), Le(65535)] = field(default=8080, metadata=_also("SERVER_PORT", "port"))
    max_body_bytes: Annotated[int, Ge(1024), Le(2**30)] = 16 * 2**20
    request_timeout_seconds: Timeout = 30


@frozen(kw_only=True)
class Database:
    url: DatabaseUrl = field(default="sqlite:///data/tasks.db", metadata=_also("DATABASE_URL", "database"))
    synchronous: Literal["full", "normal"] = "full"
    timeout_seconds: Timeout = 30

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix(SQLITE))


@frozen(kw_only=True)
class Tasks:
    default_task_timeout: Seconds = 3600
    max_task_retries: MaxRetries = 3
    prompt_match_threshold: Annotated[float, Ge(0), Le(1)] = 0.8
    require_lease_token: bool = False
    restart_grace_seconds: Annotated[float, Ge(0), Le(3600)] = 30
    max_concurrent_tasks: Annotated[int, Ge(0), Le(1_000_000)] = 0
    priority_aging_seconds: Annotated[float, Ge(0), Le(31_536_000)] = 0


@frozen(kw_only=True)
class Security:
    api_key: ApiKey | None = field(default=None, repr=False, metadata=_also("API_SECRET_KEY", "api_key"))
    open_metrics: bool = False


@frozen(kw_only=True)
class Logging:
    level: Level = field(default="info", metadata=_also("LOG_LEVEL", "log_level"))
    format: Literal["json", "pretty"] | None = field(default=None, metadata=_also("LOG_FORMAT", "log_format"))
    file: Annotated[str, MinLen(1), MaxLen(4096)] | None = None
    redact: bool = True


@frozen(kw_only=True)
class Settings:
    server: Server = Factory(Server)
    database: Database = Factory(Database)
    task: Tasks = Factory(Tasks)
    security: Security = Factory(Security)
    logging: Logging = Factory(Logging)


def load(cli: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """The settings in force. `cli` maps options (`log_level`) to their values, None if not given.

    Raises SettingsError with every fault of every source.
    """
    faults = list(_unknown_variables(environ))
    file, values = config, dict[str, Any]()
    try:
        file = file or _file_of(environ)
        values = _read_toml(file) if file else {}
    except SettingsError as error:
        faults += error.faults
    origins = _overlay(values, cli, environ)
    try:
        settings = structure(values, Settings)
    except Invalid as error:
        faults += [Fault(origins.get(it.field, f"{it.field} in {file}"), it.reason) for it in error.faults]
    if faults:
        raise SettingsError(faults)
    return settings


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


def _overlay(values: dict[str, Any], cli: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, str]:
    """Put what options and variables say over the file's `values`; tells which of them each setting comes from."""
    origins = {}
    for section, setting in _settings():
        table = values.setdefault(section, {})
        for origin, value in _sources(section, setting, cli, environ):
            if value is not None and isinstance(table, dict):
                table[setting.name] = Text(value) if isinstance(value, str) else value
                origins[f"{section}.{setting.name}"] = origin
    return origins


def _sources(
    section: str, setting: "Attribute[Any]", cli: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[tuple[str, object]]:
    """Where a setting may be given besides the file, and what is given there; the strongest last."""
    if variable := setting.metadata.get("variable"):
        yield variable, environ.get(variable)
    variable = _variable(section, setting)
    yield variable, environ.get(variable)
    if option := setting.metadata.get("option"):
        yield f"--{option.replace('_', '-')}", cli.get(option)


def _settings() -> Iterator[tuple[str, "Attribute[Any]"]]:
    for section in fields(Settings):
        yield from ((section.name, setting) for setting in fields(cast(Any, section.type)))


def _variable(section: str, setting: "Attribute[Any]") -> str:
    return f"APP_{section}_{setting.name}".upper()


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Fault]:
    known = ["APP_ENV", *(_variable(section, setting) for section, setting in _settings())]
    for name in sorted(environ):
        if name.startswith("APP_") and name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0)[0]
            yield Fault(name, f"unknown variable, did you mean {near!r}?")
