"""What is set while the server runs, as the record keeps it. Which settings there are is known to web/settings.py."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen


@frozen(kw_only=True)
class ConfigVersion:
    """What somebody changed, and all that is set at run time since. Of version 0, with nothing set, there is none."""

    version: int
    at: int  # milliseconds since the epoch
    who: str
    reason: str | None
    changes: Mapping[str, Any] = field(factory=dict)  # {"section.key": {"from", "to"}}, secrets masked
    runtime: Mapping[str, Any] = field(factory=dict, repr=False)  # {"section.key": value}, secrets as they are
