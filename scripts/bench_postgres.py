"""How fast are servers that share a PostgreSQL, and how much of what it alone can do is that?

    .venv/bin/python scripts/bench_postgres.py [--seconds 8] [--connections 10,100] [--instances 1,2,3]

PostgreSQL is started for it, on a Unix socket in a temporary directory, durable as it comes. Against it stands what one
would write by hand, driven by pgbench without any HTTP: a table, tasks claimed with FOR UPDATE SKIP LOCKED, three
transactions a life cycle; once more with a row of history for each. Then the same life cycles over HTTP, as in
bench.py, of one server, of two, of three. Of one it is told, too, which statements took how much of the database's
time. At last: how long it takes from a creation at one server until a worker that waits at another one has the task.
Nothing is asserted.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp

HAND_OVERS = 200
PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "scripts")]

import bench  # noqa: E402

from tests.postgres import Cluster, binary, postgres  # noqa: E402

DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "shared_preload_libraries": "pg_stat_statements",
}
TABLES = """
    create table raw (
        id bigint generated always as identity primary key, directory text not null,
        priority smallint not null default 1, prompt text not null, status text not null default 'waiting',
        token text, lease_until timestamptz, result text,
        created_at timestamptz not null default now(), updated_at timestamptz not null default now());
    create index raw_ready on raw (directory, priority desc, id) where status = 'waiting';
    create table raw_history (
        seq bigint generated always as identity primary key, type text not null, task bigint not null,
        at timestamptz not null default now());"""
CREATE = f"insert into raw (directory, prompt) values ('/srv/bench/' || :client_id, '{bench.PROMPT}') returning id"
CLAIM = """
    update raw set status = 'working', token = md5(random()::text), lease_until = now() + '1 hour', updated_at = now()
    where id = (select id from raw where directory = '/srv/bench/' || :client_id and status = 'waiting'
    order by priority desc, id limit 1 for update skip locked) returning id"""
COMPLETE = """
    update raw set status = 'completed', result = '"done"', updated_at = now() where id = :id and status = 'working'
    returning id"""
HISTORY = "with it as ({}) insert into raw_history (type, task) select '{}', id from it returning task as id"
SPENT = """
    select round(100 * total_exec_time / sum(total_exec_time) over ())::text || ' %', calls,
        round((mean_exec_time * 1000)::numeric), left(regexp_replace(query, '\\s+', ' ', 'g'), 90)
    from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database()) and calls > 20
    order by total_exec_time desc limit 12"""


def raw_script(with_history: bool) -> str:
    steps = {"created": CREATE, "claimed": CLAIM, "completed": COMPLETE}
    lines = [HISTORY.format(sql, type) if with_history else sql for type, sql in steps.items()]
    return "".join(" ".join(line.split()) + " \\gset\n" for line in lines)


def raw(cluster: Cluster, connections: int, seconds: float, *, with_history: bool) -> float:
    """Life cycles a second."""
    name = cluster.create_database()
    cluster.sql(TABLES, name)
    script = cluster.place / "script.sql"
    script.write_text(raw_script(with_history))
    where = ["-h", str(cluster.place), "-p", str(cluster.number), "-U", "postgres"]
    load = ["-n", "-M", "prepared", "-c", str(connections), "-j", "2", "-T", str(round(seconds)), "-f", str(script)]
    done = subprocess.run([binary("pgbench"), *where, *load, name], capture_output=True, text=True, check=True)
    cluster.drop_database(name)
    found = re.search(r"tps = ([\d.]+) \(without", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@contextmanager
def servers(cluster: Cluster, count: int) -> Iterator[tuple[str, str]]:
    """The URLs of so many on a new database, and its name."""
    name = cluster.create_database()
    cluster.sql("create extension pg_stat_statements", name)
    try:
        with ExitStack() as stack:
            options = ("--port", "0", "--database", cluster.url(name), "--log-level", "warning")
            command = ("-m", "task_orchestrator", "serve", *options)
            yield ",".join(stack.enter_context(bench.serving(*command)) for _ in range(count)), name
    finally:
        cluster.drop_database(name)


def cpu_seconds(pids: Sequence[int]) -> float:
    """That these processes, and all their children, have used so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) in pids or int(fields[1]) in pids:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run(connections: Sequence[int], instances: Sequence[int], seconds: float) -> None:
    print(bench.about_this_machine())
    with postgres(settings=DURABLE) as cluster:
        print(cluster.sql("select version()"))
        for count in connections:
            plain = raw(cluster, count, seconds, with_history=False)
            told = raw(cluster, count, seconds, with_history=True)
            print(
                f"\n{count} connections{'':22}cycles/s   x raw  x with history   p50    p95    p99 ms  messages/commit"
            )
            print(f"{'  pgbench, SKIP LOCKED':36}{plain:>9,.0f}{1:>8.2f}")
            print(f"{'  pgbench, with history':36}{told:>9,.0f}{told / plain:>8.2f}{1:>16.2f}")
            for number in instances:
                show(cluster, number, count, seconds, plain, told)
        show_hand_over(cluster)


