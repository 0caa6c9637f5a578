"""`task-orchestrator demo`: it works, it checks, and it leaves nothing behind."""

import asyncio
import signal
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from task_orchestrator.demo import CHORES, Outcome, verify
from tests.client.processes import start, until


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where the demonstration puts its temporary files."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def processes_of(scratch: Path) -> list[str]:
    """Those whose temporary files are here, the dead not counted."""
    mark = f"TMPDIR={scratch}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


async def test_it_works(scratch, directory):
    """In a folder that is no git repository every task is completed once, and the exit code is 0."""
    (directory / "a.py").write_text("pass  # TODO: more\n")
    process = await start("demo", str(directory), url=None, stdout=PIPE, stderr=PIPE)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")
    text = out.decode()
    assert text.startswith(f"The demonstration works on {directory}, as you said.")
    assert "\ntask\tpriority\tworker\t" in text
    assert "each claimed and completed exactly once" in text
    for chore in CHORES:
        assert text.count(f"  {chore.title}\n") >= 1
    assert "\n1 py\n" in text.replace("  ", "")
    assert list(scratch.iterdir()) == []
    assert processes_of(scratch) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted(scratch, directory, number):
    """Whenever it is interrupted, the server, the workers and the temporary files go with it."""
    process = await start("demo", str(directory), url=None, stdout=PIPE, stderr=PIPE)
    assert str(directory) in (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    await asyncio.wait_for(process.stdout.readline(), 60)  # the server listens
    assert len(processes_of(scratch)) > 1
    process.send_signal(number)
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (130, b"")
    assert list(scratch.iterdir()) == []
    await until(lambda: not processes_of(scratch))


def outcomes(order, twice=None):
    """A record in which the chores were claimed in this order, one of them perhaps twice."""
    made = [Outcome(chore, {}) for chore in CHORES]
    for seq, index in enumerate(order):
        made[index].history += [{"type": "claimed", "seq": seq}, {"type": "completed", "seq": 100 + seq}]
    if twice is not None:
        made[twice].history.append({"type": "claimed", "seq": 200})
    return made


RIGHT = sorted(range(len(CHORES)), key=lambda index: ("high", "medium", "low").index(CHORES[index].priority))


def test_it_tells_right_from_wrong():
    """A second claim, a missing one and a wrong order are each noticed."""
    assert verify(outcomes(RIGHT)) == []
    assert verify(outcomes(RIGHT, twice=0)) == [f"{CHORES[0].title}: claimed 2 times"]
    assert verify(outcomes(RIGHT[:-1])) == [
        f"{CHORES[RIGHT[-1]].title}: claimed 0 times",
        f"{CHORES[RIGHT[-1]].title}: completed 0 times",
    ]
    (problem,) = verify(outcomes(RIGHT[::-1]))
    assert problem.startswith("claimed out of order: ")
