"""The settings of the server, each with its rule and its default. Where they come from is told in web/sources.py.

All that is known of a setting stands at its field: a short variable and an option beside APP_<SECTION>_<KEY>, whether
it may change while the server runs (RELOADABLE, also of a whole section), and whether it is never shown (SECRET).
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from attrs import Attribute, Factory, field, fields, frozen

from dispatcher.events import EventType
from dispatcher.fields import LeaseSeconds, Listed, MaxRetries, Rule, Seconds, distinct
from dispatcher.rules import Rules
from web.access.network_settings import CorsOrigin, Network, Proxy
from web.access.patterns import PATTERN_CHARACTERS_MAX, PATTERNS_MAX, by_line, own_pattern
from web.access.rate_settings import RateLimit
from web.codec import Fault
from web.token_settings import SECRET_CHARACTERS_MIN, TokenAlgorithm, jwks_url, scope_mapping, token_faults

SQLITE, POSTGRES = "sqlite:///", ("postgresql://", "postgres://")
LEVELS = ("debug", "info", "warning", "error", "critical")


class SettingsError(ValueError):
    """The settings cannot be used; each fault's `field` is the option, variable or key of the file."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{fault.field}: {fault.reason}" for fault in self.faults))


def database_url(url: str) -> str:
    """`sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or `postgresql://user@host/database`."""
    if url.startswith(POSTGRES):
        try:
            parts = urlsplit(url)
            usable = "," in parts.netloc or parts.port != 0
        except ValueError:
            usable = False
        if not usable or re.search(r"[\s\x00-\x1f#]", url):
            raise ValueError("must be postgresql://user:password@host:port/database, special characters as in %2F")
        return url
    path = url.removeprefix(SQLITE)
    if path == url or path in ("", ":memory:") or path.endswith("/") or re.search(r"[?#\x00-\x1f]", path):
        raise ValueError("must be sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://…")
    return url


def without_password(url: str) -> str:
    """What may be shown of it; of several hosts, and of the parameters, nothing."""
    if not url.startswith(POSTGRES):
        return url
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.split("?")[0].rpartition("@")
    return f"{scheme}://{credentials.split(':')[0]}{at}{place}"


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


def webhook_url(url: str) -> str:
    """`https://host/path`, or `http://`; without a name and password in it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.fragment or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError("must be an http or https URL, without credentials and fragment")
    return url


def host_of(url: str) -> str:
    """What may be shown of it: such addresses often have a key in their path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/…"


