"""The log: one line for each request, and whatever else is said through `logging`; as JSON or to be read by people.

Never in it: bodies, headers, query strings; so no prompts, results, keys or lease tokens. With `redact` nothing that a
caller wrote at all: no paths but their patterns, and of an unforeseen error its type and place, not its text. Without
it, too, what looks like a secret is hidden.
"""

import logging
import re
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from io import FileIO
from typing import Any, NamedTuple, cast

import orjson
import structlog
from attrs import define
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor

from web.access.redaction import HIDDEN, Redaction
from web.codec import Fault, rfc3339
from web.lines import FLUSH_SECONDS, Lines
from web.settings import Logging, SettingsError

TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # as the server makes them
OWN_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
PATH_MAX = 200  # characters of a path that are shown
FRAMES_MAX = 50  # of a traceback, the innermost
CAUSES_MAX = 10  # errors behind an error
OWN_WORDS = {"dispatcher", "storage", "sqlite3"}  # packages whose errors quote nobody
LOST = "lines of the log were lost"
STDERR = 2

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request being handled; every line said meanwhile bears it."""


class Answered(NamedTuple):
    """A tuple, for one is made at every request. `status` is None if nobody was there any more; `route` if the path is
    none of ours."""

    at: int
    request_id: str
    method: str
    route: str | None
    task_id: str | None
    path: str
    status: int | None
    seconds: float
    client: str | None


class Log:
    """Says nothing until it is configured."""

    def __init__(self) -> None:
        self._lines: Lines[Answered | bytes] | None = None
        self._handler: logging.Handler | None = None
        self._retired: list[Lines[Answered | bytes]] = []  # they write what is left
        self._lost_before = 0
        self._form: _Json | _Pretty | None = None
        self._redaction = Redaction()
        self.tells_requests = False

    @property
    def lost(self) -> int:
        return self._lost_before + sum(it.lost for it in (*self._retired, self._lines) if it)

    def configure(self, settings: Logging, redaction: Redaction | None = None) -> None:
        """May be called again: a file is opened anew. Raises SettingsError, and nothing has changed. It does not wait
        until all that was said before is written."""
        file = _open(settings.file)
        is_pretty = settings.format == "pretty" if settings.format else file.isatty()
        self._retire()
        self._form = (_Pretty if is_pretty else _Json)(file.isatty(), self._redaction)
        self._lines = Lines(file, self._form.line, self._form.mourn)
        self._handler = _Handler(self._lines)
        logging.getLogger().addHandler(self._handler)
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # it tells of every function it runs
        logging.getLogger("mcp").setLevel(logging.ERROR)  # and this of every request, and of each that is malformed
        self.adopt(settings, redaction)

    def adopt(self, settings: Logging, redaction: Redaction | None = None) -> None:
        """Goes by this level and redaction from now on, if it says anything at all; never waits."""
        self._redaction = redaction or self._redaction
        if self._form and self._handler:
            self._form.redact, self._form.redaction = settings.redact, self._redaction
            self._handler.setFormatter(_formatter(self._form.renderer(), settings.redact, self._redaction))
            root = logging.getLogger()
            root.setLevel(settings.level.upper())
            self.tells_requests = root.isEnabledFor(logging.INFO)

    def request(self, answered: Answered) -> None:
        if self._lines:
            self._lines.put(answered)

    def close(self) -> None:
        """Everything said so far is written, if somebody takes it."""
        self._retire()
        until = time.monotonic() + FLUSH_SECONDS
        for lines in self._retired:
            lines.close(max(0, until - time.monotonic()))

    def _retire(self) -> None:
        over = [lines for lines in self._retired if lines.has_ended]
        self._lost_before += sum(lines.lost for lines in over)
        self._retired = [lines for lines in self._retired if lines not in over]
        if self._handler and self._lines:
            logging.getLogger().removeHandler(self._handler)
            self._lines.end()
            self._retired.append(self._lines)
        self._handler = self._lines = self._form = None
        self.tells_requests = False


def _open(name: str | None) -> FileIO:
    try:
        return FileIO(STDERR, "ab", closefd=False) if name is None else FileIO(name, "ab")
    except OSError as error:
        raise SettingsError([Fault("logging.file", f"{name} cannot be written: {error.strerror}")]) from None


class _Handler(logging.Handler):
    def __init__(self, lines: "Lines[Answered | bytes]") -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


@define
class _Form:
    """`redact` and `redaction` may change at any time."""

    is_terminal: bool
    redaction: Redaction
    redact: bool = True


class _Json(_Form):
    def line(self, said: Answered | bytes) -> bytes:
        return said if isinstance(said, bytes) else orjson.dumps(_fields(said, self.redact, self.redaction)) + b"\n"

    def mourn(self, lost: int) -> bytes:
        return orjson.dumps({"timestamp": _now(), "level": "warning", "event": LOST, "lost": lost}) + b"\n"

    def renderer(self) -> Processor:
        return structlog.processors.JSONRenderer(lambda it, **_: orjson.dumps(it, default=str).decode())


class _Pretty(_Form):
    def line(self, said: Answered | bytes) -> bytes:
        if isinstance(said, bytes):
            return said
        it = _fields(said, self.redact, self.redaction)
        shown = [it.pop(name) for name in ("timestamp", "level", "event")]
        rest = " ".join(f"{name}={value}" for name, value in it.items())
        return f"{shown[0]} [{shown[1]:9}] {shown[2]:30} {rest}\n".encode("utf-8", "backslashreplace")

    def mourn(self, lost: int) -> bytes:
        return f"{_now()} [warning  ] {LOST:30} lost={lost}\n".encode()

    def renderer(self) -> Processor:
        return structlog.dev.ConsoleRenderer(
            colors=self.is_terminal, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )


def _now() -> str:
    return rfc3339(time.time_ns() // 1_000_000)


def _fields(said: Answered, redact: bool, redaction: Redaction) -> dict[str, Any]:
    name = said.request_id
    fields = {
        "timestamp": rfc3339(said.at),
        "level": "info",
        "event": "request",
        "request_id": name if OWN_REQUEST_ID.fullmatch(name) else redaction.text(name),
        "method": said.method if said.route or not redact else None,
        "route": said.route,
        "status": said.status,
        "duration_ms": round(said.seconds * 1000, 2),
        "client": said.client,
    }
    if said.task_id is not None and TASK_ID.fullmatch(said.task_id):
        fields["task_id"] = said.task_id
    if not redact:
        fields["path"] = redaction.text(ascii(said.path)[1:-1])[:PATH_MAX]
    return fields


def _formatter(renderer: Processor, redact: bool, redaction: Redaction) -> logging.Formatter:
    def failure(_: Any, __: str, event: EventDict) -> EventDict:
        exc_info = event.pop("exc_info", None)
        if exc_info and exc_info[1] is not None:
            event["exception"] = redaction.text("".join(_traceback(exc_info[1], redact)).rstrip())
        return event

    def hide(_: Any, __: str, event: EventDict) -> EventDict:
        hidden: EventDict = redaction.value(event, ours=True)
        return hidden

    return ProcessorFormatter(
        foreign_pre_chain=[_stamp, add_log_level, add_logger_name, _in_request, ExtraAdder()],
        processors=[ProcessorFormatter.remove_processors_meta, failure, hide, renderer],
    )


def _stamp(_: Any, __: str, event: EventDict) -> EventDict:
    return {"timestamp": rfc3339(int(event["_record"].created * 1000)), **event}


def _in_request(_: Any, __: str, event: EventDict) -> EventDict:
    if (name := request_id.get()) is not None:
        event["request_id"] = name
    return event


def _traceback(error: BaseException, redact: bool, causes: int = CAUSES_MAX) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and causes:
        yield from _traceback(cause, redact, causes - 1)
        yield "\nThat led to:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__, limit=-FRAMES_MAX)
    kind = type(error)
    is_own = isinstance(error, OSError) or kind.__module__.partition(".")[0] in OWN_WORDS
    yield f"{kind.__module__}.{kind.__qualname__}: {error if is_own or not redact else HIDDEN}\n"
    if isinstance(error, BaseExceptionGroup) and causes:
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions[:CAUSES_MAX]:
            yield from _traceback(part, redact, causes - 1)
