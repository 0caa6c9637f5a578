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


@define(eq=False)
class WorkerStream:
    _connection: Connection
    _reading: "asyncio.Task[None]"

    @classmethod
    async def open(cls, url: str, path: str, hear: Hear) -> "WorkerStream":
        """Raises Unanswered."""
        connection = await Connection.open(url)
        return cls(connection, asyncio.create_task(_read(connection, path, hear)))

    def abort(self, *, reset: bool) -> None:
        self._connection.abort(reset=reset)


async def _read(connection: Connection, path: str, hear: Hear) -> None:
    began = time.monotonic()
    async for event in connection.events(path):
        hear(event.type, json.loads(event.data), Answer(200, None, began, time.monotonic()))
    connection.close()
