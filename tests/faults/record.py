"""What the record says in the end, held against what the clients know."""

import json
import sqlite3
from collections import Counter
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from dispatcher.task import Status
from tests.storage.counted import agree_with_the_history, counted_so_far, expected

from .database import Entry, View, reading
from .ledger import Effect, Lease, Ledger
from .replay import Replay, Tenure

ENDS = {"complete": {"task.completed"}, "fail": {"task.failed", "task.retried"}, "release": {"task.released"}}
EXPIRED, CANCELLED = "task.lease_expired", "task.cancelled"
ROUNDING_SECONDS = 0.002
READY = "select work_directory, tags, priority, arrival from tasks where ready = true"


def check(record: Path | str, ledger: Ledger) -> None:
    """Raises AssertionError with all that was found. The servers may run meanwhile, but nobody may call them."""
    replay = Replay(ledger, shared=isinstance(record, str))
    with reading(record) as db:
        replay.advance(db)
        judge(replay, db)
        assert not ledger.findings, "\n".join(map(str, ledger.findings))
        if isinstance(db, sqlite3.Connection):
            agree_with_the_history(db)


def judge(replay: Replay, db: View) -> None:
    """Adds what it finds to the findings of the ledger. The replay has taken in all that this view shows."""
    check_effects(replay)
    check_creations(replay)
    check_leases(replay)
    check_overlaps(replay)
    check_order_in_time(replay)
    check_arrivals(replay)
    check_outcomes(replay, db)
    check_views(replay.ledger, db)
    check_rollups(replay.ledger, db)


def check_effects(replay: Replay, first: int = 0, end: int | None = None) -> None:
    """Whatever was answered is in the record; from the `first` effect on, up to the `end`."""
    for effect in replay.ledger.effects[first:end]:
        if not replay.seq_of(effect):
            about = effect.key if effect.key in replay.courses else replay.ledger.leases.get(effect.key)
            about = about.task_id if isinstance(about, Lease) else effect.key
            replay.ledger.find("lost", f"{effect} was answered, and is not in the record", about)


def check_creations(replay: Replay) -> None:
    """No creation made two tasks, however often it was said; and the tasks are the ones that were asked for."""
    times = Counter(course.prompt for course in replay.courses.values())
    for prompt in (prompt for prompt, number in times.items() if number > 1):
        replay.ledger.find("double", f"{prompt!r} was created {times[prompt]} times", prompt)
    for course in replay.courses.values():
        creation = replay.ledger.creations.get(course.prompt)
        if creation and creation.task_id not in (None, course.task_id) and times[course.prompt] == 1:
            replay.ledger.find("lost", f"{creation} is another task, {course.task_id}", course.prompt)


def check_leases(replay: Replay) -> None:
    """Each lease is in the history, and was ended by its holder's call, by its time, or by somebody who cancelled."""
    ledger = replay.ledger
    for token, lease in ledger.leases.items():
        tenure = replay.tenures.get(token)
        if tenure and fault_of(lease, tenure):
            ledger.find("lost", f"{lease} {fault_of(lease, tenure)}: {tenure.end}", lease.task_id)
    for token, tenure in replay.tenures.items():
        claim = ledger.claims.get(tenure.claimed.worker_id or "")
        if token in ledger.leases or claim is None:
            continue
        if claim.tries == claim.heard:
            ledger.find("lost", f"{claim} was not told of {tenure.claimed}", tenure.claimed.task_id)
        if tenure.end and not (tenure.end.type in (EXPIRED, CANCELLED) or tenure.end.undelivered):
            ledger.find("double", f"nobody knew of this lease, but ended it: {tenure.end}", tenure.claimed.task_id)


def fault_of(lease: Lease, tenure: Tenure) -> str | None:
    """What is wrong with the end of a lease."""
    end = tenure.end
    if (lease.task_id, lease.attempt) != (tenure.claimed.task_id, tenure.claimed.attempt):
        return f"is in the record as {tenure.claimed}"
    if lease.doubt and not (end and end.undelivered):
        return lease.doubt
    if end is None:
        return "was refused, but is in force" if lease.lost else None
    if end.type in (EXPIRED, CANCELLED):
        early = end.type == EXPIRED and end.at < lease.expires_at
        return "was ended otherwise" if lease.ended else "was taken away too early" if early else None
    return None if end.undelivered and not lease.ended else fault_of_report(lease, end)


def fault_of_report(lease: Lease, end: Entry) -> str | None:
    if lease.end is None:
        return "was ended by nobody"
    if end.type not in ENDS[lease.end[0]] or lease.ended not in (None, end.status):
        return "was ended another way"
    return None


