"""`task-orchestrator worker` against a real server, with real commands."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from task_orchestrator.display import seconds_between
from tests.client.processes import PATIENCE_SECONDS, is_gone, stat_of, until

# Tells its process group and that of a grandchild, then stays until the file `gate` is there.
GATED = """
sh -c 'echo $$ > child; exec sleep 1000' &
while [ ! -s child ]; do sleep 0.02; done
cut -d' ' -f5 /proc/$$/stat > group.new && mv group.new group
while [ ! -e gate ]; do sleep 0.02; done
echo through
"""
HEEDLESS = GATED.replace("&\n", "&\ntrap '' TERM\n", 1)  # the grandchild does heed it
DAEMON = """
setsid sh -c 'echo $$ > daemon; exec sleep 1000' &
while [ ! -s daemon ]; do sleep 0.02; done
echo done
"""


async def group_of(directory: Path) -> int:
    """The process group of the gated command, once it runs."""
    return int(await until(lambda: (directory / "group").exists() and (directory / "group").read_text()))


async def ended(client, task_id):
    return await client.get(task_id, wait_seconds=PATIENCE_SECONDS, until="terminal")


async def count(client, task_id, kind):
    return [entry["type"].removeprefix("task.") for entry in await client.history(task_id)].count(kind)


async def submit(client, directory, prompt, **fields):
    return (await client.submit(prompt, work_directory=str(directory), **fields))["task_id"]


def git(directory, *arguments):
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


async def test_the_whole_way(server, cli, worker, directory):
    """A prompt about a real checkout is submitted, run by a worker, and shown with what it printed."""
    git(directory, "init")
    for number in range(3):
        (directory / f"file{number}.txt").write_text("x")
        git(directory, "add", ".")
        git(directory, "commit", "-m", f"commit {number}")
    submitted = await cli("submit", "git log --oneline | wc -l; ls", "--work-directory", str(directory))
    running = await worker(server.url, directory, "sh", "--once")
    assert await running.exit_code() == 0
    shown = await cli("show", submitted.out.strip())
    assert shown.code == 0
    assert "completed" in shown.out
    assert shown.out.endswith("output:\n3\nfile0.txt\nfile1.txt\nfile2.txt\n")


async def test_the_command_knows_its_task(server, client, worker, directory):
    """The prompt is on standard input, to the letter; the rest is in the environment; the directory is the task's."""
    prompt = "two\n  lines, 'quotes' $HOME und Ümläute"
    parent = await submit(client, directory, "x")
    (held,) = await client.claim(work_directory=str(directory))
    await client.complete(parent, lease_token=held["lease_token"], result=1)
    task_id = await submit(client, directory, prompt, tags=["a b", "c"], priority="high", depends_on=[parent])
    running = await worker(server.url, directory, "cat; echo; pwd; env | grep ^TASK_ | sort", "--worker-id", "ann")
    task = await ended(client, task_id)
    said, _, rest = task["result"]["output"].partition(f"\n{directory}\n")
    facts = dict(line.split("=", 1) for line in rest.splitlines())
    assert said == prompt
    assert len(facts.pop("TASK_LEASE_TOKEN")) > 0
    assert facts == {
        "TASK_ID": task_id,
        "TASK_ATTEMPT": "1",
        "TASK_PRIORITY": "high",
        "TASK_TAGS": "a b,c",
        "TASK_DEPENDENCIES": parent,
        "TASK_WORK_DIRECTORY": str(directory),
        "TASK_WORKER_ID": "ann",
        "TASK_ORCHESTRATOR_URL": server.url,
    }
    assert task["result"].keys() == {"exit_code", "duration_seconds", "output", "truncated"}
    await until(lambda: running.told("completed"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo the work; echo the reason >&2; exit 3", "exit code 3\nthe reason\n--- output ---\nthe work"),
        ("echo only this; exit 4", "exit code 4\nonly this"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 5", None),
    ],
)
async def test_a_command_that_fails(server, client, worker, directory, script, message):
    """The task fails with the exit code or the signal and the end of what was said about it."""
    task_id = await submit(client, directory, script, max_retries=0)
    running = await worker(server.url, directory, "exec sh", "--once")
    assert await running.exit_code() == 1
    task = await ended(client, task_id)
    assert task["status"] == "failed"
    if message is not None:
        assert task["error_message"] == message
    else:
        assert task["error_message"] == "exit code 5\n".ljust(16 * 1024 - 3, "x") + "end"


async def test_once_takes_one(server, client, worker, directory):
    """With --once a second task is left to others."""
    first = await submit(client, directory, "echo 1")
    second = await submit(client, directory, "echo 2")
    running = await worker(server.url, directory, "sh", "--once")
    assert await running.exit_code() == 0
    assert (await client.get(first))["status"] == "completed"
    assert (await client.get(second))["status"] == "waiting"
    assert await count(client, second, "claimed") == 0


async def test_a_command_that_never_reads(server, client, worker, directory):
    """The longest prompt does no harm to a command that ignores its input."""
    task_id = await submit(client, directory, "ü" * 10_000)
    await worker(server.url, directory, "echo did not look")
    assert (await ended(client, task_id))["result"]["output"] == "did not look\n"


async def test_huge_output(server, client, worker, directory):
    """Of 300 MB of output the end is kept, and the worker's memory does not grow with it."""
    task_id = await submit(client, directory, "head -c 300000000 /dev/zero | tr '\\0' x; echo; echo end")
    running = await worker(server.url, directory)
    result = (await ended(client, task_id))["result"]
    assert result["truncated"]
    assert result["output"].endswith("xxx\nend\n")
    assert len(result["output"]) == 64 * 1024
    assert peak_mib(running.process.pid) < 150


async def test_children_left_behind(server, client, worker, directory):
    """A task ends with its command, though a child holds the pipe open; the child is stopped."""
    await worker(server.url, directory)
    task_id = await submit(client, directory, "cut -d' ' -f5 /proc/$$/stat > group; sleep 1000 & echo done")
    task = await ended(client, task_id)
    assert task["result"]["output"] == "done\n"
    assert is_gone(await group_of(directory))


async def test_a_child_that_left_the_group(server, client, worker, directory):
    """A daemon that made a session of its own and holds the pipe open does not hold up the task."""
    await worker(server.url, directory)
    task_id = await submit(client, directory, DAEMON)
    assert (await ended(client, task_id))["result"]["output"] == "done\n"
    os.kill(int((directory / "daemon").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("options", [(), ("--once",)])
async def test_lost_lease_is_noticed_by_the_heartbeat(server, client, worker, directory, options):
    """When somebody else ends our lease, the next heartbeat says so; even who ignores SIGTERM is stopped."""
    task_id = await submit(client, directory, "echo $TASK_LEASE_TOKEN > token\n" + HEEDLESS)
    running = await worker(server.url, directory, "exec sh", "--lease-seconds", "6", *options)
    group = await group_of(directory)
    token = (directory / "token").read_text().strip()
    await client.release(task_id, token, delay_seconds=600)
    await until(lambda: is_gone(group))
    await until(lambda: running.told("lost"))
    assert [event["reason"] for event in running.told("lost")] == ["released"]
    if options:
        assert await running.exit_code() == 1


async def test_a_lease_that_must_be_over(server, client, worker, directory):
    """When no heartbeat gets through for as long as the lease lasts, the command is stopped without being told."""
    running = await worker(server.url, directory, "sh", "--lease-seconds", "2")
    await submit(client, directory, GATED)
    group = await group_of(directory)
    server.kill()
    await until(lambda: is_gone(group))
    assert await until(lambda: running.told("lost"))


async def test_heartbeats_keep_a_long_task(server, client, worker, directory):
    """A command that runs longer than its lease keeps the task, and completes it once."""
    await worker(server.url, directory, "sh", "--lease-seconds", "3")
    task_id = await submit(client, directory, GATED)
    await group_of(directory)
    first = (await client.get(task_id))["lease_expires_at"]

    async def is_renewed_past_the_first():
        return seconds_between(first, (await client.get(task_id))["lease_expires_at"]) > 3

    await until(is_renewed_past_the_first)
    (directory / "gate").touch()
    assert (await ended(client, task_id))["result"]["output"] == "through\n"
    assert await count(client, task_id, "claimed") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_gives_the_task_back(server, client, worker, directory, number):
    """The command is stopped with its children, the task waits again with no retry burnt, the exit code is 0."""
    running = await worker(server.url, directory)
    task_id = await submit(client, directory, GATED)
    group = await group_of(directory)
    running.send(number)
    assert await running.exit_code() == 0
    assert is_gone(group)
    task = await client.get(task_id)
    assert (task["status"], task["retry_count"]) == ("waiting", 0)
    assert await count(client, task_id, "released") == 1


async def test_a_second_signal_does_not_wait(server, client, worker, directory):
    """A command that ignores SIGTERM is killed by the worker's second signal, before its grace is over."""
    running = await worker(server.url, directory)
    await submit(client, directory, HEEDLESS)
    group = await group_of(directory)
    running.send(signal.SIGTERM)
    await until(lambda: child_has_ended(directory))
    running.send(signal.SIGTERM)
    assert await running.exit_code() == 128 + signal.SIGTERM
    await until(lambda: is_gone(group))


async def test_the_server_goes_and_comes_back(server, client, worker, directory):
    """A task whose command ends while the server is away is completed exactly once when it is back."""
    running = await worker(server.url, directory)
    task_id = await submit(client, directory, GATED)
    group = await group_of(directory)
    server.kill()
    (directory / "gate").touch()
    await until(lambda: running.told("retrying"))
    assert is_gone(group)
    server.start()
    assert (await ended(client, task_id))["status"] == "completed"
    assert await count(client, task_id, "claimed") == 1
    assert await count(client, task_id, "completed") == 1
    again = await submit(client, directory, "echo next")
    assert (await ended(client, again))["result"]["output"] == "next\n"


async def test_a_running_command_outlives_the_server(server, client, worker, directory):
    """A restart of the server does not disturb a command whose lease lives."""
    running = await worker(server.url, directory)
    task_id = await submit(client, directory, GATED)
    group = await group_of(directory)
    server.terminate()
    await until(lambda: running.told("reconnecting"))
    assert not is_gone(group)
    server.start()
    (directory / "gate").touch()
    assert (await ended(client, task_id))["result"]["output"] == "through\n"
    assert await count(client, task_id, "claimed") == 1


async def test_concurrency(server, client, worker, directory):
    """With --concurrency 2 two commands run at a time, never three, and all tasks are done."""
    script = "echo start >> log; while [ ! -e gate ]; do sleep 0.02; done; sleep 0.1; echo end >> log"
    tasks = [await submit(client, directory, script) for _ in range(6)]
    await worker(server.url, directory, "sh", "--concurrency", "2")
    log = directory / "log"
    await until(lambda: log.exists() and log.read_text() == "start\nstart\n")
    (directory / "gate").touch()
    assert [(await ended(client, task_id))["status"] for task_id in tasks] == ["completed"] * 6
    now, most = 0, 0
    for line in log.read_text().splitlines():
        now += 1 if line == "start" else -1
        most = max(most, now)
    assert (now, most) == (0, 2)
    assert [await count(client, task_id, "claimed") for task_id in tasks] == [1] * 6


async def test_a_work_directory_that_went_away(server, client, worker, directory):
    """A task for a directory that is not there any more fails and says so."""
    running = await worker(server.url, directory)
    assert (await ended(client, await submit(client, directory, "true")))["status"] == "completed"
    directory.rmdir()
    task = await ended(client, await submit(client, directory, "true"))
    assert task["status"] == "failed"
    assert task["error_message"] == f"the work directory does not exist: {directory}"
    assert running.process.returncode is None


async def test_a_symlink_stays_as_typed(server, client, worker, directory, tmp_path):
    """The work directory is made absolute, but links in it are not resolved."""
    link = tmp_path / "link"
    link.symlink_to(directory)
    task_id = await submit(client, link, "echo through the link")
    await worker(server.url, link)
    assert (await ended(client, task_id))["status"] == "completed"


def peak_mib(process: int) -> int:
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


def child_has_ended(directory: Path) -> bool:
    """Whether SIGTERM has reached the group: the grandchild, which heeds it, is dead."""
    return stat_of(int((directory / "child").read_text()))[:1] in ([], ["Z"])
