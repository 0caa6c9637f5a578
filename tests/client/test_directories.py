"""What operators say about work directories, and why a task does not run, from the shell and from Python."""

import pytest

from task_orchestrator import Refused


async def test_a_directory_is_paused_and_resumed(cli, client, directory):
    """Nothing is handed out in between; the reason and the end of the pause are shown."""
    path = str(directory)
    await client.submit("x", work_directory=path)
    done = await cli("pause", ".", "--reason", "freeze", "--until", "2999-01-01T00:00:00Z", cwd=directory)
    assert (done.code, done.out) == (0, f"{path} paused until 2999-01-01T00:00:00.000Z\n")
    assert await client.claim(work_directory=path) == []
    assert (await client.directories())[0]["paused_reason"] == "freeze"
    done = await cli("resume", path)
    assert (done.code, done.out) == (0, f"{path} open\n")
    assert len(await client.claim(work_directory=path)) == 1


async def test_a_directory_is_drained(cli, client, directory):
    """Nobody gets another task there."""
    path = str(directory)
    await client.submit("x", work_directory=path)
    assert (await cli("drain", path)).out == f"{path} draining\n"
    assert await client.claim(work_directory=path) == []
    assert (await cli("resume", path, "--json")).json["draining"] is False


async def test_a_directory_is_limited(cli, client, directory):
    """As many tasks as the limit says, and any number without one."""
    path = str(directory)
    await client.submit_many([{"prompt": "x", "work_directory": path}] * 5)
    assert (await cli("limit", path, "2")).out == f"{path} max_working=2\n"
    assert len(await client.claim(work_directory=path, limit=5)) == 2
    assert (await cli("limit", path)).out == f"{path} open\n"
    assert len(await client.claim(work_directory=path, limit=5)) == 3
    assert (await cli("limit", path, "0")).code == 2


async def test_directories_are_listed(cli, client, directory):
    """One line each, tab-separated where it is no terminal."""
    assert (await cli("directories")).out == ""
    await client.submit("x", work_directory=str(directory))
    line = f"1\t0\t0\t0\t0\t0\topen\t{directory}\n"
    assert (await cli("directories")).out == line
    assert (await cli("directories", "--json")).json["work_directories"][0]["waiting"] == 1


async def test_a_task_waits_for_another_and_says_so(cli, client, directory):
    """Submitted with --depends-on, it is explained by the task it waits for."""
    path = str(directory)
    parent = (await cli("submit", "first", "--work-directory", path)).out.strip()
    child = (await cli("submit", "second", "--work-directory", path, "--depends-on", parent)).out.strip()
    said = (await cli("explain", child)).out
    assert said.splitlines()[0] == f"{child} waiting"
    assert f"it waits for task {parent}, which is waiting" in said
    assert (await cli("explain", parent)).out.splitlines()[1].split() == ["position", "1"]
    assert (await cli("explain", child, "--json")).json["blocked_by"][0]["kind"] == "dependency"
    assert parent in (await cli("show", child)).out


async def test_a_batch_from_python(client, directory):
    """Tasks that name each other; one fault and there is none of them."""
    path = str(directory)
    first = {"prompt": "a", "work_directory": path, "ref": "a"}
    made = await client.submit_many([first, {"prompt": "b", "work_directory": path, "depends_on": ["ref:a"]}])
    assert [task["index"] for task in made["tasks"]] == [0, 1]
    assert (await client.get(made["tasks"][1]["task_id"]))["blocked_by"] == [made["tasks"][0]["task_id"]]
    with pytest.raises(Refused) as refused:
        await client.submit_many([first, {"prompt": "", "work_directory": path}], idempotency_key="k")
    assert refused.value.details["field"] == "tasks[1].prompt"
    assert (await client.list())["total"] == 2
