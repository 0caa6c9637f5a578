"""A record in which everything has happened that can be told of: to be moved, and found the same."""

import random
import sqlite3
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

from dispatcher.audit import Deed
from dispatcher.caller import Caller
from dispatcher.errors import Refusal
from dispatcher.fields import UNSET, Priority
from dispatcher.keys import Key
from dispatcher.messages import (
    Cancel,
    Claim,
    Complete,
    Create,
    Delete,
    Edit,
    Fail,
    Heartbeat,
    Log,
    Progress,
    Reconfigure,
    Regulate,
    Release,
    Retry,
    Tick,
)
from storage.encryption import EncryptionKey
from storage.sqlite import audit, keys
from storage.sqlite import journal as sqlite
from storage.sqlite.driver import connect
from tests.dispatcher.test_board import Desk

BEGIN = 1_700_000_000_000
DIRECTORIES = ("/a", "/b/ö", "/a b", "/Z", "/日本")
PROMPTS = ("count the lines", "Zwölf STRAẞE 🦊", "ﬁn\r\n\t'\"\\ \u2028", "İstanbul", "x" * 9_000, "ÀÉ")
TAGS = ("gpu", "Ünï", "a:b", "urgent", "z")
VALUES: tuple[Any, ...] = (None, 0, -1.5, "ö\u0000\u2028", True, [], {"k": [1, {"é": None}]}, "long " * 40_000, 10**15)
MOVED_NOT = ("prompts", "prompts_indexed", "room", "sqlite_", "unfinished_move")


