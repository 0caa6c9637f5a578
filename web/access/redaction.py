"""Secrets are hidden in what is said: always in the log and in refusals, and if the settings say so in prompts, results
and the like, where who asks has not the right to see them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import re2

from dispatcher.caller import Caller
from web.access.patterns import KEY_BEGINS, KEY_ENDS, MARKED, NAMES, SAID, SHAPES, compiled_own
from web.settings import POSTGRES, SETTINGS, Settings

if TYPE_CHECKING:
    from web.answers import Failure

HIDDEN = "[redacted]"
NAMES_MAX = 1024  # of members, whose meaning is remembered
ANCHORED = re.compile(r"\^|\$|\\[AzG]")  # a pattern that may look for the end of a text
KNOWN_CHARACTERS_MIN = 8  # a shorter one of our own secrets would be found in everything
KNOWN_PATH_CHARACTERS_MIN = 16  # such addresses often have a key in their path


class Redaction:
    """What is hidden, by what it looks like; `known` secrets also if they look like nothing."""

    def __init__(self, own: Sequence[str] = (), known: Sequence[str] = ()) -> None:
        compiled = [(pattern, compiled_own(pattern)) for pattern in own]
        shapes = [*map(re2.escape, known), *SHAPES, *(pattern for pattern, it in compiled if not it.groups)]
        self._whole = re2.compile("|".join(f"(?:{shape})" for shape in shapes))
        marked = [*map(re2.compile, MARKED), *(it for _, it in compiled if it.groups)]
        self._in_messages = [self._whole, *marked]
        self._in_texts = [*self._in_messages, *map(re2.compile, SAID)]
        self._any = re2.compile("|".join(f"(?:{it.pattern})" for it in self._in_texts))
        self._looks_ahead = not any(ANCHORED.search(pattern) for pattern in own)
        self._is_secret = lru_cache(NAMES_MAX)(_names_secret)

    def text(self, text: str) -> str:
        """What others wrote."""
        return self._without(self._in_texts, text)

    def message(self, text: str) -> str:
        """What we write, and quote in it."""
        return self._without(self._in_messages, text)

    def _without(self, patterns: Sequence["re2._Regexp[str]"], text: str) -> str:
        try:
            if self._any.search(text):  # mostly there is nothing
                for pattern in patterns:
                    text = pattern.sub(_hidden, text)
        except UnicodeEncodeError:  # halves of surrogate pairs
            return self._without(patterns, text.encode("utf-8", "backslashreplace").decode())
        return text

    def lines(self, texts: Sequence[str]) -> Iterator[str]:
        """Of one log, one after the other: a private key goes over many of them."""
        in_key = False
        for text in texts:
            yield HIDDEN if in_key else self.text(text)
            begins = in_key or KEY_BEGINS.search(text) is not None
            in_key = begins and KEY_ENDS.search(text) is None

    def value(self, value: Any, *, ours: bool = False) -> Any:
        """Of JSON: in its texts, and those whose names say that they are secret as a whole. `ours`: we wrote it."""
        clean = self.message if ours else self.text
        if isinstance(value, list | tuple | Mapping) and self._has_none(value):
            return value
        box = [value]
        todo: list[tuple[Any, Any]] = [(box, 0)]
        while todo:
            holder, place = todo.pop()
            it = holder[place]
            if isinstance(it, str):
                if it.__class__ is str:
                    holder[place] = clean(it)
            elif isinstance(it, list | tuple):
                holder[place] = copy = list(it)
                todo += [(copy, number) for number in range(len(copy))]
            elif isinstance(it, Mapping):
                holder[place] = members = self._members(it)
                todo += [(members, name) for name in members]
        return box[0]

    def _has_none(self, value: Any) -> bool:
        """For certain: all of its texts are looked through at once, which takes a hundredth of the time."""
        texts: list[str] = []
        todo = [value]
        while todo and self._looks_ahead:
            it = todo.pop()
            if isinstance(it, str):
                texts.append(it)
            elif isinstance(it, list | tuple):
                todo += it
            elif isinstance(it, Mapping):
                texts += it
                todo += it.values()
                if any(map(self._is_secret, it)):
                    return False
        try:
            return self._looks_ahead and self._any.search("\n".join(texts)) is None
        except UnicodeEncodeError:
            return False

    def failure(self, failure: "Failure") -> "Failure":
        failure.message = self.message(failure.message)
        failure.details = self.value(failure.details, ours=True)
        return failure

    def _members(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """No two of them become one, even if nothing is left of their names."""
        members: dict[str, Any] = {}
        for name, value in whole.items():
            shown = self.text(name)
            while shown in members:
                shown += "'"
            members[shown] = HIDDEN if isinstance(value, str) and value and self._is_secret(name) else value
        return members


def _names_secret(name: str) -> bool:
    try:
        return NAMES.fullmatch(name) is not None
    except UnicodeEncodeError:
        return True


def _hidden(found: "re2._Match[str]") -> str:
    start, end = found.span()
    inner = found.span(1) if found.re.groups else (start, end)
    if inner[0] == inner[1]:
        return found.group()
    whole = found.group()
    return whole[: inner[0] - start] + HIDDEN + whole[inner[1] - start :]


def redaction_of(settings: Settings) -> Redaction:
    """With those secrets that the settings tell us."""
    known = {str(it.of(settings)) for it in SETTINGS.values() if it.secret and it.of(settings) is not None}
    if settings.database.url.startswith(POSTGRES):
        place, _, parameters = settings.database.url.partition("?")
        password = place.partition("://")[2].rpartition("@")[0].partition(":")[2]
        known |= {password, unquote(password), *(value for name, value in parse_qsl(parameters) if name == "password")}
    if settings.webhooks.url is not None:
        parts = urlsplit(settings.webhooks.url)
        known |= {part for part in (parts.path.strip("/"), parts.query) if len(part) >= KNOWN_PATH_CHARACTERS_MIN}
    long = sorted(it for it in known if len(it) >= KNOWN_CHARACTERS_MIN)
    return Redaction(settings.security.redact_patterns, long)


class Veil:
    """What lies between the record and those who may not see everything. It changes with the settings."""

    def __init__(self) -> None:
        self.redaction, self.hides_payloads = Redaction(), False

    def adopt(self, settings: Settings) -> None:
        self.redaction, self.hides_payloads = redaction_of(settings), settings.security.redact_payloads

    @contextmanager
    def before(self, caller: Caller | None) -> Iterator[None]:
        """Whatever is shown meanwhile is shown to them; None: to somebody who has no rights at all."""
        token = _veil.set(None if caller and caller.may("payload") else self)
        try:
            yield
        finally:
            _veil.reset(token)


_veil: ContextVar[Veil | None] = ContextVar("veil", default=None)


def over_payloads() -> Redaction | None:
    """What hides the secrets in what is shown now; None: everything is shown as it is."""
    veil = _veil.get()
    return veil.redaction if veil and veil.hides_payloads else None


def seen(text: str) -> str:
    """As the caller may see it."""
    hide = over_payloads()
    return hide.text(text) if hide else text
