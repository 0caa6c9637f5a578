"""What is decided about each message: plain functions of the board, the message and the time.

They refuse before they touch anything, and change tasks only through `board.put`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dispatcher.decisions.claims import claim, drain, held, leave
from dispatcher.decisions.creation import create
from dispatcher.decisions.reports import complete, fail, heartbeat, release
from dispatcher.decisions.time import tick
from dispatcher.messages import Claim, Complete, Create, Drain, Fail, Heartbeat, Held, Leave, Message, Release, Tick

DECISIONS: Mapping[type[Message[Any]], Callable[..., Any]] = {
    Create: create,
    Claim: claim,
    Heartbeat: heartbeat,
    Complete: complete,
    Fail: fail,
    Release: release,
    Held: held,
    Tick: tick,
    Leave: leave,
    Drain: drain,
}