class Life:
    """Of a server, for so many steps."""

    def __init__(self, seed: int) -> None:
        self.desk, self.rng, self.now = Desk(), random.Random(seed), BEGIN
        self.tasks: list[str] = []
        self.held: list[tuple[str, str]] = []

    def live(self, steps: int) -> "Life":
        for _ in range(steps):
            self.now += self.rng.choice([0, 1, 40, 900, 20_000, 400_000])
            self.desk.say(Tick(), self.now)
            with suppress(Refusal):
                self._act()
        return self

    def leave_traces(self) -> "Life":
        """Of a task that is gone; and of what is not added up yet."""
        self.desk.say(Regulate(work_directory="/gone"), self.now)
        task = self.desk.say(Create(work_directory="/gone", prompt="x"), self.now).task
        (held,) = self.desk.say(Claim(work_directories=("/gone",)), self.now)
        mine: dict[str, Any] = {"task_id": task.task_id, "lease_token": held.lease_token}
        for message in (Log(lines=("one", "two"), **mine), Complete(**mine), Delete(task_id=task.task_id)):
            self.desk.say(message, self.now)
        while not self.desk.db.execute("select count(*) from additions").fetchone()[0]:
            self.desk.say(Create(work_directory="/gone", prompt="y"), self.now)
        return self

    def _act(self) -> None:
        rng = self.rng
        if rng.random() < 0.35 or not self.tasks:
            self.tasks.append(self.desk.say(self._new(), self.now).task.task_id)
        elif rng.random() < 0.3:
            for task in self.desk.say(self._claim(), self.now):
                self.held.append((task.task_id, task.lease_token))
        elif rng.random() < 0.15:
            self._lay_down()
        elif rng.random() < 0.6 and self.held:
            self.desk.say(self._report(*rng.choice(self.held[-4:])), self.now)
        else:
            self.desk.say(self._steer(rng.choice(self.tasks)), self.now)

    def _new(self) -> Create:
        rng = self.rng
        return Create(
            work_directory=rng.choice(DIRECTORIES),
            prompt=rng.choice(PROMPTS),
            priority=rng.choice(list(Priority)),
            tags=tuple(rng.sample(TAGS, rng.choice([0, 0, 1, 3]))),
            auto_retry=rng.random() < 0.5,
            retry_delay_seconds=rng.choice([0, 0.1, 10]),
            timeout_seconds=rng.choice([None, 12.345678901234567, 7200]),
            delay_seconds=rng.choice([None, None, 1000.5]),
            expires_at=rng.choice([None, None, self.now + 3_000_000]),
            depends_on=tuple(dict.fromkeys(rng.choices(self.tasks[-9:], k=rng.choice([0, 0, 2]))))
            if self.tasks
            else (),
            on_dependency_failure=rng.choice(["wait", "cancel", "run"]),
            metadata=rng.choice([{}, {"é": [1, None, 1e-7]}]),
            by=Caller(rng.choice([None, "ann"]), frozenset({"admin"})),
            idempotency_key=rng.choice([None, f"key-{rng.randrange(10**6)}"]),
            request_digest=rng.choice([None, "digest"]),
        )

    def _claim(self) -> Claim:
        rng = self.rng
        return Claim(
            work_directories=(rng.choice(DIRECTORIES),),
            worker_id=rng.choice([None, "ann", "bøb"]),
            limit=rng.choice([1, 3]),
            lease_seconds=rng.choice([None, 60.25]),
            tags=rng.choice([(), (), ("gpu",)]),
            claim_id=rng.choice([None, f"claim-{rng.randrange(10**6)}"]),
        )

    def _report(self, task_id: str, token: str) -> Any:
        rng = self.rng
        return rng.choice(
            [
                Complete(task_id=task_id, lease_token=token, result=rng.choice(VALUES)),
                Complete(
                    task_id=task_id, lease_token=token, result=rng.choice(VALUES), status="failed", error_message="ö"
                ),
                Fail(task_id=task_id, lease_token=token, error_message="no\n", retryable=rng.random() < 0.3),
                Release(task_id=task_id, lease_token=token, delay_seconds=rng.choice([None, 5])),
                Heartbeat(task_id=task_id, lease_token=token, progress=Progress(percent=50.5, message="half")),
                Heartbeat(task_id=task_id, lease_token=token, metadata={"session_id": "ö", "n": rng.random()}),
                Log(task_id=task_id, lease_token=token, lines=tuple(rng.choices(["", "x\ty", "ö" * 300, "'"], k=4))),
                Log(task_id=task_id, lease_token=token, lines=("again",) * 3),
            ]
        )

    def _steer(self, task_id: str) -> Any:
        rng = self.rng
        return rng.choice(
            [
                Cancel(task_id=task_id, force=rng.random() < 0.3),
                Retry(task_id=task_id),
                Edit(task_id=task_id, tags=rng.choice([UNSET, ("z", "new")]), prompt=rng.choice([UNSET, "Other"])),
                Delete(task_id=task_id),
                Delete(task_id=rng.choice(self.held)[0] if self.held else task_id),
            ]
        )

    def _lay_down(self) -> None:
        rng, path = self.rng, self.rng.choice(DIRECTORIES)
        rules = self.desk.board.rules
        said = rng.choice(
            [
                Regulate(work_directory=path, max_working=rng.choice([None, 2]), draining=rng.random() < 0.2),
                Regulate(work_directory=path, paused=True, paused_reason="ö", paused_until=self.now + 50_000),
                Regulate(work_directory=path, paused=False),
                Reconfigure(
                    rules=rules, who="ann", reason=rng.choice([None, "ö"]), changes={"a": "***"}, runtime={"k": 0}
                ),
            ]
        )
        self.desk.say(said, self.now)


def busy(path: Path, seed: int = 1) -> Path:
    """Such a record, in a file."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(_content(seed))
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            db.backup(file)
            file.execute("pragma journal_mode = wal")
    return path


@cache
def _content(seed: int) -> bytes:
    life = Life(seed).live(400).leave_traces()
    with closing(life.desk.db) as db:
        sqlite.keep_webhook_place(db, seed + 5)
        keys.add(
            db, Key(digest="d1", name="ann", scopes=("work",), work_directories=("*",), created_at=1, created_by=None)
        )
        audit.append(db, [Deed(at=2, action="keys_create", outcome="ok", target="ann", details='{"é": 1}')] * 3)
        return db.serialize()


def rows_of(path: Path, key: EncryptionKey | None = None) -> dict[str, list[Any]]:
    """Of every table what a move is to bring along; read without any of its code."""
    with closing(connect(path, "ro", key)) as db:
        tables = [name for (name,) in db.execute("select name from sqlite_schema where type = 'table'")]
        ours = sorted(name for name in tables if not name.startswith(MOVED_NOT))
        return {name: sorted(db.execute(f"select * from {name}").fetchall(), key=repr) for name in ours}
