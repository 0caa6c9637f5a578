"""The database as it lies on disk, held against itself and against what the clients know."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from attrs import frozen

from dispatcher.task import MOVES, Status

from .ledger import Lease, Ledger

Row = dict[str, Any]

ENDS = {"complete": {"task.completed"}, "fail": {"task.failed", "task.retried"}, "release": {"task.released"}}
EXPIRED = "task.lease_expired"
END_TYPES = set[str]().union(*ENDS.values(), {EXPIRED})


@frozen
class Record:
    tasks: dict[str, Row]  # by task_id
    history: dict[str, list[Row]]  # by task_id, in order of seq
    seqs: list[int]
    directories: dict[str, Row]
    ready_tags: list[tuple[Any, ...]]


def check(database: Path, ledger: Ledger) -> None:
    record = read(database)
    check_creations(record, ledger)
    check_outcomes(record, ledger)
    check_leases(record, ledger)
    check_histories(record)
    check_views(record)


def read(database: Path) -> Record:
    """One consistent view of it, beside the server that owns it."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        db.row_factory = lambda cursor, row: {
            column[0]: value for column, value in zip(cursor.description, row, strict=True)
        }
        db.execute("begin")
        assert db.execute("pragma integrity_check").fetchall() == [{"integrity_check": "ok"}]
        history = db.execute("select * from task_history order by task_id, seq").fetchall()
        return Record(
            tasks={task["task_id"]: task for task in db.execute("select * from tasks order by arrival")},
            history={task_id: list(rows) for task_id, rows in groupby(history, itemgetter("task_id"))},
            seqs=sorted(row["seq"] for row in history),
            directories={row.pop("work_directory"): row for row in db.execute("select * from work_directories")},
            ready_tags=sorted(tuple(row.values()) for row in db.execute("select * from ready_tags")),
        )


def check_creations(record: Record, ledger: Ledger) -> None:
    """Each answered creation is there once; beyond them only unanswered ones, at most once each."""
    prompts = {task_id: task["prompt"] for task_id, task in record.tasks.items()}
    assert {task_id: prompts.get(task_id) for task_id in ledger.created} == ledger.created
    others = [prompt for task_id, prompt in prompts.items() if task_id not in ledger.created]
    assert len(set(others)) == len(others)
    assert set(others) <= ledger.perhaps_created


def check_outcomes(record: Record, ledger: Ledger) -> None:
    """Each answered completion is there with exactly its result."""
    for task_id, result in ledger.results.items():
        task = record.tasks[task_id]
        assert (task["status"], json.loads(task["result"])) == ("completed", result), task


def check_leases(record: Record, ledger: Ledger) -> None:
    """Each lease is in the history, and ended before the next one began, by its holder's call or by its time."""
    unheard = set()
    for task_id, rows in record.history.items():
        tenures = tenures_of(rows)
        assert [claim["attempt"] for claim, _ in tenures] == list(range(1, len(tenures) + 1)), rows
        assert record.tasks[task_id]["attempt"] == len(tenures)
        for claim, end in tenures:
            if lease := ledger.leases.get(claim["lease_token"]):
                assert (lease.task_id, lease.attempt) == (task_id, claim["attempt"])
                check_end(lease, end, record.tasks[task_id])
            else:
                unheard.add(claim["lease_token"])
                assert end is None or end["type"] == EXPIRED or "undelivered" in end["details"], rows
    recorded = {row["lease_token"] for rows in record.history.values() for row in rows} - {None}
    assert recorded - unheard == ledger.leases.keys(), "a lease was given out and is not in the history"
    assert len(unheard) <= ledger.perhaps_claimed


def tenures_of(rows: list[Row]) -> list[tuple[Row, Row | None]]:
    """Each claim of a task with the row that ended it; no claim may begin before the last one has ended."""
    turns = [row for row in rows if row["type"] == "task.claimed" or row["type"] in END_TYPES]
    tenures: list[tuple[Row, Row | None]] = []
    for row in turns:
        if row["type"] == "task.claimed":
            assert not tenures or tenures[-1][1], f"claimed twice at the same time: {rows}"
            tenures.append((row, None))
        elif tenures[-1][1] is None:
            tenures[-1] = tenures[-1][0], row
        else:
            assert (tenures[-1][1]["type"], row["type"]) == (EXPIRED, "task.failed"), f"ended twice: {rows}"
    return tenures


def check_end(lease: Lease, end: Row | None, task: Row) -> None:
    if end is None:
        assert not lease.ended, f"{lease} was ended, but not in the record"
        assert not lease.lost, f"{lease} was refused, but is in force"
        assert (task["status"], task["lease_token"]) == ("working", lease.token)
        assert task["lease_expires_at"] >= lease.expires_at
    elif end["type"] == EXPIRED:
        assert not lease.ended, f"{lease} was ended, but has expired in the record"
        assert end["at"] >= lease.expires_at, f"{lease} was taken away too early: {end}"
    else:
        assert lease.end is not None, f"nobody has ended {lease}: {end}"
        assert end["type"] in ENDS[lease.end[0]]
        assert lease.ended in (None, end["status"]), f"{lease} was ended another way: {end}"


def check_histories(record: Record) -> None:
    """Each task's history leads to where the task stands, by legal moves; numbers have no gaps."""
    assert record.seqs == list(range(1, len(record.seqs) + 1))
    assert [task["arrival"] for task in record.tasks.values()] == list(range(1, len(record.tasks) + 1))
    assert record.history.keys() == record.tasks.keys()
    for task_id, rows in record.history.items():
        assert (rows[0]["type"], rows[0]["status"]) == ("task.created", "waiting")
        for before, after in pairwise(rows):
            assert after["type"] != "task.created"
            status, to = Status(before["status"]), Status(after["status"])
            assert to is status or to in MOVES[status], rows
        assert rows[-1]["status"] == record.tasks[task_id]["status"], rows


def check_views(record: Record) -> None:
    """The counters and the index of ready tags say what the tasks say."""
    truth = Counter((task["work_directory"], task["status"]) for task in record.tasks.values())
    counted = {(path, status): count for path, row in record.directories.items() for status, count in row.items()}
    assert +Counter(counted) == truth
    ready = [task for task in record.tasks.values() if task["ready"]]
    columns = itemgetter("work_directory", "priority", "arrival")
    tagged = [(columns(task), tag) for task in ready for tag in json.loads(task["tags"])]
    assert record.ready_tags == sorted((path, tag, priority, arrival) for (path, priority, arrival), tag in tagged)
