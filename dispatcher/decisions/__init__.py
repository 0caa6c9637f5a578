"""What is decided about each message: plain functions of the board, the message and the time.

They refuse before they touch anything, and change tasks only through `board.put`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dispatcher.decisions.batches import create_many
from dispatcher.decisions.bulk import steer_many
from dispatcher.decisions.claims import claim, drain, held, leave
from dispatcher.decisions.creation import create
from dispatcher.decisions.directories import regulate
from dispatcher.decisions.logs import log
from dispatcher.decisions.reports import complete, fail, heartbeat, release
from dispatcher.decisions.settings import adopt, reconfigure
from dispatcher.decisions.steering import cancel, delete, edit, retry
from dispatcher.decisions.time import heed, resume, tick
from dispatcher.messages import (
    Adopt,
    Cancel,
    Claim,
    Complete,
    Create,
    CreateMany,
    Delete,
    Drain,
    Edit,
    Fail,
    Heartbeat,
    Heed,
    Held,
    Leave,
    Log,
    Message,
    Reconfigure,
    Regulate,
    Release,
    Resume,
    Retry,
    SteerMany,
    Tick,
)

DECISIONS: Mapping[type[Message[Any]], Callable[..., Any]] = {
    Create: create,
    CreateMany: create_many,
    Claim: claim,
    Heartbeat: heartbeat,
    Complete: complete,
    Fail: fail,
    Release: release,
    Log: log,
    Cancel: cancel,
    Retry: retry,
    Edit: edit,
    Delete: delete,
    SteerMany: steer_many,
    Regulate: regulate,
    Reconfigure: reconfigure,
    Adopt: adopt,
    Held: held,
    Tick: tick,
    Resume: resume,
    Heed: heed,
    Leave: leave,
    Drain: drain,
}
