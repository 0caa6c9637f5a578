"""How fast are servers that share a PostgreSQL, and how much of what it alone can do is that?

    .venv/bin/python scripts/bench_postgres.py [--seconds 8] [--connections 10,100] [--instances 1,2,3]

PostgreSQL is started for it, on a Unix socket in a temporary directory, durable as it comes. Against it stands what one
would write by hand, driven by pgbench without any HTTP: a table, tasks claimed with FOR UPDATE SKIP LOCKED, three
transactions a life cycle; once more with a row of history for each. Beside it stands what the three requests of a life
cycle cost if they do nothing: to the bare handler of bench.py. The floor is the time that both take, one after the
other, on these processors; who asks three times and writes what pgbench writes cannot be faster.

Then the same life cycles over HTTP, as in bench.py, of one server, of two, of three; and as a heavy user drives it:
many tasks created in one request, and claimed in one, but each completed by itself. What each life cycle costs of the
processors' time is told as well: that is true on a busy machine, too. Of one server it is told which statements took
how much of the database's time. At last: how long it takes from a creation at one server until a worker that waits at
another one has the task. Nothing is asserted.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import monotonic
from typing import Any

import aiohttp
from attrs import frozen

HAND_OVERS = 200
SCRIPTS = {  # how many requests a life cycle takes, and of how many connections at most
    "own directories": (3, 1000),
    "one directory": (3, 1000),
    "batches of 10": (1.2, 1000),
    "batches of 100": (1.02, 20),  # more would still be at their first ones when it is over
}
USERS = ("servers", "PostgreSQL", "clients")  # of the processors
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


@frozen
class Measured:
    cycles: float  # a second
    cpu: Mapping[str, float]  # what each has cost, in microseconds of the processors' time, by who has used that

    @classmethod
    def of(cls, cycles: float, **cores: float) -> "Measured":
        """Of so many processor cores, each in use by somebody."""
        return cls(cycles, {who: share / cycles * 1e6 for who, share in cores.items()})


def raw(cluster: Cluster, connections: int, seconds: float, *, with_history: bool) -> Measured:
    name = cluster.create_database()
    cluster.sql(TABLES, name)
    script = cluster.place / "script.sql"
    script.write_text(raw_script(with_history))
    where = ["-h", str(cluster.place), "-p", str(cluster.number), "-U", "postgres"]
    load = ["-n", "-M", "prepared", "-c", str(connections), "-j", "2", "-T", str(round(seconds)), "-f", str(script)]
    began, database, clients = monotonic(), cpu_seconds(cluster), children_seconds()
    done = subprocess.run([binary("pgbench"), *where, *load, name], capture_output=True, text=True, check=True)
    database, clients = cpu_seconds(cluster) - database, children_seconds() - clients
    lasted = monotonic() - began
    cluster.drop_database(name)
    found = re.search(r"tps = ([\d.]+) \(without", done.stdout)
    assert found, done.stdout + done.stderr
    return Measured.of(float(found[1]), PostgreSQL=database / lasted, clients=clients / lasted)


def bare(connections: int, seconds: float) -> Measured:
    """The three requests of a life cycle, to a server that does nothing."""
    with started(bench.__file__, "--role", "bare") as (url, pid):
        it = bench.measure(url, "bare life cycle", connections, seconds, lambda: {"servers": cpu_seconds(pid)})
    return Measured.of(it["requests"] / 3, servers=it["servers"], clients=it["load_cpu"])


@contextmanager
def started(*command: str) -> Iterator[tuple[str, int]]:
    """The URL of a server, and its process."""
    process = bench.start(*command)
    try:
        yield bench.first_line(process).split()[-1], process.pid
    finally:
        bench.stop(process)


@contextmanager
def servers(cluster: Cluster, count: int) -> Iterator[tuple[str, str, list[int]]]:
    """The URLs of so many on a new database, its name, and their processes."""
    name = cluster.create_database()
    cluster.sql("create extension pg_stat_statements", name)
    options = ("--port", "0", "--database", cluster.url(name), "--log-level", "warning")
    try:
        with ExitStack() as stack:
            ours = [stack.enter_context(started("-m", "task_orchestrator", "serve", *options)) for _ in range(count)]
            yield ",".join(url for url, _ in ours), name, [pid for _, pid in ours]
    finally:
        cluster.drop_database(name)


def cpu_seconds(*those: int | Cluster) -> float:
    """That these processes, and all their children, have used so far."""
    pids = {it if isinstance(it, int) else it.process.pid for it in those if isinstance(it, int) or it.process}
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) in pids or int(fields[1]) in pids:
            ticks += sum(map(int, fields[11:15]))  # with what those children of theirs used that have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """That all children of this process have used that have ended."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(connections: Sequence[int], instances: Sequence[int], seconds: float) -> None:
    print(bench.about_this_machine())
    with postgres(settings=DURABLE) as cluster:
        print(cluster.sql("select version()"))
        for count in connections:
            print(f"\n{f'{count} connections':33}life cycles{'times':>13}{'µs of CPU for each':>30}")
            print(f"{'':36}/second  pgbench   floor{''.join(f'{who:>12}' for who in USERS)}{'p50':>9}", end="")
            print("    p95    p99 ms  messages/commit")
            plain = raw(cluster, count, seconds, with_history=False)
            told = raw(cluster, count, seconds, with_history=True)
            nothing = bare(count, seconds)
            both = nothing.cpu | {"PostgreSQL": plain.cpu["PostgreSQL"]}
            floor = Measured(1 / (1 / nothing.cycles + 1 / plain.cycles), both)
            show("pgbench, SKIP LOCKED", plain, plain, floor)
            show("pgbench, with history", told, plain, floor)
            show("three requests, bare handler", nothing, plain, floor)
            show("the floor: those and pgbench", floor, plain, floor)
            for number in instances:
                for script in SCRIPTS:
                    measure(cluster, number, count, seconds, script, plain, floor)
        show_hand_over(cluster)


def show(what: str, it: Measured, plain: Measured, floor: Measured, end: str = "\n") -> None:
    used = "".join(f"{it.cpu[who]:>12,.0f}" if who in it.cpu else f"{'':12}" for who in USERS)
    times = f"{it.cycles / plain.cycles:>9.2f}{it.cycles / floor.cycles:>8.2f}"
    print(f"{f'  {what}':34}{it.cycles:>9,.0f}{times}{used}", end=end, flush=True)


def measure(
    cluster: Cluster, number: int, count: int, seconds: float, script: str, plain: Measured, floor: Measured
) -> None:
    def used() -> dict[str, float]:
        return {"servers": cpu_seconds(*pids), "PostgreSQL": cpu_seconds(cluster)}

    with servers(cluster, number) as (urls, name, pids):
        requests, connections = SCRIPTS[script]
        it = bench.measure(urls, script, min(count, connections), seconds, used)
        spent = cluster.sql(SPENT, name)
    cycles = it["requests"] / requests
    measured = Measured.of(cycles, servers=it["servers"], PostgreSQL=it["PostgreSQL"], clients=it["load_cpu"])
    show(f"{number} of ours, {script}", measured, plain, floor, end="")
    print(f"{it['p50']:>9.2f}{it['p95']:>7.2f}{it['p99']:>7.2f}{it['per_commit']:>16.1f}", flush=True)
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
    with servers(cluster, 2) as (urls, _, _):
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