def show(cluster: Cluster, number: int, count: int, seconds: float, plain: float, told: float) -> None:
    for script in ("own directories", "one directory"):
        with servers(cluster, number) as (urls, name):
            assert cluster.process is not None
            began, used = monotonic(), cpu_seconds([cluster.process.pid])
            it = bench.measure(urls, script, count, seconds)
            share = (cpu_seconds([cluster.process.pid]) - used) / (monotonic() - began)
            spent = cluster.sql(SPENT, name)
        cycles = it["requests"] / 3
        print(
            f"{f'  {number} of ours, {script}':36}{cycles:>9,.0f}{cycles / plain:>8.2f}{cycles / told:>16.2f}", end=""
        )
        print(f"{it['p50']:>9.2f}{it['p95']:>7.2f}{it['p99']:>7.2f}{it['per_commit']:>16.1f}", end="")
        print(f"   PostgreSQL {share:.0%}, load {it['load_cpu']:.0%} of a core", flush=True)
    if number == 1:
        print("    of the database's time, calls, µs each:")
        for line in spent.splitlines():
            print("    " + "  ".join(line.split("|")))


async def hand_over(here: str, there: str) -> tuple[list[float], list[float]]:
    """Milliseconds until somebody who waits at the other server has the task: from the request that creates it, and
    from the answer to that."""
    since_asked, since_answered = [], []
    async with aiohttp.ClientSession() as session:
        for number in range(HAND_OVERS):
            directory = f"/srv/hand-over/{number}"
            claim = {"work_directory": directory, "wait_seconds": 30}
            waiting = asyncio.create_task(_post(session, f"{there}/api/v1/tasks/claim", claim))
            await asyncio.sleep(0.03)  # it is parked by then
            asked = monotonic()
            _, answered = await _post(session, f"{here}/api/v1/tasks", {"work_directory": directory, "prompt": "go"})
            claimed, had = await waiting
            assert claimed["data"]["tasks"], "nobody was woken"
            since_asked.append((had - asked) * 1000)
            since_answered.append((had - answered) * 1000)
    return sorted(since_asked), sorted(since_answered)


async def _post(session: aiohttp.ClientSession, url: str, body: object) -> tuple[Any, float]:
    async with session.post(url, json=body) as answer:
        return await answer.json(), monotonic()


def show_hand_over(cluster: Cluster) -> None:
    with servers(cluster, 2) as (urls, _):
        asked, answered = asyncio.run(hand_over(*urls.split(",")))
    print(f"\n{HAND_OVERS} hand-overs from one server to another, ms{'':8}p50    p95    p99    max")
    for what, it in (("from the request that creates", asked), ("from the answer to it", answered)):
        points = (it[round(share * (len(it) - 1))] for share in (0.5, 0.95, 0.99, 1))
        print(f"  {what:44}" + "".join(f"{point:>7.2f}" for point in points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="how long each line is measured (8)")
    parser.add_argument("--connections", default="10,100", help="how many at a time, separated by commas (10,100)")
    parser.add_argument("--instances", default="1,2,3", help="how many servers, separated by commas (1,2,3)")
    asked = parser.parse_args()
    connections, instances = ([int(it) for it in text.split(",")] for text in (asked.connections, asked.instances))
    run(connections, instances, asked.seconds)


if __name__ == "__main__":
    main()
