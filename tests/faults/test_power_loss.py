"""When the power fails, the system forgets what was written and not synced: so an answer must not go out before its
commit has been synced. Seen by strace, call by call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .room import Room
from .supervisor import Supervisor
from .trace import Event, events, strace
from .wire import Connection

DIRECTORY = "/srv/power"
LOG = "tasks.db-wal>"


class Client:
    """Makes one call after the other, each under a name that the server repeats in the head of its answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.names: list[str] = []

    async def __call__(self, method: str, path: str, body: object = None) -> Any:
        name = f"call-{len(self.names)}:{method}:{path.partition('?')[0].rpartition('/')[2]}"
        answer = await self._connection.call(method, f"/api/v1/tasks{path}", body, {"X-Request-Id": f"{name}:end"})
        assert answer.status in (200, 201), answer
        self.names.append(name)
        return answer.body["data"]


async def create(call: Client) -> Any:
    return await call("POST", "", {"work_directory": DIRECTORY, "prompt": "Do it."})


async def claim(call: Client) -> tuple[str, dict[str, str]]:
    """The path of the task, and a body with the token."""
    task = await call("GET", f"/next?work_path={DIRECTORY}&lease_seconds=60")
    return f"/{task['task_id']}", {"lease_token": task["lease_token"]}


async def every_call_that_writes(call: Client) -> None:
    for _ in range(4):
        await create(call)
    task, token = await claim(call)
    await call("POST", f"{task}/heartbeat", {**token, "progress": {"percent": 50}})
    await call("POST", f"{task}/release", token)
    task, token = await claim(call)
    await call("POST", f"{task}/fail", {**token, "error_message": "no", "retryable": False})
    await call("POST", f"{task}/retry")
    await call("PATCH", task, {"priority": "low"})
    await call("POST", f"{task}/cancel", {})
    await call("DELETE", task)
    claimed = await call("POST", "/claim", {"work_directory": DIRECTORY, "claim_id": "one"})
    task, token = f"/{claimed['tasks'][0]['task_id']}", {"lease_token": claimed["tasks"][0]["lease_token"]}
    await call("POST", f"{task}/complete", {**token, "result": 1})
    task, token = await claim(call)
    completed = {**token, "result": 2, "claim_next": {"work_directory": DIRECTORY}}
    assert (await call("POST", f"{task}/complete", completed))["next"]


async def traced_calls(tmp_path: Path, synchronous: str) -> tuple[list[str], list[Event]]:
    """The names of the calls that were made of a server, and all that it asked of the system meanwhile."""
    output = tmp_path / "trace"
    settings = {"APP_DATABASE_SYNCHRONOUS": synchronous}
    server = Supervisor(Room(tmp_path), tmp_path / "server.log", settings, under=strace(output))
    await server.start()
    try:
        connection = await Connection.open(server.url)
        client = Client(connection)
        await every_call_that_writes(client)
        connection.close()
    finally:
        await server.terminate()
    return client.names, list(events(output))


def synced(names: Sequence[str], seen: Sequence[Event]) -> dict[str, bool]:
    """For each call whether its commit was synced before its answer began to go out."""
    answers = {name: next(event for event in seen if f"{name}:end" in event.what) for name in names}
    after = dict(zip(names, [0, *(answer.ended for answer in answers.values())], strict=False))
    return {name: is_synced([it for it in seen if after[name] < it.ended], answers[name]) for name in names}


def is_synced(since_the_last_answer: Sequence[Event], answer: Event) -> bool:
    log = [event for event in since_the_last_answer if LOG in event.what and event.began < answer.began]
    written = [event for event in log if not event.is_sync]
    assert written, f"nothing was committed before {answer}"
    return any(event.is_sync and written[-1].ended < event.began and event.ended < answer.began for event in log)


async def test_every_answer_comes_after_the_sync_of_its_commit(tmp_path: Path) -> None:
    """Whatever was answered survives a power failure."""
    found = synced(*await traced_calls(tmp_path, "full"))
    assert [name for name, well in found.items() if not well] == []


async def test_with_synchronous_normal_no_answer_waits_for_a_sync(tmp_path: Path) -> None:
    """As documented, the last commits may be lost then; and so the other test can fail."""
    found = synced(*await traced_calls(tmp_path, "normal"))
    assert [name for name, well in found.items() if well] == []


@pytest.mark.parametrize("sync", ["fsync", "fdatasync"])
def test_a_sync_that_ends_too_late_or_came_before_the_write_does_not_count(sync: str) -> None:
    """The order is judged by where a system call began and ended."""
    write, answer = Event("pwrite64", f"9</{LOG}, ...", 1, 1), Event("write", "12<socket:[1]>, ...", 5, 5)
    assert is_synced([write, Event(sync, f"9</{LOG}) = 0", 2, 4)], answer)
    assert not is_synced([write, Event(sync, f"9</{LOG}) = 0", 2, 6)], answer)
    assert not is_synced([Event(sync, f"9</{LOG}) = 0", 0, 0), write], answer)
    assert not is_synced([write, Event(sync, "9</tasks.db>) = 0", 2, 4)], answer)
