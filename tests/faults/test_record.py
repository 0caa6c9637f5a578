"""The checks of a record can fail: each finds what was done to it."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from .agents import Agent
from .ledger import Ledger
from .record import check

AGENTS = 8
ANSWERS = 600
ANY_COMPLETION = "select min(seq) from history where type = 'task.completed'"

DAMAGE = {
    "a task is missing": "delete from tasks where arrival = 3",
    "a task was made twice": "update tasks set prompt = (select prompt from tasks where arrival = 1) where arrival = 2",
    "a result is another": "update tasks set result = '0' where status = 'completed'",
    "an event is missing": "delete from history where seq = 20",
    "two events have changed places": """
        update history set seq = -1 where seq = 5;
        update history set seq = 5 where seq = 50;
        update history set seq = 50 where seq = -1""",
    "a claim is of another task": """
        update history set task_id = (select task_id from tasks where arrival = 1)
        where seq = (select max(seq) from history where type = 'task.claimed')""",
    "a lease is not known": "update history set lease_token = 'none' where type = 'task.claimed' and attempt = 1",
    "a completion is an expiry": f"update history set type = 'task.lease_expired' where seq = ({ANY_COMPLETION})",
    "a counter is off": "update work_directories set completed = completed + 1",
    "a ready tag is too many": "insert into ready_tags values ('/srv/one', 'fast', 1, 1000000)",
    "the order was not kept": "update tasks set arrival = 100000 - arrival",
}


async def test_what_is_done_to_a_record_is_found(server: Any, tmp_path: Path) -> None:
    """Of a busy server it is sound; with any one thing changed it is not."""
    ledger = Ledger()
    agents = [Agent(f"agent-{number}", Random(), ledger) for number in range(AGENTS)]
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.work(server.url))
        await ledger.more_answers(ANSWERS)
        for agent in agents:
            agent.stopped = True
    server.terminate()
    check(server.database, ledger)
    missed = [what for what, sql in DAMAGE.items() if not found(server.database, tmp_path / "damaged.db", sql, ledger)]
    assert not missed


def found(database: Path, copy: Path, damage: str, ledger: Ledger) -> bool:
    """Whether the check of a damaged copy fails."""
    with closing(sqlite3.connect(database)) as original, closing(sqlite3.connect(copy)) as damaged:
        original.backup(damaged)
        damaged.executescript(damage)
    try:
        check(copy, ledger)
    except AssertionError:
        return True
    finally:
        ledger.findings.clear()
    return False
