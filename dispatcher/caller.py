"""Who asks, and how much of all there is is theirs."""

import fnmatch
import re
from typing import Literal

from attrs import field, frozen

from dispatcher.errors import OutOfReach

Scope = Literal["submit", "work", "read", "operate", "admin", "payload"]
"""What a key may do: none includes another, but `admin` all. `payload`: see prompts and results as they are
where others see them redacted."""


@frozen
class Reach:
    """The work directories that match any of these patterns, in which `*` stands for any characters, slashes too, and
    `?` for one. Whatever else is in a pattern stands for itself."""

    patterns: tuple[str, ...]
    _regex: "re.Pattern[str]" = field(init=False, eq=False, repr=False)

    @_regex.default
    def _compiled(self) -> "re.Pattern[str]":
        any_of = "|".join(fnmatch.translate(pattern.replace("[", "[[]")) for pattern in self.patterns)
        return re.compile(any_of or "(?!)")  # no patterns, no directories

    def covers(self, work_directory: str) -> bool:
        return self._regex.match(work_directory) is not None


@frozen
class Caller:
    """`name`: of the key; None: there is none. `reach` None: every work directory is theirs."""

    name: str | None
    scopes: frozenset[Scope]
    reach: Reach | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, work_directory: str) -> bool:
        return self.reach is None or self.reach.covers(work_directory)

    def enter(self, work_directory: str) -> None:
        """Raises OutOfReach."""
        if not self.sees(work_directory):
            raise OutOfReach(work_directory)

    def may_report(self, claimed_by: str | None) -> bool:
        """On a task that was claimed with the key of this name."""
        return claimed_by in (None, self.name) or self.may("admin")


ANYONE = Caller(None, frozenset({"admin"}))
"""Where there are no keys; and the server itself."""
