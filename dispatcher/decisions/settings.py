"""What is changed about the server itself while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.configuration import ConfigVersion
from dispatcher.messages import Reconfigure

if TYPE_CHECKING:
    from dispatcher.board import Board


def reconfigure(board: Board, reconfigure: Reconfigure, now: int) -> int:
    after = ConfigVersion(
        version=board.config_version + 1,
        at=now,
        who=reconfigure.who,
        reason=reconfigure.reason,
        changes=reconfigure.changes,
        runtime=reconfigure.runtime,
    )
    board.configure(reconfigure.rules, after, now)
    return after.version
