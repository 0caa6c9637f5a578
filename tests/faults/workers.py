"""Workers that wait for a task on plain sockets, and can vanish without a word."""

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from .wire import PATIENCE_SECONDS, RESET_ON_CLOSE, content_length, request


class Poller:
    """Waits for the answer to one long request."""

    def __init__(self, url: str, name: str, work_directory: str) -> None:
        self.socket = connect(url)
        query = f"work_path={work_directory}&worker_id={name}&wait_seconds=60"
        self.socket.sendall(request("GET", f"/api/v1/tasks/next?{query}"))

    def vanish(self) -> None:
        reset(self.socket)

    def task(self) -> Any:
        """The task it is given; TimeoutError if it is given none."""
        with self.socket.makefile("rb") as answer:
            head = b"".join(iter(answer.readline, b"\r\n"))
            body = json.loads(answer.read(content_length(head)))
        assert body["success"], body
        return body["data"]


class Streamer(Poller):
    """Reads a stream of events, with a hand free for one task."""

    def __init__(self, url: str, name: str, work_directory: str) -> None:
        self.socket = connect(url)
        query = f"work_path={work_directory}&worker_id={name}"
        self.socket.sendall(request("GET", f"/api/v1/tasks/stream?{query}"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = self.socket.recv(1)
            assert more, "the server broke off"
            head += more

    def task(self) -> Any:
        with self.socket.makefile("rb") as events:
            assert b"event: task\n" in iter(events.readline, b""), "the server broke off"
            return json.loads(events.readline().removeprefix(b"data: "))


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE_SECONDS)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()


def served(workers: Sequence[Poller], timeout_seconds: float = 0) -> set[Poller]:
    """Who is being answered; with a timeout, as soon as anybody is."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.socket, selectors.EVENT_READ, worker)
        return {key.data for key, _ in selector.select(timeout_seconds)}


def wait_until_served(workers: Sequence[Poller], number: int) -> None:
    """Returns as soon as so many of them are being answered."""
    done: set[Poller] = set()
    while len(done) < number:
        more = served([worker for worker in workers if worker not in done], PATIENCE_SECONDS)
        assert more, f"only {len(done)} workers were given anything"
        done |= more


def wait_until_connected(url: str, number: int) -> None:
    """A request counts from when its handler has begun; a long poll is on its way to the dispatcher by then."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := health(url))["metrics"]["active_connections"] < number + 1:  # this one counts too
        assert time.monotonic() < deadline, now


def wait_until_waiting(url: str, number: int) -> None:
    """Returns when so many tasks wait, and nobody has one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := health(url)) and (now["metrics"]["queue_size"], now["active_tasks"]) != (number, 0):
        assert time.monotonic() < deadline, now


def health(url: str) -> Any:
    with urlopen(f"{url}/health", timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process stands still, and what happens meanwhile comes upon it all at once."""
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