def check_overlaps(replay: Replay) -> None:
    """By the clients' own clock: nobody was told that a task is theirs while it was certainly another's."""
    by_task: dict[str, list[Lease]] = {}
    for lease in replay.ledger.leases.values():
        by_task.setdefault(lease.task_id, []).append(lease)
    for task_id, leases in by_task.items():
        if task_id in replay.ledger.asked["cancel"]:
            continue
        for one, next in pairwise(sorted(leases, key=attrgetter("attempt"))):
            tenure = replay.tenures.get(one.token)
            undelivered = tenure and tenure.end and tenure.end.undelivered
            if next.got + ROUNDING_SECONDS < certain_end(one, replay.ledger) and not undelivered:
                replay.ledger.find("double", f"{next} began before {one} was over", task_id)


def certain_end(lease: Lease, ledger: Ledger) -> float:
    jumps = [jump for jump in ledger.jumps if jump > lease.got]
    return min([lease.sure_until, *jumps[:1], *([lease.end_began] if lease.end else [])])


def check_order_in_time(replay: Replay) -> None:
    """What was answered before something else was asked for comes before it in the record."""
    numbered = [(effect, seq) for effect in replay.ledger.effects if (seq := replay.seq_of(effect))]
    over = sorted(numbered, key=lambda item: item[0].ended, reverse=True)
    last: tuple[Effect | None, int] = None, 0
    for effect, seq in sorted(numbered, key=lambda item: item[0].began):
        while over[-1][0].ended < effect.began:
            last = max(last, over.pop(), key=lambda item: item[1])
        if seq < last[1]:
            replay.ledger.find("order", f"{effect} is event {seq}, but {last[0]} was over before: event {last[1]}")


def check_arrivals(replay: Replay) -> None:
    """A task that was asked for after another one had been answered stands behind it."""
    creations = replay.ledger.creations
    met = [(creations[course.prompt], course) for course in replay.courses.values() if course.prompt in creations]
    answered = sorted((it for it in met if it[0].task_id), key=lambda it: it[0].ended, reverse=True)
    last = None
    for creation, course in sorted(met, key=lambda it: it[0].began):
        while answered and answered[-1][0].ended < creation.began:
            last = max(last, answered.pop()[1], key=lambda it: it.arrival if it else 0)
        if last and course.arrival < last.arrival:
            replay.ledger.find("order", f"{course} was created after {last} was answered", course.task_id)


def check_outcomes(replay: Replay, db: View) -> None:
    """Each task stands where its history leads; each outcome that was answered or seen is there exactly so."""
    ledger, missing = replay.ledger, set(replay.courses)
    for task_id, status, result in db.execute("select task_id, status, result from tasks"):
        missing.discard(task_id)
        course = replay.courses.get(task_id)
        if course is None or course.status != status:
            ledger.find("record", f"{course} is {status} in the record", task_id)
        said = ("completed", ledger.results[task_id]) if task_id in ledger.results else None
        for known in (said, ledger.sights.get(task_id)):
            if known and known != (status, result and json.loads(result)):
                ledger.find("lost", f"answered or seen as {known}, in the record it is {status}, {result}", task_id)
    for task_id in missing:
        ledger.find("lost", "a task has gone from the record", task_id)


def check_views(ledger: Ledger, db: View) -> None:
    """The file is sound, if it is one; the counters and the index of ready tags say what the tasks say."""
    one_file = isinstance(db, sqlite3.Connection)
    if one_file and (sound := list(db.execute("pragma integrity_check"))) != [("ok",)]:
        ledger.find("record", f"integrity_check: {sound}")
    truth = Counter(db.execute("select work_directory, status from tasks"))
    counted = Counter(
        {
            (path, status): count
            for path, *counts in db.execute(f"select work_directory, {', '.join(Status)} from work_directories")
            for status, count in zip(Status, counts, strict=True)
        }
    )
    if +counted != truth:
        ledger.find("record", f"work_directories counts {+counted}, there are {truth}")
    tagged = {
        (path, tag, priority, arrival)
        for path, tags, priority, arrival in db.execute(READY)
        for tag in json.loads(tags)
    }
    kept = "select work_directory, tag, priority, arrival from ready_tags"
    if difference := tagged ^ set(db.execute(kept)):
        ledger.find("record", f"ready_tags and the ready tasks differ in {sorted(difference)[:10]}")


def check_rollups(ledger: Ledger, db: View) -> None:
    """The statistics are those of the history."""
    try:
        said, true = counted_so_far(db), expected(db)
    except (KeyError, AssertionError) as error:
        ledger.find("record", f"the history cannot be counted: {error!r}")
        return
    if wrong := [key for key in said.keys() | true.keys() if said.get(key) != true.get(key)]:
        key = min(wrong)
        ledger.find("record", f"{len(wrong)} rollups are wrong: {key} says {said.get(key)}, and is {true.get(key)}")
