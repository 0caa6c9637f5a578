"""How a server's presence lies in its row."""

import orjson

from dispatcher.fields import to_json
from dispatcher.presence import Presence, Waiting, Worker


def written(presence: Presence) -> str:
    waiting = [[it.work_directory, it.tags, it.claims] for it in presence.waiting]
    workers = [[it.worker_id, it.work_directories, it.last_seen_at, it.connection] for it in presence.workers]
    return to_json([waiting, workers])


def read(text: str) -> Presence:
    waiting, workers = orjson.loads(text)
    return Presence(
        waiting=tuple(Waiting(path, tuple(tags), claims) for path, tags, claims in waiting),
        workers=tuple(
            Worker(worker_id=name, work_directories=tuple(paths), last_seen_at=at, connection=connection)
            for name, paths, at, connection in workers
        ),
    )
