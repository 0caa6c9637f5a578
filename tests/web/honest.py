"""An honest client beside an attack: a process of its own, which asks /health again and again over one connection.

    python -m tests.web.honest PORT

It goes on until its standard input ends, and then prints as JSON how long the answers took, in milliseconds.
"""

import http.client
import json
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

PROJECT = Path(__file__).parents[2]
PAUSE_SECONDS = 0.005
SILENCE_SECONDS = 10  # after so long it gives up


@define
class Figures:
    """Filled in at the end."""

    asked: int = 0
    failed: int = 0
    median_ms: float = 0
    p99_ms: float = 0
    slowest_ms: float = 0
    memory_before: int = field(default=0)  # of the server, in bytes
    memory_peak: int = field(default=0)
    memory_after: int = field(default=0)

    def __str__(self) -> str:
        memory = [f"{it / 2**20:.0f}" for it in (self.memory_before, self.memory_peak, self.memory_after)]
        return (
            f"health {self.asked:5} asked, {self.failed} failed, median {self.median_ms:6.1f}, "
            f"p99 {self.p99_ms:7.1f}, slowest {self.slowest_ms:7.1f} ms; MiB before, at most, after {', '.join(memory)}"
        )


def resident(pid: int, what: str = "VmRSS") -> int:
    """Bytes; VmHWM: the most since forget_peak()."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(what)


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def watching(pid: int, port: int) -> Iterator[Figures]:
    """What the honest client and the server's memory were like meanwhile."""
    figures = Figures(memory_before=resident(pid))
    forget_peak(pid)
    command = [sys.executable, "-m", "tests.web.honest", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as honest:
        assert honest.stdout is not None
        assert honest.stdout.readline() == "begun\n"
        yield figures
        said, _ = honest.communicate(timeout=2 * SILENCE_SECONDS)
    for name, value in json.loads(said).items():
        setattr(figures, name, value)
    figures.memory_peak, figures.memory_after = resident(pid, "VmHWM"), resident(pid)


def ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SILENCE_SECONDS)
    times, failed = [], 0
    while True:
        began = time.perf_counter()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        times.append(1000 * (time.perf_counter() - began))
        failed += answer.status != 200
        if len(times) == 1:
            print("begun", flush=True)
        if select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            break
    times.sort()
    said = {"asked": len(times), "failed": failed, "median_ms": statistics.median(times)}
    print(json.dumps(said | {"p99_ms": times[len(times) * 99 // 100], "slowest_ms": times[-1]}))


if __name__ == "__main__":
    ask(int(sys.argv[1]))
