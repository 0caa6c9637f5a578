"""Workers by the thousands that wait at once, in one process."""

import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from .wire import PATIENCE_SECONDS, request
from .workers import Poller, connect, wait_until_connected

ADDRESSES = 8  # that they come from, so that one of them does not run out of ports
AT_ONCE = 500  # who come together; the system keeps only so many until they are let in
FILES_BESIDE = 300  # that are open besides their sockets


class Waiter(Poller):
    """One of many, with an address of its own."""

    def __init__(self, url: str, number: int, work_directory: str) -> None:
        self.name = f"waiter-{number}"
        address = urlsplit(url)
        source = (f"127.0.0.{2 + number % ADDRESSES}", 0)
        self.socket = socket.create_connection((address.hostname, address.port), PATIENCE_SECONDS, source)
        query = f"work_path={work_directory}&worker_id={self.name}&wait_seconds=60"
        self.socket.sendall(request("GET", f"/api/v1/tasks/next?{query}"))

    def leave(self) -> None:
        """Without a word, if it has not gone before."""
        if self.socket.fileno() >= 0:
            self.vanish()


@contextmanager
def many_files(number: int) -> Iterator[None]:
    """This process may have so many sockets open, and the servers that it starts."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + FILES_BESIDE
    assert hard >= wanted, f"the system lets us open {hard} files, this needs {wanted}: ulimit -Hn"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def crowd(url: str, number: int, work_directory: str) -> Iterator[list[Waiter]]:
    """All of them wait; at the end all that are left go."""
    with ExitStack() as stack:
        waiters: list[Waiter] = []
        while len(waiters) < number:
            for _ in range(AT_ONCE):
                waiters.append(Waiter(url, len(waiters), work_directory))
                stack.callback(waiters[-1].leave)
            wait_until_connected(url, len(waiters))
        yield waiters


def call_many(url: str, requests: Sequence[bytes]) -> None:
    """All over one connection; returns when every one is answered, and granted."""
    with closing(connect(url)) as connection, connection.makefile("rb") as answers:
        for sent in range(0, len(requests), AT_ONCE):
            some = requests[sent : sent + AT_ONCE]
            connection.sendall(b"".join(some))
            for _ in some:
                head = b"".join(iter(answers.readline, b"\r\n"))
                assert head.startswith(b"HTTP/1.1 20"), head
                answers.read(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))


def resident_bytes(pid: int) -> int:
    """What the process holds in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
