"""`migrate` moves a record, says how far it has come, and goes on where it was killed."""

import asyncio
import os
import pty
import random
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from storage.contents import TABLES
from task_orchestrator import Client
from tests.client.processes import ROOT, environment, run_cli
from tests.conftest import ServerProcess
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


async def test_what_is_refused_is_told_in_one_line(tmp_path: Path) -> None:
    first, new = busy(tmp_path / "first.db"), tmp_path / "new.db"
    server = ServerProcess(tmp_path)
    async with serving(server):
        for source, target in ((server.database, new), (first, server.database)):
            refused = await run_cli("migrate", "--from", f"sqlite:///{source}", "--to", f"sqlite:///{target}")
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
    for _ in range(4):
        await _killed_after(rng.randrange(1, 6), "--from", ends[0], "--to", ends[1])
    done = await run_cli("migrate", "--from", ends[0], "--to", ends[1], "--json")
    if done.code and "it is not empty" in done.err:  # it had been completed before it was killed
        done = await run_cli("migrate", "--from", ends[0], "--to", ends[1], "--json", "--verify-only")
    assert done.code == 0, done.err
    assert done.json["is_same"]
    if to_postgres:
        await run_cli("migrate", "--from", postgres_url, "--to", f"sqlite:///{second}")
    assert rows_of(second) == rows_of(first)


@asynccontextmanager
async def serving(server: ServerProcess) -> AsyncIterator[Client]:
    server.start()
    try:
        async with Client(server.url) as client:
            yield client
    finally:
        code = server.terminate()
    assert code == 0


async def test_servers_go_on_where_the_record_has_gone(postgres_url: str, tmp_path: Path) -> None:
    """What was begun on the one is ended on the other, under the same ids, tokens and event numbers, and back."""
    sqlite = ServerProcess(tmp_path)
    async with serving(sqlite) as client:
        tasks = [await client.submit("Zwölf", work_directory="/w", tags=["a"]) for _ in range(3)]
        (held,) = await client.claim(work_directory="/w")
        history = await client.history(held["task_id"])
    there = ("migrate", "--from", f"sqlite:///{sqlite.database}", "--to", postgres_url)
    assert (await run_cli(*there)).code == 0
    postgres = ServerProcess(tmp_path, record=postgres_url)
    async with serving(postgres) as client:
        in_use = await run_cli("migrate", "--from", postgres_url, "--to", f"sqlite:///{tmp_path}/new.db")
        assert (in_use.code, " uses it, or did " in in_use.err) == (1, True)
        assert await client.history(held["task_id"]) == history
        done = await client.complete(held["task_id"], lease_token=held["lease_token"], result={"n": 12})
        assert done["status"] == "completed"
        (found,) = await client.claim(work_directory="/w", tags=["a"])
        assert found["task_id"] == tasks[1]["task_id"]
        added = await client.submit("new", work_directory="/w")
    (tmp_path / "back").mkdir()
    back = ServerProcess(tmp_path / "back")
    assert (await run_cli("migrate", "--from", postgres_url, "--to", f"sqlite:///{back.database}")).code == 0
    async with serving(back) as client:
        listed = [task["task_id"] for task in (await client.list(sort="created_at"))["tasks"]]
        assert listed == [task["task_id"] for task in tasks] + [added["task_id"]]
        await client.complete(found["task_id"], lease_token=found["lease_token"])
        line = (await client.history(found["task_id"]))[-1]
        assert line["seq"] > (await client.history(added["task_id"]))[-1]["seq"]


async def test_serve_says_in_one_line_that_a_move_is_not_complete(postgres_url: str, tmp_path: Path) -> None:
    first = busy(tmp_path / "first.db")
    for url in (postgres_url, f"sqlite:///{tmp_path}/second.db"):
        ends = ("--from", f"sqlite:///{first}", "--to", url)
        assert (await _killed_after(3, *ends)) != 0
        refused = await run_cli("serve", "--port", "0", "--database", url)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (1, "", 1)
        assert "a move into it is not complete: say `task-orchestrator migrate` again, it goes on" in refused.err


async def _killed_after(tables: int, *ends: str) -> int:
    """A move that is killed when so many tables are there, or a little later."""
    command = (sys.executable, "-c", IN_SMALL_STEPS, "migrate", *ends, "--json")
    process = await asyncio.create_subprocess_exec(*command, env=environment(), cwd=ROOT, stdout=PIPE, stderr=PIPE)
    assert process.stderr is not None
    for _ in range(tables):
        await process.stderr.readline()
    await asyncio.sleep(random.random() * 0.05)
    with suppress(ProcessLookupError):
        process.kill()
    await process.communicate()
    return await process.wait()
