"""An example for every answer that is not JSON, by operation and type: as the server would write it."""

from collections.abc import Mapping
from typing import cast

from web.codec import encode
from web.example_answers import CLAIMED, EVENT, LOG_LINE, WHOLE
from web.examples import DIRECTORY, TASK_ID
from web.export import FORMS
from web.feed import frame
from web.operations import EVENTS
from web.views import WholeTask


def _unnumbered(event: str, data: object) -> str:
    return f"event: {event}\ndata: {encode(data).decode()}\n\n"


_LOST = {"task_id": TASK_ID, "reason": "cancelled"}
_AVAILABLE = {"work_directory": DIRECTORY, "waiting": 12}
_FEED = frame(17, "task.created", EVENT).decode()
_GAP = frame(16, "gap", {"from": 1, "to": 16}).decode()

TEXTS: Mapping[str, Mapping[str, str]] = {
    "lists_listing": {media: form([cast(WholeTask, WHOLE)], True).decode() for media, form in FORMS.items()},
    "stream": {
        EVENTS: _unnumbered("task", CLAIMED)
        + _unnumbered("cancel", _LOST)
        + _unnumbered("available", _AVAILABLE)
        + _unnumbered("drain", {})
    },
    "logs_read": {
        EVENTS: frame(1, "log", LOG_LINE).decode() + _unnumbered("end", {"task_id": TASK_ID, "status": "completed"})
    },
    "events": {EVENTS: _GAP + _FEED},
    "events_task_events": {EVENTS: _GAP + _FEED},
}
