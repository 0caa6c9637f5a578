"""A worker's event stream, read in the background until somebody ends it."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from attrs import define

from .wire import Answer, Connection

Hear = Callable[[str, Any, Answer], None]
"""Is told of each event: its type, its data, and between which moments it was sent."""


READING: "set[asyncio.Task[None]]" = set()  # the event loop itself does not keep them


@define(eq=False)
class WorkerStream:
    _connection: Connection

    @classmethod
    async def open(cls, url: str, path: str, hear: Hear) -> "WorkerStream":
        """Raises Unanswered."""
        connection = await Connection.open(url)
        reading = asyncio.create_task(_read(connection, path, hear))
        READING.add(reading)
        reading.add_done_callback(READING.discard)
        return cls(connection)

    def abort(self, *, reset: bool) -> None:
        self._connection.abort(reset=reset)


async def _read(connection: Connection, path: str, hear: Hear) -> None:
    began = time.monotonic()
    async for event in connection.events(path):
        hear(event.type, json.loads(event.data), Answer(200, None, began, time.monotonic()))
    connection.close()
