"""A disk that is really full: what the server then says, what it keeps, and how it goes on once there is room."""

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, until
from tests.web.test_directories import background, tell

DISK_BYTES = 3 * 2**20
MOUNT = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && echo mounted && exec cat'
OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
ENTER = ("nsenter", "--user", "--mount", "--preserve-credentials", f"--wd={Path.cwd()}")

# Where nothing may be mounted, the database may instead not grow beyond what it is, as long as there is a file `full`:
# SQLite then fails with the very same SQLITE_FULL.
LIMITED = """
import sys
from pathlib import Path
from storage.sqlite import journal as sqlite
from task_orchestrator.cli import main

full = Path(sys.argv.pop(1))

def limited(work):
    def run(db, *args):
        (pages,) = db.execute("pragma page_count").fetchone()
        db.execute(f"pragma max_page_count = {pages if full.exists() else 2**32 - 2}").fetchone()
        return work(db, *args)
    return run

sqlite.commit, sqlite.take_room = limited(sqlite.commit), limited(sqlite.take_room)
sys.exit(main())
"""


class SmallDisk:
    """A file system of a few megabytes that only those see who are started on it; it goes with its keeper."""

    def __init__(self, directory):
        command = [*OWN_MOUNTS, "sh", "-c", MOUNT, str(directory)]
        self.keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.keeper.stdout.readline() == "mounted\n"
        self.prefix = [*ENTER, f"--target={self.keeper.pid}", sys.executable, "-m", "task_orchestrator"]
        self.filling = Path(f"/proc/{self.keeper.pid}/root{directory}/filling")

    def fill(self):
        """To the last page."""
        with self.filling.open("ab", buffering=0) as file:
            for size in (2**16, 2**12):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                file.write(b"x")

    def clear(self):
        self.filling.unlink()

    def close(self):
        self.keeper.communicate(timeout=10)  # the end of its input is its own


class TightDatabase:
    """A database that may not grow."""

    def __init__(self, directory):
        self.filling = directory / "full"
        self.prefix = [sys.executable, "-c", LIMITED, str(self.filling)]

    def fill(self):
        self.filling.touch()

    def clear(self):
        self.filling.unlink()

    def close(self):
        pass


def may_mount():
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return False
    mount = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]  # is gone with the process
    return subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0


