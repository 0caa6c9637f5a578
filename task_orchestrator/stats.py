"""`task-orchestrator stats`, and `stats rebuild`."""

from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from task_orchestrator.connection import Connection, Flag
from task_orchestrator.display import say, say_json, show_table
from task_orchestrator.submit import absolute

STATUSES = ("waiting", "working", "completed", "failed", "cancelled")
EVENTS = ("created", "claimed", "completed", "failed", "cancelled", "retried", "released", "lease_expired")
UNITS = {"s": 1, "min": 60, "hour": 3600, "day": 86400}
POINTS = ("avg", "p50", "p95", "p99", "max")

stats = App(name="stats", help="Say what happened in a range of time: how many tasks, how fast, how long they took.")
stats.command("web.commands:rebuild_statistics", name="rebuild")


@stats.default
async def show(
    *,
    since: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    bucket: Literal["minute", "hour", "day"] = "hour",
    work_directory: str | None = None,
    json: Flag = False,
    connection: Connection = Connection(),  # noqa: B008
) -> None:
    """Say what happened in a range of time: how many tasks, how fast, how long they took.

    Parameters
    ----------
    since
        An RFC 3339 time such as 2026-01-01T00:00:00Z; 24 hours before the end if not given.
    to
        The same for the end; now if not given.
    bucket
        One line for each minute, hour or day in which anything happened.
    work_directory
        Only what happened in this directory.
    json
        Print the server's answer as JSON.
    """
    directory = None if work_directory is None else absolute(work_directory)
    async with connection.open() as client:
        found = await client.statistics(since=since, to=to, bucket=bucket, work_directory=directory)
    if json:
        say_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    say(f"{'from':<16}{found['from']}")
    say(f"{'to':<16}{found['to']}")
    statuses = ", ".join(f"{found['by_status'][name]} {name}" for name in STATUSES if found["by_status"][name])
    say(f"{'created':<16}{found['total']}" + (f", now {statuses}" if statuses else ""))
    for what in ("waiting", "processing"):
        spread = found[f"{what}_seconds"]
        if spread["max"] is not None:
            say(f"{what:<16}" + "  ".join(f"{name} {spread[name]:.3f} s" for name in POINTS))
    say(f"{'error rate':<16}{found['error_rate']:.2%}")
    say(f"{'throughput':<16}{_rate(found['throughput_per_second'])}")
    rows = [
        [*(str(bucket[name]) for name in EVENTS), bucket["at"]]
        for bucket in found["series"]
        if any(bucket[name] for name in EVENTS)
    ]
    if rows:
        say()
        show_table([*EVENTS, "at"], rows, [""] * len(rows), always_headed=True)


def _rate(per_second: float) -> str:
    """In the shortest unit in which it is at least one."""
    named = [(per_second * seconds, unit) for unit, seconds in UNITS.items()]
    number, unit = next((it for it in named if it[0] >= 1), named[-1] if per_second else named[0])
    return f"{number:.0f} completed/{unit}" if number >= 100 else f"{number:.3g} completed/{unit}"
