"""Whether tokens open the door at all. What they need is loaded only then."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dispatcher.ports import Clock
from web.codec import Fault
from web.settings import Settings, SettingsError

if TYPE_CHECKING:
    from web.access.tokens import Tokens

NEEDED = ("jwt", "cryptography")


def refuse_missing_extra(settings: Settings) -> None:
    """Raises SettingsError."""
    if settings.security.jwt_algorithm is not None and not all(map(find_spec, NEEDED)):
        reason = "takes the extra jwt: pip install 'task-orchestrator[jwt]'"
        raise SettingsError([Fault("security.jwt_algorithm", reason)])


def tokens_of(settings: Settings, clock: Clock) -> "Tokens | None":
    """Raises SettingsError."""
    if settings.security.jwt_algorithm is None:
        return None
    refuse_missing_extra(settings)
    from web.access.tokens import open_tokens

    return open_tokens(settings.security, clock)
