"""`migrate` moves a record, says how far it has come, and goes on where it was killed."""

import asyncio
import os
import pty
import random
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import closing, suppress
from pathlib import Path

import pytest

from storage.contents import TABLES
from tests.client.processes import ROOT, environment, run_cli
from tests.storage.busy import busy, rows_of

IN_SMALL_STEPS = """
from storage import moving
from storage.sqlite import moving as sqlite_moving
moving.BATCH_ROWS, sqlite_moving.PART_ROWS = 4, 2
from task_orchestrator.cli import main
main()
"""


async def test_a_record_is_moved_there_and_back(postgres_url: str, tmp_path: Path) -> None:
    first, second = busy(tmp_path / "first.db"), tmp_path / "second.db"
    there = await run_cli("migrate", "--from", f"sqlite:///{first}", "--to", postgres_url)
    assert there.code == 0, there.err
    lines = there.err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"{what} {name}" for what in ("copied", "compared") for name in TABLES
    ]
    table = [line.split() for line in there.out.splitlines()]
    assert [row[0] for row in table[1:-1]] == list(TABLES)
    assert there.out.endswith(": everything is the same on both sides\n")
    back = await run_cli("migrate", "--from", postgres_url, "--to", f"sqlite:///{second}", "--json")
    assert back.code == 0, back.err
    assert (back.json["is_same"], back.json["resumed_rows"], back.json["to"]) == (True, 0, str(second))
    told = {one["table"]: (f"{one['rows']:,}", one["checksum"]) for one in back.json["tables"]}
    assert told == {name: (rows, checksum) for name, rows, checksum in table[1:-1]}
    assert rows_of(first) == rows_of(second)


async def test_two_records_are_compared(tmp_path: Path) -> None:
    first, second = busy(tmp_path / "first.db"), busy(tmp_path / "second.db")
    ends = ("--from", f"sqlite:///{first}", "--to", f"sqlite:///{second}")
    assert (await run_cli("migrate", *ends, "--verify-only")).code == 0
    with closing(sqlite3.connect(second)) as db, db:
        db.execute("delete from history where seq = 3")
    differs = await run_cli("migrate", *ends, "--verify-only")
    assert differs.code == 1
    (line,) = [line for line in differs.out.splitlines() if "DIFFERS" in line]
    assert line.startswith("history")
    assert differs.out.endswith(": they are not the same\n")
    assert not (await run_cli("migrate", *ends, "--verify-only", "--json")).json["is_same"]


async def test_what_is_refused_is_told_in_one_line(server: object, tmp_path: Path) -> None:
    url, new = f"sqlite:///{server.database}", f"sqlite:///{tmp_path}/new.db"  # type: ignore[attr-defined]
    for ends in ((url, new), (f"sqlite:///{busy(tmp_path / 'first.db')}", url)):
        refused = await run_cli("migrate", "--from", ends[0], "--to", ends[1])
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (1, "", 1)
        assert "another server is using it" in refused.err


@pytest.mark.parametrize(
    "ends",
    [
        ("--from", "sqlite:///a.db"),
        ("--from", "sqlite:///a.db", "--to", "b.db"),
        ("--from", "mysql://host/name", "--to", "sqlite:///b.db"),
        ("--from", "sqlite:///a.db", "--to", "sqlite:///a.db"),
        ("--from", "sqlite:///a.db", "--to", "sqlite:///b.db", "--fast"),
    ],
)
async def test_what_is_not_understood_is_a_usage_error(tmp_path: Path, ends: tuple[str, ...]) -> None:
    done = await run_cli("migrate", *ends, cwd=tmp_path)
    assert (done.code, done.out, os.listdir(tmp_path)) == (2, "", [])


async def test_whoever_looks_on_sees_a_bar(tmp_path: Path) -> None:
    first = busy(tmp_path / "first.db")
    ours, theirs = pty.openpty()
    ends = ("--from", f"sqlite:///{first}", "--to", f"sqlite:///{tmp_path}/second.db")
    environ = environment() | {"COLUMNS": "120", "TERM": "xterm"}
    command = (sys.executable, "-m", "task_orchestrator", "migrate", *ends)
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = await asyncio.to_thread(_read_all, ours)
    assert await process.wait() == 0
    for piece in ("copy tasks", "compare history", "━━━", " of "):
        assert piece in shown


def _read_all(terminal: int) -> str:
    pieces = []
    with suppress(OSError):  # how a terminal ends
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode()


@pytest.mark.parametrize("to_postgres", [True, False])
async def test_killed_at_any_moment_it_goes_on(postgres_url: str, tmp_path: Path, to_postgres: bool) -> None:
    """SIGKILL, several times: in the end everything is there, once."""
    first, second, rng = busy(tmp_path / "first.db"), tmp_path / "second.db", random.Random()
    if not to_postgres:
        await run_cli("migrate", "--from", f"sqlite:///{first}", "--to", postgres_url)
    ends = (f"sqlite:///{first}", postgres_url) if to_postgres else (postgres_url, f"sqlite:///{second}")
    command = (sys.executable, "-c", IN_SMALL_STEPS, "migrate", "--from", ends[0], "--to", ends[1], "--json")
    for _ in range(4):
        process = await asyncio.create_subprocess_exec(*command, env=environment(), cwd=ROOT, stdout=PIPE, stderr=PIPE)
        assert process.stderr is not None
        for _ in range(rng.randrange(1, 6)):  # tables that this attempt completes
            await process.stderr.readline()
        await asyncio.sleep(rng.random() * 0.05)
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
    done = await run_cli("migrate", "--from", ends[0], "--to", ends[1], "--json")
    if done.code and "it is not empty" in done.err:  # it had been completed before it was killed
        done = await run_cli("migrate", "--from", ends[0], "--to", ends[1], "--json", "--verify-only")
    assert done.code == 0, done.err
    assert done.json["is_same"]
    if to_postgres:
        await run_cli("migrate", "--from", postgres_url, "--to", f"sqlite:///{second}")
    assert rows_of(second) == rows_of(first)