def webhook_secret(value: str) -> str:
    """`whsec_` and a key in base64, or any other text of 16 characters or more."""
    if value.startswith("whsec_"):
        try:
            base64.b64decode(value.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ValueError("must be in base64 after whsec_") from None
    return value


def encryption_key(value: str) -> str:
    """A passphrase, or 64 hexadecimal digits: the key itself."""
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be one line of text without spaces around it")
    return value


Timeout = Annotated[float, Gt(0), Le(3600)]
DatabaseUrl = Annotated[str, MaxLen(4096), Rule(database_url)]
ApiKey = Annotated[str, MaxLen(500), Rule(api_key)]
Level = Annotated[str, Rule(level)]
FileName = Annotated[str, MinLen(1), MaxLen(4096)]
WebhookUrl = Annotated[str, MaxLen(2048), Rule(webhook_url)]
PlainText = Annotated[str, MinLen(1), MaxLen(500)]
TokenSecret = Annotated[str, MinLen(SECRET_CHARACTERS_MIN), MaxLen(500)]
JwksUrl = Annotated[str, MaxLen(2048), Rule(jwks_url)]
ScopeMapping = Annotated[str, MaxLen(300), Rule(scope_mapping)]
SecretPattern = Annotated[str, MinLen(1), MaxLen(PATTERN_CHARACTERS_MAX), Rule(own_pattern)]
EncryptionKey = Annotated[str, MinLen(1), MaxLen(1000), Rule(encryption_key)]
WebhookSecret = Annotated[str, MinLen(16), MaxLen(500), Rule(webhook_secret)]


RELOADABLE = {"reloadable": True}
SECRET = {"secret": True}


def _also(variable: str, option: str) -> dict[str, Any]:
    """The short names of a setting: an environment variable, and an option (`log_level` is --log-level)."""
    return {"variable": variable, "option": option}


@frozen(kw_only=True)
class Server:
    host: Annotated[str, MinLen(1), MaxLen(255)] = field(default="127.0.0.1", metadata=_also("SERVER_HOST", "host"))
    port: Annotated[int, Ge(0), Le(65535)] = field(default=8080, metadata=_also("SERVER_PORT", "port"))
    max_body_bytes: Annotated[int, Ge(1024), Le(2**30)] = 16 * 2**20
    request_timeout_seconds: Timeout = 30
    max_connections: Annotated[int, Ge(1), Le(1_000_000)] = 20_000
    max_connections_per_address: Annotated[int, Ge(1), Le(1_000_000)] = 10_000
    max_streams_per_key: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    tls_cert: FileName | None = None
    tls_key: FileName | None = None
    hsts_seconds: Annotated[int, Ge(0), Le(63_072_000)] = 31_536_000
    trusted_proxies: Annotated[tuple[Proxy, ...], MaxLen(1000)] = ()

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.tls_cert is None and self.tls_key is not None:
            yield "tls_cert", "is required with tls_key"
        if self.tls_key is None and self.tls_cert is not None:
            yield "tls_key", "is required with tls_cert"


@frozen(kw_only=True)
class Database:
    url: DatabaseUrl = field(
        default="sqlite:///data/tasks.db",
        repr=False,
        metadata={**_also("DATABASE_URL", "database"), "show": without_password},
    )
    synchronous: Literal["full", "normal"] = "full"
    timeout_seconds: Timeout = 30
    max_connections: Annotated[int, Ge(3), Le(10_000)] = 100
    min_connections: Annotated[int, Ge(0), Le(10_000)] = 10
    encryption_key_file: Annotated[str, MinLen(1), MaxLen(4096)] | None = None
    encryption_key: EncryptionKey | None = field(default=None, repr=False, metadata=SECRET)

    @property
    def path(self) -> Path | None:
        """Of the file, if it is one."""
        return Path(self.url.removeprefix(SQLITE)) if self.url.startswith(SQLITE) else None

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return without_password(self.url)

    @property
    def place(self) -> str:
        """Where the record is, as it may be shown."""
        return str(self.path.absolute()) if self.path else self.shown

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.min_connections > self.max_connections:
            yield "min_connections", "must not be more than max_connections"
        keys = {"encryption_key_file": self.encryption_key_file, "encryption_key": self.encryption_key}
        given = [name for name, key in keys.items() if key is not None]
        if given and self.path is None:
            yield given[0], "is for SQLite: what PostgreSQL keeps is encrypted where it keeps it"
        elif len(given) > 1:
            yield "encryption_key", "must not be set with encryption_key_file: only one of them is the key"


@frozen(kw_only=True)
class Tasks:
    default_task_timeout: Seconds = 3600
    max_task_retries: MaxRetries = 3
    prompt_match_threshold: Annotated[float, Ge(0), Le(1)] = 0.8
    require_lease_token: bool = False
    restart_grace_seconds: Annotated[float, Ge(0), Le(3600)] = 30
    max_concurrent_tasks: Annotated[int, Ge(0), Le(1_000_000)] = 0
    priority_aging_seconds: Annotated[float, Ge(0), Le(31_536_000)] = 0

    def rules(self) -> Rules:
        """What the dispatcher goes by."""
        return Rules(
            default_timeout_seconds=self.default_task_timeout,
            default_max_retries=self.max_task_retries,
            prompt_match_threshold=self.prompt_match_threshold,
            require_lease_token=self.require_lease_token,
            restart_grace_seconds=self.restart_grace_seconds,
            max_concurrent_tasks=self.max_concurrent_tasks,
            priority_aging_seconds=self.priority_aging_seconds,
        )


@frozen(kw_only=True)
class Security:
    api_key: ApiKey | None = field(default=None, repr=False, metadata=_also("API_SECRET_KEY", "api_key") | SECRET)
    initial_key_file: Annotated[str, MinLen(1), MaxLen(4096)] | None = field(
        default=None, metadata={"option": "initial_key_file"}
    )
    open_metrics: bool = False
    ip_allowlist: Annotated[tuple[Network, ...], MaxLen(1000)] = field(default=(), metadata=RELOADABLE)
    enable_cors: bool = field(default=False, metadata={"variable": "ENABLE_CORS"} | RELOADABLE)
    cors_origins: Annotated[tuple[CorsOrigin, ...], MaxLen(100), Rule(distinct)] = field(
        default=(), metadata=RELOADABLE
    )
    jwt_algorithm: TokenAlgorithm | None = None
    jwt_secret: TokenSecret | None = field(default=None, repr=False, metadata=SECRET)
    jwt_public_key_file: FileName | None = None
    jwt_jwks_url: JwksUrl | None = None
    jwt_jwks_file: FileName | None = None
    jwt_issuer: PlainText | None = None
    jwt_audience: PlainText | None = None
    jwt_leeway_seconds: Annotated[float, Ge(0), Le(300)] = 30
    jwt_scope_claim: PlainText = "scope"
    jwt_scopes: Annotated[tuple[ScopeMapping, ...], MaxLen(100), Rule(distinct)] = ()
    jwt_work_directories_claim: PlainText | None = None
    jwt_name_claim: PlainText = "sub"
    redact_payloads: bool = field(default=False, metadata=RELOADABLE)
    redact_patterns: Annotated[tuple[SecretPattern, ...], Listed(by_line), MaxLen(PATTERNS_MAX), Rule(distinct)] = (
        field(default=(), metadata=RELOADABLE)
    )

    def faults(self) -> Iterable[tuple[str, str]]:
        yield from token_faults(self)


@frozen(kw_only=True)
class Logging:
    level: Level = field(default="info", metadata=_also("LOG_LEVEL", "log_level") | RELOADABLE)
    format: Literal["json", "pretty"] | None = field(default=None, metadata=_also("LOG_FORMAT", "log_format"))
    file: FileName | None = None
    redact: bool = field(default=True, metadata=RELOADABLE)


@frozen(kw_only=True)
class Webhooks:
    """`events` are the types that the endpoint is told of; none given: all."""

    url: WebhookUrl | None = field(default=None, metadata={"show": host_of})
    secret: WebhookSecret | None = field(default=None, repr=False, metadata=SECRET)
    events: Annotated[tuple[EventType, ...], MaxLen(100), Rule(distinct)] = ()
    allow_private: bool = False
    timeout_seconds: Annotated[float, Gt(0), Le(60)] = 10

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.url is not None and self.secret is None:
            yield "secret", "is required with url: what is sent is signed with it"


@frozen(kw_only=True)
class Mcp:
    """`lease_seconds`: of a claim that asks for no other. `sessions`: clients of revisions before 2026-07-28 get one,
    which lives in this server alone."""

    enabled: bool = True
    lease_seconds: LeaseSeconds = 900
    sessions: bool = False


@frozen(kw_only=True)
class Settings:
    server: Server = Factory(Server)
    database: Database = Factory(Database)
    task: Tasks = field(factory=Tasks, metadata=RELOADABLE)
    security: Security = Factory(Security)
    rate_limit: RateLimit = field(factory=RateLimit, metadata=RELOADABLE)
    logging: Logging = Factory(Logging)
    mcp: Mcp = Factory(Mcp)
    webhooks: Webhooks = field(factory=Webhooks, metadata=RELOADABLE)


@frozen
class Setting:
    """What is known of one setting."""

    section: str
    field: "Attribute[Any]"
    reloadable: bool

    @property
    def key(self) -> str:
        return f"{self.section}.{self.field.name}"

    @property
    def variable(self) -> str:
        return f"APP_{self.section}_{self.field.name}".upper()

    @property
    def secret(self) -> bool:
        return bool(self.field.metadata.get("secret"))

    @property
    def show(self) -> Callable[[Any], object] | None:
        """What may be shown of its value, if not all."""
        return self.field.metadata.get("show")

    @property
    def may_be_null(self) -> bool:
        return NoneType in get_args(self.field.type)

    def of(self, settings: Settings) -> Any:
        """Its value."""
        return getattr(getattr(settings, self.section), self.field.name)


def _all() -> Iterator[Setting]:
    for section in fields(Settings):
        for it in fields(cast(Any, section.type)):
            reloadable = (section.metadata | it.metadata).get("reloadable", False)
            yield Setting(section.name, it, reloadable)


SETTINGS = {setting.key: setting for setting in _all()}
