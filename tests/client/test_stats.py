"""`stats` prints what happened, and `stats rebuild` counts it once more."""

import sqlite3
from contextlib import closing

import pytest

from task_orchestrator.stats import EVENTS, _rate
from tests.client.processes import run_cli


async def live(client, path):
    await client.submit_many([{"prompt": "x", "work_directory": path}] * 3)
    for task in await client.claim(work_directory=path, limit=2):
        await client.complete(task["task_id"], lease_token=task["lease_token"])


async def test_what_happened_is_summed_up(cli, client, directory):
    await live(client, str(directory))
    done = await cli("stats", "--work-directory", ".", cwd=directory)
    assert done.code == 0, done.err
    for line in ("created         3, now 1 waiting, 2 completed", "error rate      0.00%"):
        assert line in done.out.splitlines()
    assert done.out.splitlines()[-2].split("\t") == [*EVENTS, "at"]
    assert done.out.splitlines()[-1].startswith("3\t2\t2\t0\t0\t0\t0\t0\t")
    assert (await cli("stats", "--json")).json["total"] == 3
    nothing = await cli("stats", "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z", "--bucket", "day")
    assert "created         0" in nothing.out.splitlines()
    assert (await cli("stats", "--from", "yesterday")).code == 1
    assert (await cli("stats", "--bucket", "week")).code == 2


@pytest.mark.parametrize(
    ("per_second", "said"),
    [
        *((0, "0 completed/s"), (1.2e-05, "1.04 completed/day"), (1e-06, "0.0864 completed/day")),
        *((0.0005, "1.8 completed/hour"), (0.02, "1.2 completed/min"), (1, "1 completed/s"), (0.9, "54 completed/min")),
        *((99.96, "100 completed/s"), (1234.5678, "1235 completed/s"), (1e-5 * 99, "3.56 completed/hour")),
    ],
)
def test_a_rate_is_told_in_a_unit_that_people_can_read(per_second, said):
    assert _rate(per_second) == said


async def test_the_statistics_are_rebuilt_while_no_server_runs(server, cli, client, directory):
    await live(client, str(directory))
    url = f"sqlite:///{server.database}"
    busy = await run_cli("stats", "rebuild", "--database", url)
    assert (busy.code, busy.out) == (1, "")
    assert "another server is using it" in busy.err
    assert len(busy.err.splitlines()) == 1
    before = (await cli("stats", "--json")).json
    server.terminate()
    with closing(sqlite3.connect(server.database, isolation_level=None)) as db:
        db.execute("delete from rollups")
        db.execute("delete from additions")
    done = await run_cli("stats", "rebuild", "--database", url)
    assert (done.code, done.out) == (0, f"{server.database}: rebuilt from the whole history\n")
    server.start()
    after = (await cli("stats", "--json")).json
    changing = dict.fromkeys(("from", "to", "series", "throughput_per_second"))
    assert after | changing == before | changing
    missing = await run_cli("stats", "rebuild", "--database", f"sqlite:///{directory}/none.db")
    assert (missing.code, "there is no such file" in missing.err) == (1, True)