class ServerOnDisk(ServerProcess):
    def __init__(self, directory, disk, log):
        super().__init__(directory)
        self.disk, self.log = disk, log

    def start(self):
        """As any other, by another command."""
        popen, module = subprocess.Popen, [sys.executable, "-m", "task_orchestrator"]

        def start(command, **options):
            assert command[:3] == module
            return popen([*self.disk.prefix, *command[3:]], **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", start)
            return super().start()


@pytest.fixture
def server(tmp_path):
    """A server whose database has a small disk for itself."""
    directory = tmp_path / "disk"
    directory.mkdir()
    disk = SmallDisk(directory) if may_mount() else TightDatabase(directory)
    try:
        running = ServerOnDisk(directory, disk, tmp_path / "server.log").start()
        yield running
        if running.process.poll() is None:
            running.terminate()
    finally:
        disk.close()


async def create(api, directory):
    """Its answer; a prompt that needs a page or two."""
    return await api.post(TASKS, {"work_directory": directory, "prompt": "x" * 8000})


async def fill(api, server, directory):
    """Until something new is turned down: what was taken till then, and how the next one was refused."""
    server.disk.fill()
    taken = []

    async def turned_down():
        answer = await create(api, directory)
        if answer.status == 201:
            taken.append(answer.data)
        return answer if answer.status != 201 else None

    return taken, await until(turned_down)


async def health(api):
    answer = await api.get("/health")
    return answer.status, answer.json["status"], answer.json["components"]["disk"]["healthy"]


async def is_well(api):
    return await health(api) == (200, "healthy", True)


async def clear(api, server, directory):
    """Make room, and wait until something new is taken; that."""
    server.disk.clear()

    async def taken():
        answer = await create(api, directory)
        return answer if answer.status == 201 else None

    task = (await until(taken)).data
    await until(lambda: is_well(api))
    return task


def says_full(answer):
    assert answer.refused(503, "UNAVAILABLE") is not None
    assert "disk is full" in answer.json["error"]["message"]
    assert int(answer.headers["Retry-After"]) > 0


async def all_ids(api, directory):
    return {task["task_id"] for task in (await api.get(TASKS, work_directory=directory, limit=1000)).data["tasks"]}


async def test_on_a_full_disk_nothing_new_is_taken_and_the_server_says_so(server, directory):
    """However it comes; and what was taken before is there to be read."""
    async with connected(server) as api:
        before = (await create(api, directory)).data
        assert await is_well(api)
        taken, refused = await fill(api, server, directory)
        says_full(refused)
        body = {"work_directory": directory, "prompt": "x"}
        answers = await asyncio.gather(
            *(create(api, directory) for _ in range(20)),
            *(api.post(TASKS, body) for _ in range(20)),
            *(api.post(f"{TASKS}/batch", {"tasks": [body] * 10, "atomic": number % 2 == 0}) for number in range(4)),
        )
        for answer in answers:
            says_full(answer)
        assert await health(api) == (503, "unhealthy", False)
        for task in [before, *taken]:
            for verb in ("retry", "cancel"):
                assert (await api.post(f"{TASKS}/{task['task_id']}/{verb}", {})).status in (200, 409, 503)
        assert (await api.get("/health/live")).status == 200
        assert await api.show(before) == before
        assert await all_ids(api, directory) == {before["task_id"]} | {task["task_id"] for task in taken}
        assert server.process.poll() is None


async def test_whoever_holds_a_task_on_a_full_disk_still_holds_it_when_there_is_room(server, directory):
    """A report is taken or turned down, and never anything worse; also when the lease would have ended meanwhile."""
    async with connected(server) as api:
        held = [await api.claimed(f"{directory}/held", lease_seconds=1000) for _ in range(3)]
        renewed = [(await api.tell(task, "heartbeat", lease_seconds=1)).data for task in held]
        ends = max(datetime.fromisoformat(lease["lease_expires_at"]) for lease in renewed)
        await fill(api, server, directory)

        async def overdue():
            for task in held[:2]:
                answer = await api.tell(task, "heartbeat", progress={"message": "y" * 500})
                assert answer.status in (200, 503), answer
            late = await api.tell(held[2], "complete", result="z" * 5000)
            assert late.status in (200, 503), late
            assert (await create(api, directory)).status == 503
            return datetime.now(UTC) > ends

        await until(overdue)
        assert server.process.poll() is None
        await clear(api, server, directory)
        for task in held[:2]:
            assert (await api.tell(task, "heartbeat")).status == 200
        assert (await api.tell(held[0], "complete", result="done")).data["status"] == "completed"
        assert (await api.tell(held[1], "fail", error_message="no")).data["status"] == "failed"
        assert (await api.tell(held[2], "complete", result="z" * 5000)).data["status"] == "completed"
        assert [line for line in await api.life(held[0]) if line != "progress"] == ["created", "claimed", "completed"]
        assert await api.life(held[2]) == ["created", "claimed", "completed"]


async def test_when_there_is_room_again_the_server_goes_on_by_itself(server, directory):
    """What it had promised is there, also after a restart; what it had turned down is not."""
    async with connected(server) as api:
        held = await api.claimed(f"{directory}/held")
        promised = {(await create(api, directory)).data["task_id"] for _ in range(5)}
        taken, _ = await fill(api, server, directory)
        assert (await create(api, directory)).status == 503
        promised |= {task["task_id"] for task in [*taken, await clear(api, server, directory)]}
        assert await all_ids(api, directory) == promised
        assert (await api.tell(held, "heartbeat")).status == 200
    server.kill()
    server.start()
    async with connected(server) as api:
        assert await is_well(api)
        assert await all_ids(api, directory) == promised
        assert (await api.tell(held, "complete")).data["status"] == "completed"
        claimed = (await api.post(f"{TASKS}/claim", {"work_directory": directory, "limit": 100})).data["tasks"]
        assert {task["task_id"] for task in claimed} == promised


async def test_the_disk_may_get_full_again_and_again(server, directory):
    async with connected(server) as api:
        promised = set()
        for _ in range(3):
            taken, refused = await fill(api, server, directory)
            says_full(refused)
            promised |= {task["task_id"] for task in [*taken, await clear(api, server, directory)]}
        assert await all_ids(api, directory) == promised


async def test_whoever_waits_on_a_full_disk_is_served_when_there_is_room(server, directory):
    """A poll may be sent away empty-handed, a stream stays."""
    async with connected(server) as api, api.stream(f"{directory}/stream") as events:
        held = await api.claimed(f"{directory}/held")
        poll = background(api.get(f"{TASKS}/next", work_path=f"{directory}/poll", wait_seconds=10))
        await api.busy_with(2)
        await fill(api, server, directory)
        assert (await api.tell(held, "complete", result="z" * 5000)).status in (200, 503)
        await clear(api, server, directory)
        task = await api.create(f"{directory}/stream")
        assert (await events.task())["task_id"] == task["task_id"]
        assert not poll.done() or (await poll).data is None
        await api.create(f"{directory}/poll")
        if (told := (await poll).data) is None:
            told = await api.next(f"{directory}/poll")
        assert told["work_directory"] == f"{directory}/poll"


async def test_what_could_not_be_handed_out_on_a_full_disk_waits_in_its_place(server, directory):
    async with connected(server) as api:
        made = [await api.create(f"{directory}/line") for _ in range(3)]
        await fill(api, server, directory)
        claim = {"work_directory": f"{directory}/line", "claim_id": "c", "lease_seconds": 1000}
        answer = await api.post(f"{TASKS}/claim", claim)
        assert answer.status in (200, 503)
        await clear(api, server, directory)
        (first,) = (await api.post(f"{TASKS}/claim", claim)).data["tasks"]
        assert first["task_id"] == made[0]["task_id"]
        others = [await api.next(f"{directory}/line") for _ in range(2)]
        assert [task["task_id"] for task in others] == [task["task_id"] for task in made[1:]]
        assert await api.life(made[0]) == ["created", "claimed"]


async def test_what_was_settled_before_stands_when_there_is_room(server, directory):
    """Who depends on whom, and the rules of directories."""
    async with connected(server) as api:
        parent = await api.claimed(f"{directory}/parent")
        child = await api.create(f"{directory}/child", depends_on=[parent["task_id"]])
        await tell(api, f"{directory}/paused", "pause")
        await api.create(f"{directory}/paused")
        await fill(api, server, directory)
        await api.tell(parent, "complete", result="r" * 4000)
        await clear(api, server, directory)
        assert (await api.tell(parent, "complete", result="r" * 4000)).data["status"] == "completed"
        (told,) = (await api.next(f"{directory}/child", wait_seconds=10))["dependencies"]
        assert (told["status"], len(told["result"])) == ("completed", 4000)
        assert await api.status(child) == "working"
        assert await api.next(f"{directory}/paused") is None


@pytest.mark.parametrize("how", ["told to stop", "killed"])
async def test_a_server_that_ends_on_a_full_disk_has_lost_nothing(server, directory, how):
    async with connected(server) as api:
        held = await api.claimed(f"{directory}/held")
        promised, _ = await fill(api, server, directory)
        before = await all_ids(api, directory)
    if how == "killed":
        server.kill()
    else:
        assert await asyncio.to_thread(server.terminate) == 0
    server.disk.clear()
    server.start()
    async with connected(server) as api:
        assert await all_ids(api, directory) == before == {task["task_id"] for task in promised}
        assert (await api.tell(held, "complete")).data["status"] == "completed"
        assert (await create(api, directory)).status == 201
        assert await is_well(api)


async def test_a_lease_outlives_a_kill_and_a_start_on_a_full_disk(server, directory):
    """Nobody could renew it: its grace begins when there is room."""
    async with connected(server) as api:
        held = await api.claimed(f"{directory}/held", lease_seconds=0.3)
        await fill(api, server, directory)
    server.kill()
    server.disk.fill()
    server.start()
    async with connected(server) as api:
        says_full(await create(api, directory))
        await clear(api, server, directory)
        assert (await api.tell(held, "complete", result="done")).data["status"] == "completed"
        assert await api.life(held) == ["created", "claimed", "completed"]


@pytest.mark.parametrize("overdue", ["lease", "delay"])
async def test_what_falls_due_on_a_full_disk_keeps_nobody_waiting(server, directory, overdue):
    """That a lease ends or a task becomes ready can wait until there is room; callers need not."""
    async with connected(server) as api:
        held = await api.claimed(f"{directory}/held", lease_seconds=0.3 if overdue == "lease" else None)
        await api.create(f"{directory}/delayed", delay_seconds=0.3 if overdue == "delay" else 1000)
        await fill(api, server, directory)
        tired_at = asyncio.get_running_loop().time() + 1.5

        async def a_while():
            for place in ("nothing", "delayed", "held"):
                answer = await api.get(f"{TASKS}/next", work_path=f"{directory}/{place}")
                assert answer.status in (200, 503)
            assert (await api.post(f"{TASKS}/{held['task_id']}/retry", {})).status in (409, 503)
            assert (await api.call("DELETE", f"{TASKS}/{held['task_id']}")).status in (409, 503)
            assert (await api.get("/health")).status in (200, 503)
            assert (await api.get("/health/live")).status == 200
            return asyncio.get_running_loop().time() > tired_at

        async with asyncio.timeout(5):
            await until(a_while)


async def test_a_lease_that_could_not_be_renewed_is_not_lost_as_there_is_room_again(server, directory):
    """Its holder may have been told 503 for long, and needs some time to come again."""
    async with connected(server) as api:
        held = await api.claimed(f"{directory}/held", lease_seconds=0.5)
        await fill(api, server, directory)
        tired_at = asyncio.get_running_loop().time() + 1.6
        await until(lambda: asyncio.get_running_loop().time() > tired_at)
        server.disk.clear()
        await until(lambda: is_well(api))
        assert (await api.tell(held, "heartbeat")).status == 200
        assert await api.life(held) == ["created", "claimed"]


async def test_settings_change_on_a_full_disk_as_a_whole_or_not_at_all(server, directory):
    """What could not be recorded does not hold, neither for new tasks nor after a restart."""

    async def change(number):
        changes = {"task.max_task_retries": number, "task.default_task_timeout": number}
        return await api.call("PATCH", "/api/v1/config", json={"changes": changes, "reason": "x" * 500})

    async def in_force():
        config = (await api.get("/api/v1/config")).data
        settings = (
            config["settings"][f"task.{name}"]["value"] for name in ("max_task_retries", "default_task_timeout")
        )
        return config["version"], *settings

    async with connected(server) as api:
        assert (await change(1)).status == 200
        await fill(api, server, directory)
        number, answer = 1, None
        while answer is None or answer.status == 200:
            number += 1
            answer = await change(number)
        says_full(answer)
        assert await in_force() == (number - 1, number - 1, number - 1)
        task = await clear(api, server, directory)
        assert (await api.show(task))["max_retries"] == number - 1
        assert (await change(99)).data["version"] == number
    server.kill()
    server.start()
    async with connected(server) as api:
        assert await in_force() == (number, 99, 99)


async def test_many_tasks_at_once_are_changed_as_far_as_there_is_room(server, directory):
    """What does not fit is answered 503; what was done by then stays done, and the rest is done once there is room."""
    async with connected(server) as api:
        batch = [{"work_directory": directory, "prompt": "x"}] * 200
        made = (await api.post(f"{TASKS}/batch", {"tasks": batch})).data["tasks"]
        ids = [task["task_id"] for task in made]
        await fill(api, server, f"{directory}/filling")
        reason = {"reason": "y" * 500}  # it is kept in each history
        answers = [await api.post(f"{TASKS}/priority", {"ids": ids, "priority": "high", **reason}) for _ in range(5)]
        says_full(answers[-1])
        assert server.process.poll() is None
        await clear(api, server, f"{directory}/filling")
        tasks = [await api.show(task) for task in made]
        assert all((task["priority"] == "high") == (task["version"] > 1) for task in tasks)
        again = (await api.post(f"{TASKS}/priority", {"ids": ids, "priority": "high", **reason})).data
        assert (again["matched"], again["changed"]) == (200, 200)
