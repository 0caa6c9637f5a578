"""What is changed about the server itself while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.configuration import ConfigVersion
from dispatcher.errors import SettingsOutdated
from dispatcher.messages import Adopt, Reconfigure

if TYPE_CHECKING:
    from dispatcher.board import Board


def reconfigure(board: Board, reconfigure: Reconfigure, now: int) -> int:
    if reconfigure.if_version not in (None, board.config_version):
        raise SettingsOutdated(reconfigure.if_version, board.config_version)
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


def adopt(board: Board, adopt: Adopt, now: int) -> None:
    board.go_by(adopt.rules)
    board.config_version = max(board.config_version, adopt.version)  # the record may know of a newer one by now
