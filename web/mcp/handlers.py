"""The twelve tools. Each asks what its counterpart under REST asks, and says the answer briefly."""

from collections.abc import Mapping
from typing import Any, cast

from attrs import evolve, fields

from dispatcher.errors import Unavailable
from dispatcher.messages import Cancel, Create, Fail, Heartbeat, Release, Retry
from dispatcher.record import DirectoryCount, Record
from dispatcher.task import Status
from web.access.audit import tell
from web.answers import own
from web.batches import make
from web.lists import find, next_cursor, total
from web.mcp import answers
from web.mcp.answers import Briefs, Claimed, Created, Directory, Done, Made, ManyMade, Outcome, Renewed, Stats, Whole
from web.mcp.bodies import AboutStats, Listing, Look, NewTask, NewTasks, NextTask, Report
from web.mcp.call import Call
from web.mcp.claiming import claim
from web.show import included, look
from web.views import moment

DIRECTORIES_MAX = 50  # in one answer


async def list_tasks(call: Call, asked: Listing) -> Briefs:
    query = asked.query()
    page, offset = await find(call.service, query)
    is_placed = asked.work_directory is not None and len(asked.work_directory) == 1
    return answers.compact(
        Briefs,
        {
            "tasks": [answers.brief(task, is_placed=is_placed) for task in page.tasks],
            "total": total(page, offset),
            "next_cursor": next_cursor(query, page, offset),
        },
        keep=("tasks",),
    )


async def get_task(call: Call, asked: Look) -> Whole:
    if asked.until is None:  # who waits for the outcome is not at it
        await call.renew_named(asked.task_id)
    asked = evolve(asked, wait_seconds=call.patience(asked.wait_seconds))
    task = await call.patiently(asked.wait_seconds, look(call.service, asked))
    told = answers.plain(cast(Mapping[str, Any], await included(call.service, asked, task)))
    return answers.whole(told, keep=asked.include)


async def queue_stats(call: Call, asked: AboutStats) -> Stats:
    if asked.work_directory is not None:
        call.enter(asked.work_directory)
    return await stats(call.service.record, asked.work_directory)


async def stats(record: Record, path: str | None = None) -> Stats:
    counts = await record.directories() if path is None else [await record.directory(path)]
    by_status = {status.value: sum(count.tasks[status] for count in counts) for status in Status}
    busiest = sorted(counts, key=_idle)
    stats: Stats = {
        "total": sum(by_status.values()),
        "by_status": by_status,
        "work_directories": [_directory(count) for count in busiest[:DIRECTORIES_MAX]],
    }
    if len(busiest) > DIRECTORIES_MAX:
        stats["omitted"] = len(busiest) - DIRECTORIES_MAX
    return stats


def _idle(count: DirectoryCount) -> tuple[int, str]:
    return -(count.tasks[Status.WAITING] + count.tasks[Status.WORKING]), count.rules.work_directory


def _directory(count: DirectoryCount) -> Directory:
    rules = count.rules
    tasks = {status.value: count.tasks[status] for status in Status}
    rest = {"paused": rules.paused or None, "draining": rules.draining or None, "max_working": rules.max_working}
    return answers.compact(Directory, {"work_directory": rules.work_directory, **tasks, **rest})


async def create_task(call: Call, asked: NewTask) -> Created:
    said = {field.name: getattr(asked, field.name) for field in fields(Create) if field.name != "by"}
    if asked.idempotency_key:
        said |= {"idempotency_key": own(asked.idempotency_key), "request_digest": call.digest}
    made = await call.service.ask(Create(**said))
    return answers.created(made.task, made.replayed)


async def create_tasks(call: Call, asked: NewTasks) -> ManyMade:
    key = own(asked.idempotency_key) if asked.idempotency_key else None
    made, _ = await make(call.service, asked, key, call.digest if key else None)
    tasks = [answers.compact(Made, task) for task in made["tasks"]]
    return answers.compact(ManyMade, {"tasks": tasks, "errors": made["errors"]}, keep=("tasks",))


async def claim_next_task(call: Call, asked: NextTask) -> Claimed:
    return await claim(call, asked)


async def heartbeat_task(call: Call, asked: Heartbeat) -> Renewed:
    task = await call.service.ask(asked)
    return answers.compact(
        Renewed, {"lease_expires_at": moment(task.lease_expires_at), "deadline_at": moment(task.deadline_at)}
    )


async def complete_task(call: Call, asked: Report) -> Done:
    """What is claimed next cannot undo what is reported; it is for whoever reports."""
    worker_id = asked.worker_id or call.worker_id
    if (next := asked.claim_next) is not None:
        call.enter(next.work_directory)
        next = evolve(next, worker_id=next.worker_id or worker_id)
    report = evolve(asked.report(), worker_id=worker_id)
    done = cast(Done, answers.outcome(await call.service.ask(report)))
    if next is not None:
        try:
            done["next"] = await claim(call, next, after=report.lease_token)
        except (Unavailable, TimeoutError):
            done["next"] = {"task": None, "resumed": False, "retry": True, "why": "the server is busy"}
    return done


async def fail_task(call: Call, asked: Fail) -> Outcome:
    return answers.outcome(await call.service.ask(asked))


async def release_task(call: Call, asked: Release) -> Outcome:
    return answers.outcome(await call.service.ask(asked))


async def cancel_task(call: Call, asked: Cancel) -> Outcome:
    tell(call.passage.request, {"force": asked.force, "reason": asked.reason})
    return answers.outcome(await call.service.ask(asked))


async def retry_task(call: Call, asked: Retry) -> Outcome:
    return answers.outcome(await call.service.ask(asked))
